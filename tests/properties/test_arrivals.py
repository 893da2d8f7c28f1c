"""Properties of generated requests: order, determinism, independence of streams, and moments by theory."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.workload.requests import (
    ArrivalSpec,
    Deterministic,
    Diurnal,
    Fixed,
    Gamma,
    LengthSpec,
    LogNormal,
    Mixture,
    OnOff,
    Poisson,
    Quantiles,
    RequestTable,
    Uniform,
    generate_requests,
)
from simulator.workload.requests.readers.servegen import client_times
from simulator.workload.requests.readers.servegen_files import Window

rates = st.floats(0.01, 500)
seeds = st.integers(0, 2**32)
laws = st.one_of(
    st.builds(Poisson, rates),
    st.builds(Gamma, rates, st.floats(0.2, 6)),
    st.builds(Deterministic, rates),
    st.builds(OnOff, rates, st.floats(0.1, 30), st.floats(0.1, 30), st.sampled_from(["exponential", "fixed"])),
    st.builds(Diurnal, rates, st.just(tuple(range(1, 25))), st.floats(0.5, 3), st.floats(0, 23.9)),
)
lengths = st.one_of(
    st.builds(Fixed, st.integers(1, 5000)),
    st.builds(lambda low, more: Uniform(low, low + more), st.integers(1, 500), st.integers(0, 500)),
    st.builds(LogNormal, st.floats(1, 5000), st.floats(0, 2), st.just(1), st.integers(1, 20000)),
    st.just(Quantiles((0, 50, 90, 100), (1, 30, 900, 4000))),
    st.just(Mixture((0.7, 0.3), (Fixed(10), LogNormal(500, 0.5)))),
)


@given(laws, lengths, lengths, st.integers(1, 300), seeds)
def test_arrivals_ascend_and_a_seed_fixes_everything(
    law: ArrivalSpec, inputs: LengthSpec, outputs: LengthSpec, count: int, seed: int
) -> None:
    one, two = (generate_requests(law, inputs, outputs, count=count, seed=seed) for _ in range(2))
    assert len(one) == count
    assert one.arrival[0] >= 0 and (np.diff(one.arrival) >= 0).all()
    assert min(one.input_tokens.min(), one.output_tokens.min()) >= 1
    for column in ("arrival", "input_tokens", "output_tokens"):
        assert np.array_equal(getattr(one, column), getattr(two, column))


@given(laws, lengths, lengths, seeds)
def test_changing_one_law_moves_nothing_else(law: ArrivalSpec, one: LengthSpec, other: LengthSpec, seed: int) -> None:
    before = generate_requests(law, one, one, count=50, seed=seed)
    after = generate_requests(law, one, other, count=50, seed=seed)
    assert np.array_equal(before.arrival, after.arrival)
    assert np.array_equal(before.input_tokens, after.input_tokens)


@given(laws, lengths, st.integers(1, 200), st.integers(0, 200), seeds)
def test_more_requests_only_append(law: ArrivalSpec, length: LengthSpec, few: int, more: int, seed: int) -> None:
    short = generate_requests(law, length, length, count=few, seed=seed)
    long = generate_requests(law, length, length, count=few + more, seed=seed)
    assert np.array_equal(short.arrival, long.arrival[:few])
    assert np.array_equal(short.input_tokens, long.input_tokens[:few])


@given(laws, seeds, st.floats(0.1, 100))
def test_a_duration_ends_the_same_arrivals(law: ArrivalSpec, seed: int, share: float) -> None:
    duration = share * 20 / law.mean_rate
    timed = generate_requests(law, Fixed(1), Fixed(1), duration=duration, count=500, seed=seed)
    counted = generate_requests(law, Fixed(1), Fixed(1), count=500, seed=seed)
    expected = counted.arrival[counted.arrival < duration]
    assert np.array_equal(timed.arrival, expected)


@given(laws, lengths, seeds, st.floats(0.001, 1000))
def test_rate_scaling_keeps_lengths_and_shape(law: ArrivalSpec, length: LengthSpec, seed: int, rate: float) -> None:
    table = generate_requests(law, length, length, count=60, seed=seed)
    scaled = table.with_rate(rate)
    assert scaled.rate == pytest.approx(rate)
    assert np.array_equal(scaled.input_tokens, table.input_tokens)
    assert scaled.statistics()["arrival_cv"] == pytest.approx(table.statistics()["arrival_cv"], abs=1e-9)
    assert len(scaled.provenance.transforms) == len(table.provenance.transforms) + 1


@given(laws, st.floats(0.01, 100))
def test_a_law_at_another_rate_has_that_rate(law: ArrivalSpec, rate: float) -> None:
    assert law.with_rate(rate).mean_rate == pytest.approx(rate)


@given(laws, seeds, st.integers(0, 40), st.integers(1, 40))
def test_windows_partition_the_requests(law: ArrivalSpec, seed: int, first: int, more: int) -> None:
    table = generate_requests(law, Fixed(1), Fixed(1), count=80, seed=seed)
    cuts = [0.0, float(table.arrival[first]), float(table.arrival[min(first + more, 79)]), float(table.arrival[-1]) + 1]
    parts = [table.window(a, b) for a, b in pairwise(cuts) if b > a]
    assert sum(map(len, parts)) == len(table)


# Moments. A mean of n values with standard deviation s is off by 4.9 s/√n once in a million.


@given(st.floats(0.1, 50), seeds)
@settings(max_examples=20, deadline=None)
def test_poisson_counts_have_the_mean_and_variance_of_theory(rate: float, seed: int) -> None:
    n = 20_000
    table = generate_requests(Poisson(rate), Fixed(1), Fixed(1), count=n, seed=seed)
    gaps = np.diff(table.arrival, prepend=0.0)
    assert abs(gaps.mean() * rate - 1) < 4.9 / math.sqrt(n)
    counts = np.histogram(table.arrival, bins=200, range=(0, float(table.arrival[-1])))[0]
    # The index of dispersion of m Poisson counts has standard deviation √(2/(m − 1)).
    assert abs(counts.var(ddof=1) / counts.mean() - 1) < 6 * math.sqrt(2 / 199)


@given(st.floats(0.1, 50), st.floats(0.3, 3), seeds)
@settings(max_examples=20, deadline=None)
def test_gamma_gaps_have_the_mean_and_cv_of_theory(rate: float, cv: float, seed: int) -> None:
    n = 40_000
    table = generate_requests(Gamma(rate, cv), Fixed(1), Fixed(1), count=n + 1, seed=seed)
    gaps = np.diff(table.arrival) * rate
    assert abs(gaps.mean() - 1) < 4.9 * cv / math.sqrt(n)
    # Variance of the sample variance: (μ4 − σ⁴)/n with μ4 = σ⁴ (3 + 6 cv²) for a gamma variable.
    assert abs(gaps.var() / cv**2 - 1) < 6 * math.sqrt((2 + 6 * cv**2) / n)


@pytest.mark.parametrize("cv", [0.5, 1.0, 4.0])
def test_stationary_start_gives_rate_times_time(cv: float) -> None:
    """A process that began with a full gap would be (cv² − 1)/2 requests off: 7.5 for cv 4."""
    runs, mean = 4000, 5.0
    law = Gamma(1.0, cv)
    counts = [len(law.sample(np.random.default_rng(i), mean)) for i in range(runs)]
    assert abs(np.mean(counts) - mean) < 4.9 * np.std(counts) / math.sqrt(runs)


@pytest.mark.parametrize("family", ["Gamma", "Weibull"])
def test_client_windows_give_their_expected_count(family: str) -> None:
    """Also across windows of different rate and shape, and through a silent one."""
    windows = [
        Window(0, 600, 0.01, family, 0.4),
        Window(600, 1200, 0.0, "", 0.0),
        Window(1200, 1800, 0.02, family, 0.8),
    ]
    runs = 3000
    counts = np.array(
        [
            np.histogram(client_times(windows, 0, 1800, 1.0, np.random.default_rng(i)), bins=[0, 600, 1200, 1800])[0]
            for i in range(runs)
        ]
    )
    assert counts[:, 1].sum() == 0
    error = 4.9 * counts.std(axis=0) / math.sqrt(runs)
    assert abs(counts[:, 0].mean() - 6.0) < error[0]
    assert abs(counts[:, 2].mean() - 12.0) < error[2]


def test_interrupted_poisson_has_the_closed_form_cv() -> None:
    law = OnOff(burst_rate=20.0, on_duration=1.0, off_duration=3.0)
    assert law.cv == pytest.approx(math.sqrt(1 + 2 * 20 * 1 * (3 / 4) ** 2))
    statistics = generate_requests(law, Fixed(1), Fixed(1), count=400_000, seed=5).statistics()
    assert statistics["rate"] == pytest.approx(5.0, rel=0.04)
    assert statistics["arrival_cv"] == pytest.approx(law.cv, rel=0.04)


def test_fixed_bursts_are_silent_in_between() -> None:
    law = OnOff(50.0, 2.0, 8.0, durations="fixed")
    table = generate_requests(law, Fixed(1), Fixed(1), duration=1000.0, seed=1)
    assert (table.arrival % 10 < 2).all()
    assert abs(len(table) - 10_000) < 4.9 * 100


def test_diurnal_follows_its_hours() -> None:
    hourly = tuple([0.0] * 8 + [3.0] * 4 + [1.0] * 12)
    law = Diurnal(rate=2.0, hourly=hourly, start_hour=6.0)
    table = generate_requests(law, Fixed(1), Fixed(1), duration=10 * 86400, seed=2)
    hours = (table.arrival / 3600 + 6.0) % 24
    counts = np.histogram(hours, bins=np.arange(25))[0]
    expected = np.array(hourly) / sum(hourly) * 2.0 * 10 * 86400
    assert (counts[:8] == 0).all()
    assert (np.abs(counts - expected) <= 5 * np.sqrt(expected)).all()
    assert float(law.expected(86400.0)) == pytest.approx(2.0 * 86400)


@given(st.floats(5, 3000), st.floats(0.05, 1.5), st.integers(50, 10_000), seeds)
@settings(max_examples=30, deadline=None)
def test_clipped_lognormal_mean_is_its_closed_form(median: float, sigma: float, cap: int, seed: int) -> None:
    law, n = LogNormal(median, sigma, max=cap), 20_000
    sample = law.sample(np.random.default_rng(seed), n)
    assert sample.max() <= cap
    assert abs(sample.mean() - law.mean()) < 6 * sample.std() / math.sqrt(n) + 0.5  # half a token of rounding


@given(st.lists(st.integers(1, 5000), min_size=30, max_size=300), seeds)
@settings(max_examples=20, deadline=None)
def test_quantile_law_returns_the_quantiles_it_was_given(values: list[int], seed: int) -> None:
    law, n = Quantiles.from_values(values), 20_000
    sample = law.sample(np.random.default_rng(seed), n)
    assert values and min(values) <= sample.min() and sample.max() <= max(values)
    for level, tokens in zip(law.levels, law.tokens, strict=True):
        below = (sample < tokens - 1).mean()
        at_most = (sample <= tokens + 1).mean()
        margin = 6 * math.sqrt(0.25 / n)
        assert below - margin <= level / 100 <= at_most + margin
    assert abs(sample.mean() - law.mean()) < 6 * sample.std() / math.sqrt(n) + 0.5


def test_from_mean_and_median_meets_both() -> None:
    law = LogNormal.from_mean_and_median(2048, 1469, max=7437)
    assert law.mean() == pytest.approx(2048, rel=2e-3)
    assert law.median == 1469
    assert LogNormal.from_mean(700, 0.9).mean() == pytest.approx(700, rel=1e-6)


def test_head_keeps_parents_of_rows_that_stay() -> None:
    table = generate_requests(Poisson(1.0), Fixed(1), Fixed(1), count=6)
    chained = RequestTable(
        table.arrival,
        table.input_tokens,
        table.output_tokens,
        "chain",
        table.provenance,
        parent=np.array([-1, 0, 1, -1, 3, 4]),
    )
    cut = chained.window(float(table.arrival[1]), float(table.arrival[-1]))
    assert cut.parent is not None
    assert cut.parent.tolist() == [-1, 0, -1, 2]
