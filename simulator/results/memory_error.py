"""How far measured peaks of training memory lie from predicted ones, and so how sure a verdict is that a plan fits.

Memory has no constants to move one by one as times have: what the ledger misses are temporaries of a framework and what
its allocator leaves unused. The error is therefore that of the published peaks that the ledger was compared with.
"""

from __future__ import annotations

import numpy as np

__all__ = ["CHANCES", "RATIOS", "fits_chance", "peak_interval"]

CHANCES = (0.01, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99)
RATIOS = (0.840, 0.905, 0.931, 0.984, 1.026, 1.091, 1.187, 1.251, 1.519)
"""Quantiles of measured over predicted peak: ``benchmarks/fits/memory_interval.py``, 634 configurations of InternEvo,
nanotron, SimuMax and Zero Bubble, of which nanotron has 530. Only runs that fitted have a measured peak."""


def peak_interval(peak: float) -> tuple[float, float]:
    """Central 80 % of what is measured where ``peak`` [B] is predicted [B]."""
    return peak * RATIOS[CHANCES.index(0.10)], peak * RATIOS[CHANCES.index(0.90)]


def fits_chance(peak: float, capacity: float) -> float:
    """Probability that a run with a predicted ``peak`` stays within ``capacity`` [both B].

    Linear between the quantiles; beyond the outer ones it is that of the outer ones, which were seen.
    """
    return float(np.interp(capacity / peak, RATIOS, CHANCES)) if peak > 0 else 1.0
