"""Intervals: how far a result moves when the constants it rests on move."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from simulator.constants import Constant, ConstantSet, Trust
from simulator.results.estimate import Interval

__all__ = ["Z80", "by_trust", "interval"]

Z80 = 1.2815515655446004
"""Standard normal quantile of 90 %: p10 and p90 lie this many standard deviations away."""

LEAST_FACTOR = 0.1
"""A constant with a sigma near 1 or above is not moved to 0, where a share of a rate has no meaning."""


def interval(evaluate: Callable[[Mapping[str, float]], float], constants: ConstantSet, used: Iterable[str]) -> Interval:
    """Central 80 % interval of ``evaluate({})`` under normal errors of the constants, to first order.

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
        one sigma up, by id. Constants that were learnt together move together: a column of the Cholesky factor of
        their covariance takes the place of one of them.
    """
    value = evaluate({})
    shares: dict[str, float] = {}
    above = below = 0.0
    if value > 0 and math.isfinite(value):
        for name, higher, lower in _moves([constants.entries[name] for name in dict.fromkeys(used)]):
            up = evaluate(higher) / value - 1.0
            down = evaluate(lower) / value - 1.0
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


def _moves(used: Sequence[Constant]) -> Iterator[tuple[str, dict[str, float], dict[str, float]]]:
    """Id, factors one sigma up, and one sigma down, of every direction in which the constants are uncertain."""
    known = {c.id for c in used}
    joint = {i for c in used for other, _ in c.correlated if other in known for i in (c.id, other)}
    for constant in used:
        if constant.sigma > 0 and constant.id not in joint:
            up, down = 1.0 + constant.sigma, max(LEAST_FACTOR, 1.0 - constant.sigma)
            yield constant.id, {constant.id: up}, {constant.id: down}
    together = sorted((c for c in used if c.id in joint), key=lambda c: c.id)
    if together:
        yield from _joint_moves(together)


def _joint_moves(together: Sequence[Constant]) -> Iterator[tuple[str, dict[str, float], dict[str, float]]]:
    import numpy as np

    place = {c.id: index for index, c in enumerate(together)}
    correlation = np.eye(len(together))
    for constant in together:
        for other, share in constant.correlated:
            if other in place:
                correlation[place[constant.id], place[other]] = correlation[place[other], place[constant.id]] = share
    # Written correlations are rounded: a small ridge keeps them a covariance.
    least = float(np.linalg.eigvalsh(correlation)[0])
    correlation = (correlation + max(0.0, 1e-6 - least) * np.eye(len(together))) / (1 + max(0.0, 1e-6 - least))
    factor = np.diag([c.sigma for c in together]) @ np.linalg.cholesky(correlation)
    for constant, column in zip(together, factor.T, strict=True):
        logs = {other.id: float(x) for other, x in zip(together, column, strict=True) if x}
        yield constant.id, {i: math.exp(x) for i, x in logs.items()}, {i: math.exp(-x) for i, x in logs.items()}
