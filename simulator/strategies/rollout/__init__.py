"""Reinforcement learning: what happens between generation and update."""
