"""Cascades: a small model answers first, a large one where it is not sure."""
