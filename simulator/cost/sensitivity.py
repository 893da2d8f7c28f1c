"""Intervals: how far a result moves when the constants it rests on move."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from simulator.constants import Constant, ConstantSet, Trust
from simulator.results.estimate import Interval

__all__ = ["Z80", "by_trust", "interval"]

Z80 = 1.2815515655446004
"""Standard normal quantile of 90 %: p10 and p90 lie this many standard deviations away."""

LEAST_FACTOR = 0.1
"""A constant with a sigma near 1 or above is not moved to 0, where a share of a rate has no meaning."""


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
        Every constant is moved by one sigma up and down; what raises the value adds in quadrature to the upper side,
        what lowers it to the lower side, so that a kink (a host-bound layer) on one side does not widen the other:
        value·(1 + 1.2816·√Σδ₊²) and value·(1 − 1.2816·√Σδ₋²), never below zero. ``sensitivity`` holds the change for
        one sigma up, by id.
    """
    value = evaluate({})
    shares: dict[str, float] = {}
    above = below = 0.0
    if value > 0 and math.isfinite(value):
        for name in dict.fromkeys(used):
            sigma = constants.entries[name].sigma
            if sigma <= 0:
                continue
            up = evaluate({name: 1.0 + sigma}) / value - 1.0
            down = evaluate({name: max(LEAST_FACTOR, 1.0 - sigma)}) / value - 1.0
            shares[name] = up
            above += max(up, down, 0.0) ** 2
            below += max(-up, -down, 0.0) ** 2
    return Interval(max(0.0, value * (1 - Z80 * math.sqrt(below))), value * (1 + Z80 * math.sqrt(above)), shares)


STEP = 1e-3
"""By which constants are moved to see how much of a time hangs on each."""


def by_trust(evaluate: Callable[[Mapping[str, float]], float], constants: Iterable[Constant]) -> dict[Trust, float]:
    """A time by trust of the constants it rests on; the parts sum to ``evaluate({})``.

    Each constant has the share of its elasticity |∂ ln t / ∂ ln c| among all: a launch that is a tenth of a kernel does
    not make the kernel as uncertain as the launch. Where none moves the time, all have equal shares.
    """
    known = list(constants)
    value = evaluate({})
    if not known or not value:
        return {Trust.MEASURED: value} if value else {}
    if len({c.trust for c in known}) == 1:
        return {known[0].trust: value}
    moved = {c.id: abs(evaluate({c.id: 1.0 + STEP}) - value) for c in known}
    whole = sum(moved.values())
    found: dict[Trust, float] = {}
    for constant in known:
        share = moved[constant.id] / whole if whole else 1.0 / len(known)
        if share:
            found[constant.trust] = found.get(constant.trust, 0.0) + share * value
    return found
