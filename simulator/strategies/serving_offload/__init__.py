"""Serving with weights, cache or activations outside device memory."""
