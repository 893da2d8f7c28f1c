"""Kernels that attend a generated token to its cache, and how their grids fill a device."""
