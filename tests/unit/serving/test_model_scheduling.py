"""Scheduling many models: known schedules, deadlines, weights, preemption, packing under its constraints."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.engine.clock import Clock
from simulator.errors import ConfigError
from simulator.registry import strategies
from simulator.serving.model_sharing import serve_models
from simulator.serving.shared_models import Devices, SharedModels
from simulator.strategies.model_scheduling.base import ModelProfile, Query
from simulator.strategies.model_scheduling.online import Shepherd
from simulator.strategies.model_scheduling.packing import MIG_SHARES, Gpulet, Nexus, Session

ONLINE = [r.name for r in strategies(family="model_scheduling") if r.kind == "policy"]
ONE = ModelProfile("one", 0.1, 0.1, max_batch=8)


def queries(*rows: tuple[float, int, float], **more: object) -> list[Query]:
    return [Query(i, model, time, time + slack, **more) for i, (time, model, slack) in enumerate(rows)]  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_query_ends_once_or_is_dropped(data: st.DataObject) -> None:
    models = [ModelProfile(f"m{i}", 0.02 * i + 0.01, 0.05, weights=1.0 + i, max_batch=4, family="f") for i in range(3)]
    draw = st.tuples(st.floats(0, 3), st.integers(0, 2), st.floats(0.02, 1.0))
    rows = sorted(data.draw(st.lists(draw, min_size=1, max_size=30)))
    asked = queries(*rows)
    for query in asked:
        query.urgent = query.index % 3 == 0
    policy = data.draw(st.sampled_from(ONLINE))
    devices = data.draw(st.integers(1, 2))
    run = serve_models(asked, models, policy, devices=devices, memory=4.0, load_bandwidth=50.0, preemption=0.001)
    for query in asked:
        assert query.dropped == math.isnan(query.finish)
        alone = models[query.model].latency(1)
        assert query.dropped or query.finish >= query.arrival + alone - 1e-9
    assert sum(run.batches) == sum(not q.dropped for q in asked)
    assert run.busy <= devices * np.nanmax([*run.finish, 0.0]) + 1e-9 or not run.batches
    if policy in ("clockwork", "shepherd", "infaas"):
        # What is started is known to end in time.
        assert all(q.finish <= q.deadline + 1e-9 for q in asked if not q.dropped)


def test_one_model_without_batching_is_m_d_1() -> None:
    """W = s + ρ·s/(2(1 − ρ)) at ρ = 0.6, s = 0.2 s."""
    rng, load = np.random.Generator(np.random.PCG64(1)), 0.6
    times = np.cumsum(rng.exponential(0.2 / load, 40_000)).tolist()
    run = serve_models(
        [Query(i, 0, t) for i, t in enumerate(times)], [ModelProfile("m", 0.0, 0.2, max_batch=1)], "reef"
    )
    assert (run.finish - run.arrival).mean() == pytest.approx(0.2 + load * 0.2 / (2 * (1 - load)), rel=0.05)


def test_clockwork_refuses_at_once_what_would_be_late() -> None:
    """0.2 s alone, 0.1 s per further query: while one runs until 0.2, one due at 0.35 cannot end before 0.4."""
    asked = queries((0.0, 0, 1.0), (0.05, 0, 0.3), (0.06, 0, 0.34))
    run = serve_models(asked, [ONE], "clockwork")
    np.testing.assert_allclose(run.finish, [0.2, np.nan, 0.4])
    assert run.attainment == pytest.approx(2 / 3)


def test_clockwork_pays_for_loading_weights_and_evicts_the_least_recent() -> None:
    """16 GB/s: 1.6 GB in 0.1 s. Two of three models fit; the third use of the first finds it gone."""
    models = [ModelProfile(n, 0.0, 0.1, weights=1.6e9) for n in "abc"]
    asked = queries(*[(float(i), m, 1.0) for i, m in enumerate([0, 1, 0, 2, 0, 1])])
    run = serve_models(asked, models, "clockwork", memory=3.2e9, load_bandwidth=16e9)
    #            a loads, b loads, a there, c loads (b goes), a there, b loads (c goes)
    np.testing.assert_allclose(run.finish - run.arrival, [0.2, 0.2, 0.1, 0.2, 0.1, 0.2])
    assert run.loading == pytest.approx(0.4)
    with pytest.raises(ConfigError, match="never fits"):
        serve_models(asked, models, "clockwork", memory=1e9)


def test_shepherd_stops_a_small_batch_for_one_three_times_as_large() -> None:
    """One of model a runs 0 to 0.5; at 0.1 the third query of b arrives, so a starts again when b's 0.4 s are over."""
    models = [ModelProfile("a", 0.0, 0.5), ModelProfile("b", 0.1, 0.1)]
    asked = queries((0.0, 0, 5.0), (0.05, 1, 5.0), (0.08, 1, 5.0), (0.1, 1, 5.0))
    run = serve_models(asked, models, Shepherd(3.0))
    np.testing.assert_allclose(run.finish, [1.0, 0.5, 0.5, 0.5])
    assert (run.wasted, run.batches) == (pytest.approx(0.1), (3, 1))
    never = serve_models(queries((0.0, 0, 5.0), (0.05, 1, 5.0), (0.08, 1, 5.0), (0.1, 1, 5.0)), models, Shepherd(4.0))
    np.testing.assert_allclose(never.finish, [0.5, 0.9, 0.9, 0.9])


