"""Strategies: the protocols they are called through and one folder per family of concrete classes."""
