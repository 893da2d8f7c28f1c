"""Recomputation passes: which activations are kept and which are computed again in the backward."""
