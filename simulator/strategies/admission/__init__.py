"""Admission policies: which requests are refused on arrival."""
