"""Where a request's prompt is computed, where it decodes, and how its keys and values get from one to the other."""
