"""Mechanism of a served deployment: router, replicas, KV blocks, iterations and what they add up to."""
