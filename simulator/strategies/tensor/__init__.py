"""Partition passes: how tensors and Ops are cut over mesh axes inside a layer."""