def test_reef_serves_urgent_queries_as_if_alone() -> None:
    """Urgent ones see only the time to preempt; best-effort ones start over and end later."""
    models = [ModelProfile("urgent", 0.0, 0.05), ModelProfile("background", 0.0, 1.0)]
    asked = queries((0.0, 1, 9.0), (0.4, 0, 9.0), (2.0, 0, 9.0))
    asked[1].urgent = asked[2].urgent = True
    run = serve_models(asked, models, "reef", preemption=50e-6)
    np.testing.assert_allclose(run.finish - run.arrival, [0.4 + 50e-6 + 0.05 + 1.0, 50e-6 + 0.05, 0.05])
    assert run.wasted == pytest.approx(0.4)


def test_infaas_takes_the_cheapest_variant_that_is_accurate_and_fast_enough() -> None:
    variants = [
        ModelProfile("small", 0.0, 0.1, family="r", accuracy=0.7, cost=1.0),
        ModelProfile("large", 0.0, 0.4, family="r", accuracy=0.9, cost=2.0),
        ModelProfile("large-fast", 0.0, 0.1, family="r", accuracy=0.9, cost=5.0),
        ModelProfile("other", 0.0, 0.01, family="s", accuracy=1.0, cost=0.0),
    ]
    cases = [(0.0, 1.0, 0), (0.8, 1.0, 1), (0.8, 0.2, 2), (0.95, 1.0, None), (0.8, 0.05, None)]
    for accuracy, slack, expected in cases:
        asked = [Query(0, 1, 0.0, slack, accuracy=accuracy)]
        run = serve_models(asked, variants, "infaas")
        assert asked[0].dropped == (expected is None)
        assert expected is None or run.model[0] == expected


session = st.builds(
    lambda a, b, r, k: Session(ModelProfile("m", a, b, max_batch=32), r, k * 2 * (a + b)),
    st.floats(0.001, 0.02), st.floats(0.001, 0.05), st.floats(0.2, 300.0), st.floats(1.05, 10.0),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(session, min_size=1, max_size=6))
def test_nexus_carries_every_rate_within_every_slo(sessions: list[Session]) -> None:
    plan = Nexus().plan(sessions)
    carried = np.zeros(len(sessions))
    for cycle in plan:
        assert cycle.busy(sessions) <= 1 + 1e-6
        for index, batch in cycle.batches:
            carried[index] += batch / cycle.period
            assert cycle.period + sessions[index].model.latency(batch) <= sessions[index].slo * (1 + 1e-6)
    assert (carried >= np.array([s.rate for s in sessions]) * (1 - 1e-6)).all()
    # No device carries more than the largest batches allow, and none is used that a session alone would not need.
    best = [max(b / s.model.latency(b) for b in range(1, 33) if 2 * s.model.latency(b) <= s.slo) for s in sessions]
    load = [s.rate / b for s, b in zip(sessions, best, strict=True)]
    assert math.ceil(sum(load) - 1e-6) <= len(plan) <= sum(math.floor(x) + 1 for x in load)


