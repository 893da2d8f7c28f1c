"""A deployment whose plan follows its machines: nothing is lost, and times are those of closed forms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.engine.clock import Clock
from simulator.serving.deployment import DeploymentProcess
from simulator.serving.limits import EngineLimits
from simulator.serving.machines import Machines
from simulator.serving.plan_changes import Shape, Transfer
from simulator.serving.replanning import Replanning
from simulator.serving.run import ServingRun
from simulator.strategies.protocols import BatchShape, Segment
from simulator.strategies.replanning.base import Layout, Replanner
from simulator.strategies.replanning.context import Parcel
from simulator.strategies.replanning.policies import Reroute, Restart, SpotServeReplanner
from simulator.workload.fleets import Instances
from simulator.workload.requests.provenance import TraceProvenance
from simulator.workload.requests.table import RequestTable

GB = 1e9


class Affine:
    """A prompt token takes a millisecond, a decode iteration ten, on ``stages`` stages."""

    def __init__(self, stages: int = 1) -> None:
        self.stages = stages

    def iteration(self, batch: BatchShape) -> float:
        return sum(chunk for chunk, _ in batch.prefill) * 1e-3 + (0.01 if batch.decodes else 0.0)

    def stage_times(self, batch: BatchShape) -> list[float]:
        return [self.iteration(batch) / self.stages] * self.stages

    def decode_segment(self, batch: BatchShape) -> Segment:
        return Segment(0.01, 0.0, 1 << 40)


class Wires:
    """Every target takes in one gigabyte a second, whoever sends."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.under_way = clock, list[tuple[Transfer, set[int]]]()
        self.sent: list[Parcel] = []

    def seconds(self, wanted: Sequence[Parcel]) -> float:
        into: dict[int, float] = {}
        for parcel in wanted:
            into[parcel.target] = into.get(parcel.target, 0.0) + parcel.size / GB
        return max(into.values(), default=0.0)

    def send(self, wanted: Sequence[Parcel], done: Callable[[], object]) -> Transfer:
        entry = (Transfer(), {parcel.source for parcel in wanted})
        self.sent += wanted
        self.under_way.append(entry)

        def end() -> None:
            if entry in self.under_way:
                self.under_way.remove(entry)
                done()

        self.clock.after(self.seconds(wanted), end)
        return entry[0]

    def lose(self, accelerators: Iterable[int]) -> None:
        for transfer, sources in self.under_way:
            transfer.late = transfer.late or not sources.isdisjoint(accelerators)

    def drop(self, transfer: Transfer) -> None:
        self.under_way = [entry for entry in self.under_way if entry[0] is not transfer]


def table(arrival: Any, inputs: Any, outputs: Any) -> RequestTable:
    size = len(arrival)
    lengths = (np.broadcast_to(np.asarray(column), size) for column in (inputs, outputs))
    return RequestTable(np.asarray(arrival, float), *lengths, "plans", TraceProvenance("test", "generated", size, size))


