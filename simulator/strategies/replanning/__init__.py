"""Parallel plans of a fleet whose machines come and go."""
