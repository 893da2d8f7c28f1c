"""Seconds, never asserted: what is fast, what is slow, and what a change did to it."""
