"""The replica loop of the plain case over flat arrays, compiled by numba; the loop of objects is its reference."""
