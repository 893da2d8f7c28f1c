"""Intervals of failures against closed forms, an independent simulation, and limiting cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import gamma, nbinom, norm, poisson

from simulator.errors import ConfigError
from simulator.workload.failures import load_failures, read_failures
from simulator.workload.failures.uncertainty import BETWEEN_SITES, count_interval, rate_interval


def test_a_known_rate_leaves_only_chance() -> None:
    for mean in (0.3, 4.0, 419.0):
        expected = tuple(int(poisson.ppf(p, mean)) for p in (0.1, 0.9))
        assert count_interval(mean, math.inf) == expected
    assert rate_interval(math.inf) == (1.0, 1.0)


def test_a_counted_rate_is_gamma_and_its_counts_negative_binomial() -> None:
    low, high = rate_interval(10.0)
    assert (low, high) == pytest.approx(tuple(gamma.ppf([0.1, 0.9], 10.5, scale=1 / 10.5)), rel=1e-9)
    expected = tuple(int(nbinom.ppf(p, 10.5, 10.5 / (10.5 + 30.0))) for p in (0.1, 0.9))
    assert count_interval(30.0, 10.0) == expected


def test_another_site_is_lognormal_where_the_rate_is_known() -> None:
    low, high = rate_interval(math.inf, 2.0)
    z = float(norm.ppf(0.9))
    assert (low, high) == pytest.approx((2.0**-z, 2.0**z), rel=0.02)
    assert low * high == pytest.approx(1.0, rel=1e-9)


def test_intervals_hold_what_is_drawn() -> None:
    """Sites, rates and counts drawn one after the other: 80 % of the counts lie inside, up to whole numbers."""
    random = np.random.Generator(np.random.PCG64(3))
    draws, mean, observed, spread = 40_000, 60.0, 25.0, 1.9
    rate = random.gamma(observed + 0.5, 1 / (observed + 0.5), draws) * spread ** random.standard_normal(draws)
    counts = random.poisson(mean * rate)
    low, high = count_interval(mean, observed, spread)
    assert ((counts >= low) & (counts <= high)).mean() == pytest.approx(0.8, abs=0.02)


def test_more_failures_behind_a_rate_narrow_it_and_none_leave_it_open() -> None:
    widths = [high - low for low, high in (rate_interval(n) for n in (1.0, 10.0, 1000.0))]
    assert widths == sorted(widths, reverse=True)
    assert count_interval(0.0, 5.0) == (0, 0)
    with pytest.raises(ValueError, match="no interval"):
        rate_interval(-1.0)


def test_records_say_what_their_rates_rest_on() -> None:
    assert load_failures("stepfun-2024").observed == 584
    assert load_failures("llama3-2024").observed == 466
    assert load_failures("stepfun-2024").site_spread == BETWEEN_SITES
    own = read_failures({"record": "stepfun-2024", "mtbf": {"fault": "100 d"}})
    assert (own.observed, own.site_spread) == (math.inf, 1.0)
    counted = read_failures({"counts": {"gpu": 9}, "observed": {"window": "10 d", "accelerators": 64}})
    assert (counted.observed, counted.site_spread) == (9.0, 1.0)
    with pytest.raises(ConfigError, match="failures"):
        read_failures({"mtbf": "10 d", "observed": {"failures": -3}})