def test_nexus_merges_two_sessions_but_not_a_third() -> None:
    """Steps of latency: a (64/s, 200 ms) in batches of 8 every 125 ms takes 75 ms, b (32/s, 250 ms) in batches of 4
    the other 50 ms; c (32/s, 250 ms) would take 60 ms."""

    class Steps(ModelProfile):
        def latency(self, batch: int) -> float:
            table = {"a": (50, 75, 100), "b": (50, 90, 125), "c": (60, 95, 125)}[self.name]
            return table[0 if batch <= 4 else 1 if batch <= 8 else 2] / 1000.0

    asked = [
        Session(Steps(n, 1, 1, max_batch=16), r, s) for n, r, s in (("a", 64, 0.2), ("b", 32, 0.25), ("c", 32, 0.25))
    ]
    plan = Nexus().plan(asked)
    assert sorted(dict(cycle.batches) for cycle in plan if len(cycle.batches) > 1) == [{0: 8, 1: 4}]
    assert plan[0].period == pytest.approx(0.125) and len(plan) == 2


def test_an_slo_below_twice_the_latency_is_named() -> None:
    with pytest.raises(ConfigError, match="at least twice"):
        Nexus().plan([Session(ONE, 1.0, 0.39)])
    with pytest.raises(ConfigError, match="relax the SLO"):
        Gpulet().plan([Session(ONE, 1.0, 0.39)])


@settings(max_examples=100, deadline=None)
@given(st.lists(session, min_size=1, max_size=6), st.sampled_from([MIG_SHARES, (0.2, 0.4, 0.5, 0.6, 0.8, 1.0)]))
def test_partitions_carry_every_rate_and_fit_their_devices(sessions: list[Session], shares: tuple[float, ...]) -> None:
    planner = Gpulet(shares)
    plan = planner.plan(sessions)
    for device in {p.device for p in plan}:
        assert sum(p.share for p in plan if p.device == device) <= 1 + 1e-9
    for index, one in enumerate(sessions):
        mine = [p for p in plan if p.session == index]
        assert sum(p.rate for p in mine) == pytest.approx(one.rate)
        for part in mine:
            latency = planner.latency(one.model, part.batch, part.share)
            assert part.batch / latency >= part.rate * (1 - 1e-9) and 2 * latency <= one.slo * (1 + 1e-9)


def test_small_loads_share_a_device_that_time_sharing_would_waste() -> None:
    """Knee at 0.2: five sessions at a fifth of a device each run as fast as alone, so one device does for five."""
    five = [Session(ModelProfile(str(i), 0.01, 0.0, max_batch=1), 90.0, 0.03) for i in range(5)]
    assert {p.device for p in Gpulet(knee=0.2).plan(five)} == {0}
    assert len({p.device for p in Gpulet(knee=1.0).plan(five)}) == 5
    with_noise = Gpulet(knee=0.2, interference=0.2)
    # 20 % slower next to others is 83/s on a share: all need a whole device.
    assert len({p.device for p in with_noise.plan(five)}) == 5


def test_partitions_of_a_device_answer_in_the_time_of_their_share() -> None:
    """A query alone and, while another runs, two more: they wait for it and run together, as long as was planned."""
    model = ModelProfile("half", 0.01, 0.02, max_batch=4)
    clock = Clock()
    asked = queries((0.0, 0, math.inf), (9.0, 0, math.inf), (9.001, 0, math.inf), (9.002, 0, math.inf))
    options = {"shares": (0.2, 0.5, 1.0), "interference": 0.25}
    shared = SharedModels(clock, [model], asked, "gpulet", options, Devices(1, math.inf, math.inf), [0.4])
    clock.run(shared.start())
    planner = Gpulet(**options)
    (part,) = planner.plan([Session(model, 4 / 9.002, 0.4)])
    one, two = (planner.latency(model, batch, part.share) for batch in (1, 2))
    assert part.share == 0.2 and one == pytest.approx(1.25 * (0.01 / 0.2 + 0.02))
    run = shared.result()
    assert run.finish == pytest.approx([one, 9.0 + one, 9.0 + one + two, 9.0 + one + two])
