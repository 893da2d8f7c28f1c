"""AlpaServe's queueing formulas, and its simulation against them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from simulator.strategies.model_scheduling.alpaserve import AlpaServe, Group, mean_latency, serve_groups
from simulator.strategies.model_scheduling.base import ModelProfile, Query

TWO = [ModelProfile("a", 0.0, 0.4, 1.0), ModelProfile("b", 0.0, 0.4, 1.0)]


def poisson(rate: float, size: int, seed: int = 1, slack: float = math.inf, models: int = 2) -> list[Query]:
    rng = np.random.Generator(np.random.PCG64(seed))
    times = np.cumsum(rng.exponential(1 / rate, size)).tolist()
    chosen = rng.integers(models, size=size).tolist()
    return [Query(i, m, t, t + slack) for i, (t, m) in enumerate(zip(times, chosen, strict=True))]


def mean(queries: list[Query], groups: list[Group]) -> float:
    ends = serve_groups(queries, TWO, groups)
    return float(np.mean([end - q.arrival for end, q in zip(ends, queries, strict=True)]))


def test_the_published_example() -> None:
    """Two models, 1.5 requests/s each, 0.4 s, no overhead (catalogue §12): 0.700 s apart, 0.550 s over two stages."""
    assert mean_latency(1.5, 0.4) == pytest.approx(0.700)
    assert mean_latency(3.0, 0.4, 0.2) == pytest.approx(0.550)


def test_simulated_groups_agree_with_m_d_1() -> None:
    queries = poisson(3.0, 60_000)
    assert mean(queries, [Group(1, (0,)), Group(1, (1,))]) == pytest.approx(0.700, rel=0.03)
    assert mean(queries, [Group(2, (0, 1))]) == pytest.approx(0.550, rel=0.03)


def test_overhead_decides_whether_sharing_pays() -> None:
    """With overhead o: D_s = 0.4(1 + o), D_m = D_s/2. Equal to 0.700 s apart at some o > 0, worse beyond."""
    queries = poisson(3.0, 40_000, seed=2)
    for overhead in (0.1, 0.3):
        whole = 0.4 * (1 + overhead)
        expected = mean_latency(3.0, whole, whole / 2)
        assert mean(queries, [Group(2, (0, 1), overhead)]) == pytest.approx(expected, rel=0.05)
    assert mean_latency(3.0, 0.44, 0.22) < 0.7 < mean_latency(3.0, 0.52, 0.26)


def test_what_cannot_end_in_time_is_refused_on_arrival() -> None:
    """Three at once on one device, 0.4 s each, 0.9 s allowed: the third would take 1.2 s."""
    queries = [Query(i, 0, 0.0, 0.9) for i in range(3)]
    ends = serve_groups(queries, TWO, [Group(1, (0, 1))])
    assert ends[:2] == pytest.approx([0.4, 0.8]) and math.isnan(ends[2])


def test_placement_shares_devices_when_bursts_do_not_coincide() -> None:
    """Bursts of four at once, of one model and then of the other, each to end in 1 s: alone a device ends 2 of them in
    time, two stages shared end 4 (0.4 + 3·0.2 = 1.0 s)."""
    queries = [Query(0, burst % 2, 2.0 * burst, 2.0 * burst + 1.0 + 1e-9) for burst in range(6) for _ in range(4)]
    apart = AlpaServe(2, 1.0).attainment([Group(1, (0,)), Group(1, (1,))], TWO, queries)
    groups, share = AlpaServe(2, 1.0).place(TWO, queries)
    assert (apart, share) == (0.5, 1.0)
    assert groups[0].stages == 2 and set(groups[0].models) == {0, 1}
    # With room for both models on every device, replicas do as well: 2 of a burst on each.
    assert AlpaServe(2, 2.0).place(TWO, queries)[1] == 1.0


def test_placement_respects_memory() -> None:
    models = [ModelProfile(str(i), 0.0, 0.1, 3.0) for i in range(3)]
    queries = poisson(2.0, 200, models=3, slack=1.0)
    for devices in (1, 2, 4):
        groups, share = AlpaServe(devices, 4.0).place(models, queries)
        assert all(sum(models[m].weights for m in g.models) <= 4.0 * g.stages for g in groups)
        assert share <= min(1.0, devices / 3 + 0.25)
