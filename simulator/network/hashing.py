"""The hash by which a connection picks one of its equal-cost ways (ECMP), for one and for many."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["ecmp_hash", "ecmp_hashes"]

_MASK = (1 << 64) - 1


def ecmp_hash(*values: int) -> int:
    """A 64-bit hash that is the same in every process (SplitMix64, Steele et al., OOPSLA 2014)."""
    state = 0
    for value in values:
        state = (state ^ (value & _MASK)) + 0x9E3779B97F4A7C15 & _MASK
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state


def ecmp_hashes(*columns: NDArray[np.int64] | int) -> NDArray[np.uint64]:
    """:func:`ecmp_hash` of every row."""
    rows = np.broadcast_arrays(*(np.asarray(column, np.int64).astype(np.uint64) for column in columns))
    state = np.zeros(rows[0].shape, np.uint64)
    for row in rows:
        state = (state ^ row) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return state