def serve(
    requests: RequestTable, policy: Replanner, asked: Instances, shapes: Sequence[tuple[int, int]] = ((1, 1), (2, 1)),
    stride: int | None = None,
) -> tuple[ServingRun, Replanning, Wires]:  # fmt: skip
    """Machines of one accelerator; shapes are (stages, shards); a token has a megabyte of keys and values."""
    clock = Clock()
    made, first = list[Shape](), 0
    for stages, shards in shapes:
        count = max(1, asked.count * asked.accelerators // (stages * shards))
        made.append(Shape(Layout(1, stages, shards, 1.0, 1.0 / (stages * shards)), first, count, 150))
        first += count
    costs = [Affine(shape.layout.pipeline) for shape in made for _ in range(shape.count)]
    limits = [
        EngineLimits(1000, 16, 1000, 8, pipeline_stages=s.layout.pipeline) for s in made for _ in range(s.count)
    ]  # fmt: skip
    process = DeploymentProcess(
        clock, requests, costs, limits, replicas=first, router="least-outstanding", movable=True, stride=stride
    )  # type: ignore[arg-type]
    machines = Machines(clock, asked, asked.count, asked.accelerators, 0)
    wires = Wires(clock)
    replanning = Replanning(
        clock, process, machines, policy, made, wires, weights=4 * GB, cache_bytes=lambda t: t * 1e6, rate=0.5,
        restart=2.0,
    )  # fmt: skip
    replanning.start()
    return clock.run(process.start()), replanning, wires


def test_context_travels_within_the_grace_and_the_request_goes_on() -> None:
    """Two machines, one stage each; at 10 s the second has 5 s left. The plan becomes one stage of the whole model: the
    first lacks 2 GB of weights and half of the keys and values. 150 tokens at most are planned for: 2.075 s before the
    end the pipeline stops, and the request goes on after 2 s and its real cache."""
    asked = Instances("spotserve", 2, 1, 2, ((10.0, -1),), grace=5.0)
    run, plan, _ = serve(table([12.003], 40, 200), SpotServeReplanner(), asked)
    start, change = plan.changes
    assert (start.plan, change.plan) == ("1 × (pipeline 2 × tensor 1)", "1 × (pipeline 1 × tensor 1)")
    assert change.time == pytest.approx(15.0 - 2.075)
    # Of 882 ms since the prompt 88 iterations of 10 ms: all but the last token of 40 + 89 are in the cache.
    tokens = 40 + 88
    assert change.stall == pytest.approx(2.0 + tokens * 1e6 / 2 / GB)
    assert (change.kept, change.restarted) == (1, 0)
    assert change.moved == pytest.approx(2 * GB + tokens * 1e6 / 2)
    assert change.reused == pytest.approx(2 * GB + tokens * 1e6 / 2)
    assert run.preemptions.sum() == 0
    left = 200 - 89
    assert run.finish[0] == pytest.approx(change.time + change.stall + left * 0.01)


@pytest.mark.parametrize(("policy", "loaded"), [(Restart(), 4 * GB), (Reroute(), 0.0)])
def test_baselines_lose_what_they_had(policy: Replanner, loaded: float) -> None:
    """Three machines of one stage each at 10 s become two. A restart loads both again, 2 s and 4 s for the weights, at
    the end of the grace; rerouting drops one pipeline, and its request begins again on another at once."""
    asked = Instances("", 3, 1, 3, ((10.0, -1),), grace=5.0)
    run, plan, wires = serve(table([14.0, 14.0, 14.0], 40, 200), policy, asked, ((1, 1),))
    assert run.finish.max() > 15.0
    if loaded:
        (change,) = plan.changes[1:]
        assert (change.time, change.stall, change.restarted) == (15.0, pytest.approx(6.0), 2)
        assert change.loaded == pytest.approx(2 * loaded)
        assert run.preemptions.sum() == 3
    else:
        assert len(plan.changes) == 1
        assert plan.lost == 1
        assert run.preemptions.sum() == 1
    assert not [parcel for parcel in wires.sent if parcel.source >= 0]


def test_what_does_not_arrive_in_time_is_lost() -> None:
    """As above with a second of grace: 2 GB take two, so that weights come from storage in the end and the request
    begins again."""
    asked = Instances("spotserve", 2, 1, 2, ((14.0, -1),), grace=1.0)
    run, plan, _ = serve(table([12.003], 40, 400), SpotServeReplanner(), asked)
    (change,) = plan.changes[1:]
    assert (change.time, change.kept, change.restarted) == (14.0, 0, 1)
    assert run.preemptions.sum() == 1


def test_pipelines_that_lose_nothing_serve_on() -> None:
    """A third machine joins: the new pipeline gets its weights from another, the two others do not stop."""
    asked = Instances("spotserve", 3, 1, 2, ((1.0, 1),))
    run, plan, _ = serve(table([0.5, 0.5], 40, 1000), SpotServeReplanner(), asked, ((1, 1),))
    (change,) = plan.changes[1:]
    assert (change.moved, change.stall, change.kept) == (4 * GB, pytest.approx(4.0), 0)
    np.testing.assert_allclose(run.finish, 0.5 + 0.04 + 9.99)


EVENTS = st.lists(st.tuples(st.floats(0.1, 30.0), st.sampled_from([-2, -1, 1, 2])), max_size=5)


@settings(max_examples=40, deadline=None)
@given(
    EVENTS, st.sampled_from([SpotServeReplanner(), Restart(), Reroute()]), st.floats(0.0, 6.0), st.floats(0.0, 4.0),
    st.lists(st.tuples(st.floats(0.0, 20.0), st.integers(1, 300), st.integers(1, 200)), min_size=1, max_size=12),
)  # fmt: skip
def test_every_request_is_served_whole_whatever_happens(
    events: list[tuple[float, int]], policy: Replanner, grace: float, startup: float,
    requests: list[tuple[float, int, int]],
) -> None:  # fmt: skip
    """Tokens and blocks are conserved, and single steps decide as jumps do."""
    changes = (*sorted(events), (60.0, 4))  # in the end there are machines
    asked = Instances("", 4, 1, 2, changes, grace=grace, startup=startup)
    arrival, inputs, outputs = zip(*sorted(requests), strict=True)
    runs = [serve(table(arrival, inputs, outputs), policy, asked, stride=stride) for stride in (None, 1)]
    for run, plan, _ in runs:
        assert np.isfinite(run.finish).all()
        for replica in plan.process.replicas:
            assert replica.pool.used == 0
            assert replica.outstanding == 0
        assert plan.process.away == 0
        decoded = sum(usage.prefills + usage.decode_tokens for usage in run.replicas)
        assert decoded >= sum(outputs)
        assert sum(c.kept for c in plan.changes) >= 0
    np.testing.assert_allclose(runs[0][0].finish, runs[1][0].finish, rtol=1e-9)
