"""Autoscalers as functions of what they see: the Kubernetes rule, forecasts, ensembles, migration by matching."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.errors import ConfigError
from simulator.strategies.autoscaling.base import FleetView
from simulator.strategies.autoscaling.priced import Cocktail, Mark, majority_accuracy
from simulator.strategies.autoscaling.reactive import HorizontalPodAutoscaler
from simulator.strategies.autoscaling.spotserve import SpotServe
from simulator.strategies.model_scheduling.base import ModelProfile


def test_the_kubernetes_rule() -> None:
    """Documentation: metric twice the target doubles, half of it halves; within a tenth nothing changes."""
    rule = HorizontalPodAutoscaler(target=100.0)
    assert [rule.recommendation(4, m) for m in (200.0, 50.0, 109.0, 91.0, 111.0, 101.0)] == [8, 2, 4, 4, 5, 4]


def test_the_way_down_is_held_up_by_the_stabilisation_window() -> None:
    rule = HorizontalPodAutoscaler(target=1.0, stabilization=300.0)

    def size(outstanding: int, ready: int, now: float) -> int:
        return rule.desired(FleetView(ready, 0, outstanding, 0.0, 0.0, 1.0, 0.0), now)

    assert size(8, 4, 0.0) == 8
    assert [size(2, 8, t) for t in (60.0, 299.0, 301.0)] == [8, 8, 2]


def test_mark_plans_for_the_rate_when_an_order_would_be_ready() -> None:
    """4 requests per second of 1 s at 80 % of an instance's time: 5 instances. With a rate that rises by 1/s in 10 s
    and 40 s to a ready instance, 8 per second are to come: 10 instances."""
    assert Mark(0.8).desired(FleetView(1, 0, 0, 4.0, 0.0, 1.0, 40.0), 0.0) == 5
    mark = Mark(0.8)
    mark.desired(FleetView(1, 0, 0, 3.0, 0.0, 1.0, 40.0), 0.0)
    assert mark.desired(FleetView(1, 0, 0, 4.0, 0.0, 1.0, 40.0), 10.0) == 10
    assert Mark(0.8, forecast=lambda time: time).desired(FleetView(1, 0, 0, 4.0, 0.0, 1.0, 40.0), 0.0) == 50


def test_mark_sends_to_a_function_who_would_wait_too_long() -> None:
    """Two instances, 1 s a request, 2.5 s allowed: the third wave is too late."""
    mark = Mark(slo=2.5)
    assert [mark.bursts(FleetView(2, 0, n, 0.0, 0.0, 1.0, 0.0), 0.0) for n in (0, 3, 4, 9)] == [
        False,
        False,
        True,
        True,
    ]
    assert mark.bursts(FleetView(0, 1, 0, 0.0, 0.0, 1.0, 0.0), 0.0)


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=7))
def test_majority_votes_against_enumeration(accuracies: list[float]) -> None:
    total = 0.0
    for votes in product((0, 1), repeat=len(accuracies)):
        chance = float(np.prod([a if v else 1 - a for a, v in zip(accuracies, votes, strict=True)]))
        margin = 2 * sum(votes) - len(votes)
        total += chance * (1.0 if margin > 0 else 0.5 if margin == 0 else 0.0)
    assert majority_accuracy(accuracies) == pytest.approx(total)


def test_the_cheapest_ensemble_that_is_accurate_enough() -> None:
    """Condorcet: three voters of 0.7 are right with 0.7³ + 3·0.7²·0.3 = 0.784."""
    assert majority_accuracy([0.7] * 3) == pytest.approx(0.784)
    models = [ModelProfile(f"s{i}", 0.0, 0.1, accuracy=0.7, cost=1.0) for i in range(3)]
    models.append(ModelProfile("large", 0.0, 0.3, accuracy=0.8, cost=4.0))
    assert Cocktail.ensemble(models, 0.78) == (0, 1, 2)
    assert Cocktail.ensemble(models, 0.79) == (3,)
    assert Cocktail.ensemble(models, 0.79, latency=0.2) == ()
    view = FleetView(1, 0, 0, 10.0, 0.0, 1.0, 40.0)
    assert Cocktail(importance=0.5, utilization=1.0).desired(view, 0.0) == 5


def test_decoding_goes_on_within_the_grace() -> None:
    """30 s of notice less 3 s of migration: 540 iterations of 50 ms; none where the migration takes longer."""
    assert SpotServe(30.0).tokens_before(3.0, 0.05) == 540
    assert SpotServe(2.0).tokens_before(3.0, 0.05) == 0
    with pytest.raises(ConfigError, match="grace"):
        SpotServe(-1.0)
