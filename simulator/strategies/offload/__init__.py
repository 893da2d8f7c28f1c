"""Offload strategies: which tensors live outside the device's memory, and the copies that move them."""
