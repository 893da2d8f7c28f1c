"""What a cost has answered the compiled loop so far; deployments of one engine, and runs one after the other, share it.

An answer is a pure function of its question, so nothing depends on who asked first. Imports no numba.
"""

from __future__ import annotations

import math

import numpy as np

from simulator.serving.compiled.layout import NONE, Floats, Ints

__all__ = ["CostTables"]

_CHUNKS = 1 << 12

MOST_CHUNKS = 1 << 18
"""Chunks that are kept from one run to the next: 16 B each for one kind of attention, and as much room again."""


class CostTables:
    """Terms of a :class:`~simulator.serving.separable.SeparableCost` by their arguments; not a number: not asked yet.

    Attributes
    ----------
    token_seconds, row_seconds, decode_seconds
        By tokens, by sequences, and (token-wise, attention) by decoding sequences [s].
    chunk_keys, chunk_seconds
        Open-addressed table of chunks, and seconds of each kind of attention [s].
    chunks
        Chunks in it.
    """

    def __init__(self, kinds: int) -> None:
        self.token_seconds: Floats = np.zeros(0)
        self.row_seconds: Floats = np.zeros(0)
        self.decode_seconds: Floats = np.zeros((0, 2))
        self.chunk_keys: Ints = np.full(_CHUNKS, NONE, dtype=np.int64)
        self.chunk_seconds: Floats = np.zeros((_CHUNKS, kinds))
        self.chunks = 0

    def reach(self, tokens: int, sequences: int) -> None:
        """Room for iterations of so many tokens and sequences."""
        self.token_seconds = _longer(self.token_seconds, tokens + 1)
        self.row_seconds = _longer(self.row_seconds, sequences + 1)
        self.decode_seconds = _longer(self.decode_seconds, sequences + 1)


def _longer(known: Floats, size: int) -> Floats:
    if len(known) >= size:
        return known
    found = np.full((size, *known.shape[1:]), math.nan)
    found[: len(known)] = known
    return found
