"""The compiled loop is the loop of objects, bit for bit; and a cost by terms is the cost it was taken from."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import simulator
from simulator.engine.clock import Clock
from simulator.serving.compiled.choose import plain_case
from simulator.serving.deployment import DeploymentProcess
from simulator.serving.estimate import replica_cost
from simulator.serving.front_end import FrontEnd
from simulator.serving.iteration import ReplicaCost
from simulator.serving.limits import EngineLimits
from simulator.serving.run import ServingRun
from simulator.serving.separable import ChunkTerm, SeparableCost
from simulator.serving.simulate import simulate_deployment
from simulator.serving.summary import ServingSummary
from simulator.strategies.batching.prefill_first import PrefillFirst
from simulator.strategies.protocols import BatchShape
from simulator.workload.requests.provenance import TraceProvenance
from simulator.workload.requests.table import RequestTable

pytest.importorskip("numba")

COLUMNS = ("arrival", "scheduled", "first_token", "finish", "preemptions", "replica", "rejected", "gaps")


def cost_of(rng: np.random.Generator, overlapped: bool) -> SeparableCost:
    fixed, token, row, context, launch, host, hidden, one_by_one = rng.uniform(0.1, 1.0, 8)
    return SeparableCost(
        lambda n: 5e-3 * fixed + 1e-4 * token * n, lambda n: 1e-5 * row * n,
        lambda n: (5e-3 * fixed + 1e-4 * token * n, 1e-5 * row * n),
        (ChunkTerm(3, 1e-4 * launch, lambda c, k: 1e-6 * c * (k + c / 2)), ChunkTerm(1, 0.0, lambda c, k: 1e-6 * c)),
        1e-4, 1e-6 * context, 1e-5, 6e-3 * hidden, 6e-3 * host, 1e-5, overlapped,
        8e-3 * one_by_one, int(rng.integers(0, 200)), int(rng.integers(1, 30)),
    )  # fmt: skip


@st.composite
def cases(draw: st.DrawFn) -> tuple[RequestTable, SeparableCost, dict[str, object]]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(1, 120))
    # Whole seconds make requests arrive together, and as iterations end.
    arrival = np.cumsum(rng.exponential(1 / draw(st.sampled_from([1.0, 30.0, 1000.0])), count))
    if draw(st.booleans()):
        arrival = np.floor(arrival)
    inputs = rng.integers(1, draw(st.sampled_from([4, 60, 300])), count)
    outputs = rng.integers(1, draw(st.sampled_from([2, 40, 200])), count)
    table = RequestTable(arrival, inputs, outputs, "random", TraceProvenance("test", "generated", count, count))
    block = draw(st.sampled_from([1, 3, 16]))
    options: dict[str, object] = {
        "batching": draw(st.sampled_from(["chunked-prefill", "prefill-first", PrefillFirst(count_padding=True)])),
        "router": draw(st.sampled_from(["round-robin", "least-outstanding", "random", "power-of-two"])),
        "replicas": draw(st.integers(1, 4)),
        "block_size": block,
        "max_num_seqs": draw(st.sampled_from([1, 4, 64])),
        "max_num_batched_tokens": draw(st.sampled_from([70, 300])),
        "max_model_len": draw(st.sampled_from([0, 350])),
        # From so few blocks that requests are preempted or rejected, to plenty.
        "kv_blocks": max(3, draw(st.sampled_from([300, 600, 20_000])) // block),
        "seed": draw(st.integers(0, 9)),
        "front_end": draw(st.sampled_from([None, FrontEnd(0.01, 1e-4, 2), FrontEnd(0.0, 1e-3)])),
    }
    return table, cost_of(rng, draw(st.booleans())), options


def assert_same(a: ServingRun, b: ServingRun) -> None:
    for column in COLUMNS:
        np.testing.assert_array_equal(getattr(a, column), getattr(b, column), err_msg=column)
    for one, other in zip(a.replicas, b.replicas, strict=True):
        for field in one.__slots__:
            assert getattr(one, field) == getattr(other, field), field


Case = tuple[RequestTable, SeparableCost, dict[str, object]]


@settings(max_examples=200, deadline=None)
@given(cases(), st.sampled_from([math.inf, 0.5, 3.0]))
def test_both_loops_give_the_same_bits(case: Case, until: float) -> None:
    table, cost, options = case
    objects = simulate_deployment(table, cost, loop="objects", until=until, **options)  # type: ignore[arg-type]
    compiled = simulate_deployment(table, cost, loop="compiled", until=until, **options)  # type: ignore[arg-type]
    assert_same(objects, compiled)


def outcome(case: Case, loop: str, record: str, looks: tuple[float, ...] = ()) -> ServingRun | ServingSummary:
    """Serve beside others on the clock, who look at the replicas at some times or only tick."""
    table, cost, options = dict_case(case)
    clock = Clock()
    process = DeploymentProcess(clock, table, cost, loop=loop, record=record, **options)  # type: ignore[arg-type]
    for time in looks:
        clock.at(time, lambda: process.replicas)
    for tick in range(1, 20):
        clock.at(0.37 * tick, lambda: None)
    done = process.start()
    clock.run(done)
    value: ServingRun | ServingSummary = done.value
    return value


def dict_case(case: Case) -> tuple[RequestTable, SeparableCost, dict[str, object]]:
    table, cost, given_ = case
    options = dict(given_)
    names = ("kv_blocks", "block_size", "max_num_batched_tokens", "max_num_seqs", "max_model_len")
    limits = EngineLimits(**{name: options.pop(name) for name in names})  # type: ignore[arg-type]
    return table, cost, {**options, "limits": limits}


@settings(max_examples=60, deadline=None)
@given(cases(), st.floats(0.0, 8.0))
def test_objects_go_on_where_the_compiled_loop_is_interrupted(case: Case, at: float) -> None:
    objects, compiled = outcome(case, "objects", "full"), outcome(case, "compiled", "full", (at,))
    assert isinstance(objects, ServingRun) and isinstance(compiled, ServingRun)
    assert_same(objects, compiled)


@settings(max_examples=40, deadline=None)
@given(cases())
def test_summaries_are_the_same(case: Case) -> None:
    objects, compiled = outcome(case, "objects", "summary"), outcome(case, "compiled", "summary")
    assert isinstance(objects, ServingSummary) and isinstance(compiled, ServingSummary)
    np.testing.assert_equal(objects.to_dict(), compiled.to_dict())
    assert objects.rejections == compiled.rejections


def test_a_long_run_with_full_buffers_and_progress() -> None:
    """Enough requests that every buffer is emptied several times, in a system too small for them."""
    rng = np.random.default_rng(3)
    count = 20_000
    table = RequestTable(
        np.cumsum(rng.exponential(0.004, count)), rng.integers(1, 900, count), rng.integers(1, 300, count), "long",
        TraceProvenance("test", "generated", count, count),
    )  # fmt: skip
    cost = cost_of(rng, True)
    ticks: dict[str, list[int]] = {"objects": [], "compiled": []}
    found = {}
    for loop, seen in ticks.items():
        for record in ("full", "summary"):
            clock = Clock()
            limits = EngineLimits(900, max_num_seqs=64, max_num_batched_tokens=1500)
            process = DeploymentProcess(
                clock, table, cost, limits, replicas=3, router="power-of-two", loop=loop, record=record,  # type: ignore[arg-type]
                progress=lambda row, now, seen=seen: seen.append((row, now)),  # type: ignore[misc]
            )  # fmt: skip
            done = process.start()
            clock.run(done)
            found[loop, record] = done.value
    assert_same(found["objects", "full"], found["compiled", "full"])
    assert found["objects", "full"].preemptions.sum() > 100
    assert found["objects", "summary"].to_dict() == found["compiled", "summary"].to_dict()
    assert ticks["objects"] == ticks["compiled"] and len(ticks["objects"]) == 7


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_replica_cost_by_terms_is_itself(data: st.DataObject) -> None:
    cost = replica()
    terms = cost.separate()
    assert terms is not None
    chunks = data.draw(st.lists(st.tuples(st.integers(1, 2048), st.integers(0, 5000)), max_size=4).map(tuple))
    decodes = data.draw(st.integers(0 if chunks else 1, 300))
    batch = BatchShape(chunks, decodes, decodes * 700, 900 if decodes else 0)
    assert terms.decode_segment(batch) == cost.decode_segment(batch) if decodes else True
    if chunks:
        assert terms.iteration(batch) == cost.iteration(batch)


_replica: list[ReplicaCost] = []


def replica() -> ReplicaCost:
    if not _replica:
        scenario = simulator.load("llama3-70b-chat")
        deployment = scenario.deployments[0]
        found = replica_cost(deployment, scenario.cluster_of(deployment.name))
        assert isinstance(found, ReplicaCost)
        _replica.append(found)
    return _replica[0]


@pytest.mark.parametrize(
    "more",
    [
        {"router": "kv-aware"}, {"batching": "orca"}, {"kv_cache": "prefix-lru"}, {"admission": "queue-limit"},
        {"on_finish": print}, {"stride": 1},
    ],
)  # fmt: skip
def test_what_is_not_covered_stays_with_objects(more: dict[str, object]) -> None:
    rng = np.random.default_rng(0)
    table = RequestTable(np.zeros(1), np.ones(1), np.ones(1), "one", TraceProvenance("test", "generated", 1, 1))
    with pytest.raises(ValueError, match="compiled loop"):
        DeploymentProcess(Clock(), table, cost_of(rng, False), EngineLimits(9), loop="compiled", **more).start()  # type: ignore[arg-type]
    plain = DeploymentProcess(Clock(), table, cost_of(rng, False), EngineLimits(9))
    assert plain_case(plain) is not None


def test_without_numba_objects_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulator.serving.compiled.choose.find_spec", lambda name: None)
    monkeypatch.setattr("simulator.serving.compiled.choose._served", 10**9)
    table = RequestTable(np.zeros(1), np.ones(1), np.ones(1), "one", TraceProvenance("test", "generated", 1, 1))
    cost = cost_of(np.random.default_rng(0), False)
    assert simulate_deployment(table, cost, kv_blocks=9).completed.all()
    with pytest.raises(ValueError, match="numba"):
        simulate_deployment(table, cost, kv_blocks=9, loop="compiled")


def test_small_lists_do_not_load_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    from simulator.serving.compiled import choose

    monkeypatch.delitem(sys.modules, "simulator.serving.compiled.loop", raising=False)
    monkeypatch.setattr(choose, "_served", 0)
    monkeypatch.setattr(choose, "is_compiled", lambda: True)
    assert not choose._worthwhile(choose.LOADING - 1)
    assert choose._worthwhile(1)  # together as much as loading takes
    monkeypatch.setattr(choose, "_served", 0)
    monkeypatch.setattr(choose, "is_compiled", lambda: False)
    assert not choose._worthwhile(choose.COMPILING - 1)
    assert choose._worthwhile(1)
