"""Kernels that do the work of several neighbours."""
