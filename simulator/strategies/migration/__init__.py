"""Which running requests go on on another replica, and when."""
