"""Batching policies: what each serving iteration computes."""
