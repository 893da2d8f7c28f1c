"""Placement: on which nodes a gang runs."""
