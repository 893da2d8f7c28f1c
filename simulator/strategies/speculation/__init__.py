"""Speculative decoding: who drafts, how many tokens are verified, how many are accepted."""
