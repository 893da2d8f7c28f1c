"""Precision passes: the type of every tensor class and of the arithmetic."""
