"""Predicted output lengths with a stated error, the same whenever asked."""

from __future__ import annotations

import math
from statistics import NormalDist

from simulator.strategies.protocols import RequestState

__all__ = ["LengthPredictor"]

_NORMAL = NormalDist()


class LengthPredictor:
    """The true output length times a lognormal error: exp(σ·z), z standard normal, drawn from the request's number.

    Parameters
    ----------
    error
        σ of the logarithm: 0 is an oracle, 0.5 is wrong by a factor of 1.4 in the median.
    seed
        Another seed is another predictor of the same quality.
    """

    def __init__(self, error: float = 0.0, seed: int = 0) -> None:
        self.error = error
        self.seed = seed

    def output_tokens(self, request: RequestState) -> int:
        """Predicted output length, at least 1 [tokens]."""
        if self.error == 0.0:
            return request.output_tokens
        z = _NORMAL.inv_cdf(_uniform(request.index * 0x9E3779B97F4A7C15 + self.seed))
        return max(1, round(request.output_tokens * math.exp(self.error * z)))


def _uniform(state: int) -> float:
    """A number of (0, 1) from ``state``: the finaliser of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014)."""
    mask = (1 << 64) - 1
    z = (state + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return ((z ^ (z >> 31)) + 0.5) / 2**64
