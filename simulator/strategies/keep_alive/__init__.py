"""How long containers of functions stay warm."""
