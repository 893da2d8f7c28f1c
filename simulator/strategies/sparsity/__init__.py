"""Sparsity of served models: weights that are not read, context that is not attended."""
