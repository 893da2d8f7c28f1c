"""Fleets that change: cold starts, the Kubernetes rule, bursts, ensembles, revocation, migration by matching."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.errors import ConfigError
from simulator.serving.fleet import serve_fleet
from simulator.strategies.autoscaling.base import FleetView, InstanceKind
from simulator.strategies.autoscaling.priced import Cocktail, Mark, majority_accuracy
from simulator.strategies.autoscaling.reactive import HorizontalPodAutoscaler, ScaleToZero
from simulator.strategies.autoscaling.spotserve import Layout, SpotServe
from simulator.strategies.model_scheduling.base import ModelProfile

GPU = InstanceKind("gpu", price=36.0, startup=40.0, load_bandwidth=1e9)


def test_a_fixed_fleet_of_one_is_m_d_1() -> None:
    rng, load = np.random.Generator(np.random.PCG64(7)), 0.6
    arrival = np.cumsum(rng.exponential(1 / load, 40_000))
    run = serve_fleet(arrival.tolist(), [1.0] * 40_000, GPU, HorizontalPodAutoscaler(maximum=1), interval=1000.0)
    assert (run.finish - run.arrival).mean() == pytest.approx(1 + load / (2 * (1 - load)), rel=0.05)
    assert run.cost == pytest.approx(run.finish.max() / 3600 * 36.0)


def test_a_cold_start_waits_for_the_machine_and_its_weights() -> None:
    """From zero: 40 s start-up, 20 GB at 1 GB/s, 2 s of service. The second request finds it warm."""
    run = serve_fleet([5.0, 100.0], [2.0, 2.0], GPU, ScaleToZero(), weights=20e9, initial=0, interval=10.0)
    np.testing.assert_allclose(run.finish, [5 + 40 + 20 + 2, 102.0])


def test_an_idle_fleet_goes_to_zero_and_costs_nothing_more() -> None:
    """Idle from 1 s on; at the first decision after 60 s, at 70 s, it is gone. The request at 500 s starts another."""
    run = serve_fleet([0.0, 500.0], [1.0, 1.0], GPU, ScaleToZero(patience=60.0), initial=1, interval=10.0)
    assert run.instances[0].stopped == pytest.approx(70.0)
    assert run.finish[1] == pytest.approx(500 + 40 + 1)
    assert run.cost == pytest.approx((70.0 + 41.0) / 3600 * 36.0)


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


def test_instances_follow_a_step_after_their_lead_time() -> None:
    """One request per second of 4 s each from 0 s on: no other is ready before a decision and 40 s more."""
    arrival = np.arange(0.0, 600.0, 1.0)
    run = serve_fleet(arrival.tolist(), [4.0] * 600, GPU, HorizontalPodAutoscaler(target=1.0), interval=15.0)
    ready = np.array([(t, r) for t, r, _, _ in run.history])
    assert (ready[ready[:, 0] < 55.0, 1] == 1).all()
    assert ready[-1, 1] >= 4
    late = run.arrival > 400
    assert (run.finish - run.arrival)[late].mean() == pytest.approx(4.0, rel=0.05)


def test_mark_orders_ahead_of_the_forecast_and_bursts_meanwhile() -> None:
    """The rate rises from 1/s to 5/s at 100 s. With an oracle the instances are there in time; with functions nobody
    waits longer than the SLO, at the functions' price."""
    arrival = np.r_[np.arange(0, 100, 1.0), np.arange(100, 200, 0.2)].tolist()
    service = [1.0] * len(arrival)
    function = InstanceKind("function", price=0.0, startup=0.2, per_request=0.01)

    def forecast(time: float) -> float:
        return 1.0 if time < 100 else 5.0

    blind = serve_fleet(arrival, service, GPU, HorizontalPodAutoscaler(target=1.0), initial=2, interval=5.0)
    oracle = serve_fleet(arrival, service, GPU, Mark(0.8, forecast=forecast), initial=2, interval=5.0)
    burst = serve_fleet(arrival, service, GPU, Mark(0.8, slo=2.5), initial=2, interval=5.0, function=function)
    waits = [float((r.finish - r.arrival).max()) for r in (blind, oracle, burst)]
    assert waits[0] > 10.0 and waits[1] == pytest.approx(1.0) and waits[2] <= 2.5 + 1e-9
    assert 0 < burst.on_function.sum() < len(arrival)
    assert Mark(0.8).desired(FleetView(1, 0, 0, 4.0, 0.0, 1.0, 40.0), 0.0) == 5


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


