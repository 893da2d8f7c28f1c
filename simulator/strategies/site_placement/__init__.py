"""Which site runs a call."""
