"""How far a number of failures can be foretold: what is not known of the rate, of the site, and what is chance.

A rate that rests on n counted failures is Gamma(n + 1/2) over its mean (Jeffreys' prior for a Poisson process).
Another site has another rate: its ratio to the recorded one is lognormal. Given the rate, counts are Poisson. Bursts,
which make counts vary more than that, are not in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["BETWEEN_SITES", "SITE_SPREAD", "count_interval", "rate_interval"]

SITE_SPREAD = 1.9
"""Geometric standard deviation of failures per node and day over eight published clusters: 3.79 per 1,000 (Llama 3),
4.23 (StepFun), 6.5 and 2.34 (Meta RSC-1 and RSC-2), 2.98 (BLOOM), 16.1 (OPT), 4.29 (Imbue), 2.3 (FT-HSDP)."""

BETWEEN_SITES = SITE_SPREAD ** math.sqrt(2)
"""The same of the ratio of two sites: what is answered with another site's rates is off by 2.5 in one case of three."""

_SITES = 201
"""Equally probable sites that the lognormal law is put on."""


def rate_interval(observed: float, spread: float = 1.0, share: float = 0.8) -> tuple[float, float]:
    """Ends of the central interval of a rate over its mean.

    Parameters
    ----------
    observed
        Failures that the mean was counted from; infinite: it is known.
    spread
        Geometric standard deviation of what another site's rate is over the recorded one; 1: it is this site's.
    share
        Probability that the interval holds.

    Raises
    ------
    ValueError
        If there is no such number of failures, spread or share.
    """
    _check(observed, spread, share)
    sites = _sites(spread)
    if math.isinf(observed):
        low, high = np.quantile(sites, [(1 - share) / 2, (1 + share) / 2]).tolist()
        return low, high
    from scipy.stats import gamma

    a = observed + 0.5

    def below(factor: float) -> float:
        return float(gamma.cdf(factor / sites * a, a).mean())

    return _solve(below, (1 - share) / 2), _solve(below, (1 + share) / 2)


def count_interval(mean: float, observed: float, spread: float = 1.0, share: float = 0.8) -> tuple[int, int]:
    """Smallest and largest number of failures of the central interval where ``mean`` are expected.

    Parameters
    ----------
    observed, spread, share
        As of :func:`rate_interval`.
    """
    _check(observed, spread, share)
    if mean <= 0:
        return 0, 0
    from scipy.stats import nbinom, poisson

    means = mean * _sites(spread)
    a = observed + 0.5

    def below(count: int) -> float:
        if math.isinf(observed):
            return float(poisson.cdf(count, means).mean())
        return float(nbinom.cdf(count, a, a / (a + means)).mean())

    return _smallest(below, (1 - share) / 2, mean), _smallest(below, (1 + share) / 2, mean)


def _check(observed: float, spread: float, share: float) -> None:
    if not (observed >= 0 and spread >= 1 and 0 < share < 1):
        raise ValueError(f"no interval of {share} from {observed} failures and a spread of {spread}")


def _sites(spread: float) -> NDArray[np.float64]:
    if spread == 1.0:
        return np.ones(1)
    from scipy.stats import norm

    found: NDArray[np.float64] = spread ** norm.ppf((np.arange(_SITES) + 0.5) / _SITES)
    return found


def _solve(below: Callable[[float], float], share: float) -> float:
    low, high = 0.0, 1.0
    while below(high) < share:
        high *= 2.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) < share else (low, middle)
    return high


def _smallest(below: Callable[[int], float], share: float, start: float) -> int:
    """The smallest count that is not exceeded with probability ``share``."""
    low, high = -1, max(1, math.ceil(start))
    while below(high) < share:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if below(middle) < share else (low, middle)
    return high