def test_a_revoked_instance_finishes_within_its_grace_or_loses_its_work() -> None:
    """Two instances, two requests of 50 s; notice to the first at 10 s. 45 s of grace are enough, 30 s are not: the
    request begins again at 50 s on the other."""
    for grace, finish, restarts in ((45.0, 50.0, 0), (30.0, 100.0, 1)):
        run = serve_fleet(
            [0.0, 0.0], [50.0, 50.0], GPU, HorizontalPodAutoscaler(minimum=1, maximum=1), [(10.0, 0)], grace, initial=2,
            interval=1000.0,
        )  # fmt: skip
        assert sorted(run.finish) == pytest.approx([50.0, finish])
        assert run.restarts == restarts
        assert run.instances[0].stopped == pytest.approx(10 + min(grace, 40.0))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_no_request_is_lost_when_instances_come_and_go(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 30))
    arrival = np.cumsum(data.draw(st.lists(st.floats(0, 20), min_size=size, max_size=size))).tolist()
    service = data.draw(st.lists(st.floats(0.1, 30), min_size=size, max_size=size))
    policy = data.draw(st.sampled_from([HorizontalPodAutoscaler, ScaleToZero, Mark, Cocktail]))()
    notices = data.draw(st.lists(st.tuples(st.floats(0, 100), st.just(0)), max_size=1))
    run = serve_fleet(arrival, service, GPU, policy, notices, data.draw(st.floats(0, 40)), interval=7.0)
    assert (run.finish >= run.arrival + np.array(service) - 1e-6).all()
    rented = sum((i.stopped if i.stopped == i.stopped else run.finish.max()) - i.ordered for i in run.instances)
    assert run.cost == pytest.approx(rented / 3600 * 36.0, rel=1e-6, abs=1e-6)


layouts = st.builds(Layout, st.integers(1, 2), st.integers(1, 3), st.integers(1, 2))


@settings(max_examples=40, deadline=None)
@given(layouts, layouts, st.data())
def test_no_other_mapping_moves_less(old: Layout, new: Layout, data: st.DataObject) -> None:
    """Against all permutations, where there are few; bytes reused and moved add up to what the layout needs."""
    gone = data.draw(st.integers(0, old.accelerators - 1))
    held = [rank for rank in range(old.accelerators) if rank != gone]
    held += [None] * max(0, new.accelerators - len(held))
    if len(held) > 7:
        held = held[:7]
    if len(held) < new.accelerators:
        return
    spot = SpotServe(weights=6e9, cache=1e9, bandwidth=1e9)
    plan, reuse = spot.migrate(old, held, new), spot.reuse(old, held, new)
    best = max(sum(reuse[d, j] for j, d in enumerate(p)) for p in permutations(range(len(held)), new.accelerators))
    assert plan.reused == pytest.approx(best)
    assert len(set(plan.places)) == new.accelerators
    needed = new.data * 6e9 + min(new.data, old.data) * 1e9
    assert plan.reused + plan.moved == pytest.approx(needed)


def test_only_what_is_missing_moves() -> None:
    """Same layout, one of 4 accelerators replaced by an empty one: its quarter of 8 GB + 4 GB, 3 s at 1 GB/s."""
    spot, layout = SpotServe(8e9, 4e9, 1e9), Layout(1, 2, 2)
    assert spot.migrate(layout, [0, 1, 2, 3], layout).moved == 0.0
    plan = spot.migrate(layout, [0, None, 2, 3], layout)
    assert plan.places == (0, 1, 2, 3)
    assert (plan.moved, plan.seconds) == (pytest.approx(3e9), pytest.approx(3.0))
    # 30 s of notice less 3 s of migration: 540 iterations of 50 ms.
    assert spot.tokens_before(plan, 0.05) == 540
    with pytest.raises(ConfigError, match="choose a smaller one"):
        spot.migrate(layout, [0, 1, 2], layout)


def test_the_layout_keeps_up_if_one_can() -> None:
    choices = [
        Layout(1, 2, 2, 1.0, 3.0),
        Layout(2, 2, 1, 1.6, 5.0),
        Layout(1, 2, 1, 0.8, 5.0),
        Layout(1, 1, 8, 9.0, 1.0),
    ]
    spot = SpotServe(1.0, 1.0, 1.0)
    assert spot.choose(choices, 4, 0.9) == choices[0]
    assert spot.choose(choices, 4, 1.5) == choices[1]
    assert spot.choose(choices, 3, 0.9) == choices[2]
    assert spot.choose(choices, 1, 0.9) is None
