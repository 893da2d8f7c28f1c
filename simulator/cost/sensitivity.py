"""Intervals: how far a result moves when the constants it rests on move."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from simulator.constants import ConstantSet
from simulator.results.estimate import Interval

__all__ = ["Z80", "interval"]

Z80 = 1.2815515655446004
"""Standard normal quantile of 90 %: p10 and p90 lie this many standard deviations away."""


def interval(evaluate: Callable[[Mapping[str, float]], float], constants: ConstantSet, used: Iterable[str]) -> Interval:
    """Central 80 % interval of ``evaluate({})`` under independent normal errors of the constants, to first order.

    Parameters
    ----------
    evaluate
        The result when the constants in the given mapping (id → factor) are scaled.
    constants
        Where the ids are found, with their relative sigmas.
    used
        Ids that the result rests on; each is moved once by one sigma, however often it is named.

    Returns
    -------
    Interval
        value·(1 ± 1.2816·√Σδ²), never below zero, with δ by id.
    """
    value = evaluate({})
    shares: dict[str, float] = {}
    if value > 0 and math.isfinite(value):
        for name in dict.fromkeys(used):
            sigma = constants.entries[name].sigma
            if sigma > 0:
                shares[name] = evaluate({name: 1.0 + sigma}) / value - 1.0
    spread = Z80 * math.sqrt(sum(delta**2 for delta in shares.values()))
    return Interval(max(0.0, value * (1 - spread)), value * (1 + spread), shares)
