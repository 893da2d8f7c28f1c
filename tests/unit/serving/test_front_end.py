"""The process in front of an engine: a queue with closed forms, and nothing else than later arrivals to the engine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.constants import Constant, Trust
from simulator.engine.clock import Clock
from simulator.registry import strategies
from simulator.serving.arrivals import leave_times
from simulator.serving.compiled.choose import Loop
from simulator.serving.deployment import DeploymentProcess
from simulator.serving.front_end import FrontEnd, InTurns, front_end_of
from simulator.serving.limits import EngineLimits
from simulator.serving.pools import Pool, simulate_pools
from simulator.serving.pools_run import PoolsRun
from simulator.serving.pools_transfer import PointToPoint
from simulator.serving.run import ServingRun
from simulator.serving.separable import SeparableCost
from simulator.serving.simulate import simulate_deployment
from simulator.workload.framework_files import load_framework
from simulator.workload.requests.provenance import TraceProvenance
from simulator.workload.requests.table import RequestTable
from tests.serving_deployments import deployment

enter = InTurns.enter

COST = SeparableCost(lambda n: 1e-4 * n, lambda n: 0.0, lambda n: (5e-3, 0.0))

streams = st.lists(st.tuples(st.floats(0, 5), st.integers(1, 9000)), min_size=1, max_size=30).map(sorted)


def table(arrival: list[float], tokens: list[int], outputs: int = 3, **more: object) -> RequestTable:
    given_ = np.array(arrival), np.array(tokens), np.full(len(arrival), outputs)
    provenance = TraceProvenance("test", "generated", len(arrival), len(arrival))
    return RequestTable(*given_, "test", provenance, **more)  # type: ignore[arg-type]


def test_a_burst_leaves_one_by_one() -> None:
    """The k-th of n equal requests that come together leaves after k times the work of one."""
    front_end = FrontEnd(2e-3, 1e-6)
    left = front_end.take_all([1.0] * 50, [1000] * 50)
    np.testing.assert_allclose(left, 1.0 + 3e-3 * np.arange(1, 51))


def test_alone_a_request_waits_for_its_own_work_only() -> None:
    front_end = FrontEnd(2e-3, 1e-6, servers=4)
    assert front_end.take_all([1.0, 2.0, 3.0], [1000, 8000, 10]) == pytest.approx([1.003, 2.010, 3.002_01])


@given(streams, st.integers(1, 5))
def test_nobody_overtakes_and_no_work_is_lost(stream: list[tuple[float, int]], servers: int) -> None:
    came, tokens = (list(column) for column in zip(*stream, strict=True))
    one, front_end = FrontEnd(0.01, 1e-5), FrontEnd(0.01, 1e-5, servers)
    left, alone = front_end.take_all(came, tokens), one.take_all(came, tokens)
    assert left == sorted(left)
    work = [0.01 + 1e-5 * count for count in tokens]
    assert all(end >= start + own - 1e-12 for end, start, own in zip(left, came, work, strict=True))
    assert all(fast <= slow + 1e-12 for fast, slow in zip(left, alone, strict=True))
    assert front_end.free >= sum(work) / servers


@given(streams)
def test_to_the_engine_it_is_a_later_arrival(stream: list[tuple[float, int]]) -> None:
    came, tokens = (list(column) for column in zip(*stream, strict=True))
    front_end = FrontEnd(0.02, 1e-5)
    left = replace(front_end).take_all(came, tokens)
    behind = simulate_deployment(table(came, tokens), COST, kv_blocks=10_000, front_end=front_end)
    later = simulate_deployment(table(left, tokens), COST, kv_blocks=10_000)
    np.testing.assert_array_equal(behind.first_token, later.first_token)
    np.testing.assert_array_equal(behind.finish, later.finish)
    np.testing.assert_allclose(behind.ttft, later.ttft + np.array(left) - np.array(came), atol=1e-12)


def test_clients_of_a_closed_loop_pass_it_each_time() -> None:
    """One client, one token: a round is the work of the front end and one iteration."""
    requests = table([0.0] * 10, [100] * 10, 1, closed_loop_concurrency=1)
    run = simulate_deployment(requests, COST, kv_blocks=1000, front_end=FrontEnd(0.05, 1e-4))
    assert run.ttft == pytest.approx([0.05 + 0.01 + 0.01] * 10)
    assert run.finish[-1] == pytest.approx(10 * 0.07)


def served_by_pools(requests: RequestTable, policy: str, front_end: FrontEnd | None) -> PoolsRun:
    limits = EngineLimits(10_000, max_num_batched_tokens=10_000)
    return simulate_pools(
        requests, Pool(COST, limits, 2), Pool(COST, limits, 1, "chunked-prefill"),
        lambda clock: PointToPoint(clock, 1e9), wire_bytes=lambda count: 1000.0 * count, layers=4, policy=policy,
        front_end=front_end,
    )  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(streams, st.sampled_from([record.name for record in strategies(family="disaggregation")]))
def test_pools_are_reached_later_too(stream: list[tuple[float, int]], policy: str) -> None:
    """Behind the front end they serve as if requests came when they leave it; nothing is lost, and all bytes travel."""
    came, tokens = (list(column) for column in zip(*stream, strict=True))
    front_end = FrontEnd(0.02, 1e-5, 2)
    left = replace(front_end).take_all(came, tokens)
    behind = served_by_pools(table(came, tokens), policy, front_end)
    later = served_by_pools(table(left, tokens), policy, None)
    assert isinstance(behind.run, ServingRun)
    assert isinstance(later.run, ServingRun)
    np.testing.assert_array_equal(behind.run.first_token, later.run.first_token)
    np.testing.assert_array_equal(behind.run.finish, later.run.finish)
    np.testing.assert_array_equal(behind.run.arrival, came)
    assert behind.transfers.total == later.transfers.total
    assert sum(usage.prefill_tokens for usage in behind.run.replicas) >= sum(tokens)
    assert np.isfinite(behind.run.finish).all()


def test_clients_of_pools_pass_it_each_time() -> None:
    """One client, one token: a round is the work of the front end and one iteration of the prefill pool."""
    requests = table([0.0] * 10, [100] * 10, 1, closed_loop_concurrency=1)
    run = served_by_pools(requests, "distserve", FrontEnd(0.05, 1e-4)).run
    assert isinstance(run, ServingRun)
    assert run.ttft == pytest.approx([0.05 + 0.01 + 0.01] * 10)
    assert run.finish[-1] == pytest.approx(10 * 0.07)


def test_a_framework_without_times_has_none() -> None:
    plain = replace(load_framework("vllm-0.10"), constants={})
    assert front_end_of(plain) is None
    each = Constant("x.front_end_per_request", 3e-3, "s", 0.0, Trust.ASSUMED, "of the test")
    found = front_end_of(replace(plain, constants={"front_end_per_request": each}), 2)
    assert found == InTurns(3e-3, 0.0, 2)
    assert front_end_of(replace(plain, constants={"front_end_per_request": each}, front_end="queue")) == FrontEnd(
        3e-3, 0.0
    )


def test_in_turns_a_burst_leaves_together() -> None:
    """Equal requests that come together all leave when all their work is done; one alone after its own."""
    front_end = InTurns(2e-3, 1e-6)
    assert front_end.take_all([1.0] * 50 + [9.0], [1000] * 51) == pytest.approx([1.15] * 50 + [9.003])


def test_in_turns_a_short_request_lets_the_longest_there_go() -> None:
    """Works of 1 and 3 s that begin together: half of a server each for 2 s, then 2 s alone; nobody overtakes."""
    assert InTurns(0.0, 1.0).take_all([0.0, 0.0], [3, 1]) == pytest.approx([2.0, 4.0])
    assert InTurns(0.0, 1.0, servers=2).take_all([0.0, 0.0], [3, 1]) == pytest.approx([1.0, 3.0])


@given(streams)
def test_in_turns_the_last_leaves_when_a_queue_would_be_empty(stream: list[tuple[float, int]]) -> None:
    """Sharing conserves work: busy periods end when those of the queue do, and departures keep the order."""
    came, tokens = (list(column) for column in zip(*stream, strict=True))
    left, queue = InTurns(0.01, 1e-5).take_all(came, tokens), FrontEnd(0.01, 1e-5).take_all(came, tokens)
    assert left == sorted(left)
    assert left[-1] == pytest.approx(queue[-1])
    assert all(end >= start for end, start in zip(left, came, strict=True))
    assert all(
        end >= fifo - 1e-9
        for end, fifo in zip(
            InTurns(0.01, 0.0).take_all(came, tokens), FrontEnd(0.01, 0.0).take_all(came, tokens), strict=True
        )
    )


@given(streams)
def test_in_turns_too_the_engine_sees_later_arrivals(stream: list[tuple[float, int]]) -> None:
    came, tokens = (list(column) for column in zip(*stream, strict=True))
    left = InTurns(0.02, 1e-5).take_all(came, tokens)
    behind = simulate_deployment(table(came, tokens), COST, kv_blocks=10_000, front_end=InTurns(0.02, 1e-5))
    later = simulate_deployment(table(left, tokens), COST, kv_blocks=10_000)
    np.testing.assert_array_equal(behind.finish, later.finish)


def test_prompts_tokenized_together_take_what_vllm_measured() -> None:
    """vllm-project/vllm issue 19012: a prompt of 10,000 tokens 10.7 ms, 16 of them in one batch 31.6 ms."""
    constants = load_framework("vllm-latest").constants
    front_end = InTurns(0.0, 10.7e-3 / 10_000, tokenizers=constants["front_end_tokenizers"].value)
    assert replace(front_end).take_all([0.0], [10_000]) == pytest.approx([10.7e-3])
    assert replace(front_end).take_all([0.0] * 16, [10_000] * 16)[-1] == pytest.approx(31.6e-3, rel=0.01)


@given(streams, st.floats(1, 32))
def test_more_tokenizers_never_hold_a_request_longer(stream: list[tuple[float, int]], tokenizers: float) -> None:
    came, tokens = (list(column) for column in zip(*stream, strict=True))
    left = InTurns(0.01, 1e-5, tokenizers=tokenizers).take_all(came, tokens)
    one = InTurns(0.01, 1e-5).take_all(came, tokens)
    assert left == sorted(left)
    assert all(a >= c for a, c in zip(left, came, strict=True))
    assert left[-1] <= one[-1] + 1e-9


@given(streams, st.floats(0, 2))
def test_a_latency_holds_nobody_up(stream: list[tuple[float, int]], latency: float) -> None:
    """Everybody comes later by it, in a queue and in turns."""
    came, tokens = (list(column) for column in zip(*stream, strict=True))
    for kind in (FrontEnd, InTurns):
        plain = kind(0.01, 1e-5).take_all([t + latency for t in came], tokens)
        assert kind(0.01, 1e-5, 1, latency).take_all(came, tokens) == pytest.approx(plain)


def test_the_host_does_the_work_but_not_the_waiting() -> None:
    framework = load_framework("vllm-0.10")
    fast, slow = front_end_of(framework, chat=True), front_end_of(framework, chat=True, speed=0.5)
    assert fast is not None and slow is not None
    assert slow.work(1000) == pytest.approx(2.0 * fast.work(1000)) and slow.latency == fast.latency


def test_a_chat_costs_its_template_unless_the_engine_writes_it_itself() -> None:
    framework = load_framework("vllm-0.10")
    text, chat = front_end_of(framework), front_end_of(framework, chat=True)
    assert text is not None and chat is not None
    assert chat.per_request - text.per_request == framework.constants["front_end_per_chat"].value
    assert [
        replace(deployment(m, "vllm-0.10"), endpoint="chat").renders_chats for m in ("gpt-oss-20b", "qwen3-8b")
    ] == [False, True]
    assert not deployment("qwen3-8b", "vllm-0.10").renders_chats


@settings(deadline=None)
@given(
    streams, st.sampled_from([FrontEnd, InTurns]), st.integers(1, 3), st.floats(0, 2), st.floats(1, 8),
    st.lists(st.tuples(st.floats(0, 1e-3), st.integers(1, 9)), max_size=9).map(sorted),
)  # fmt: skip
def test_leaves_are_known_beforehand(
    stream: list[tuple[float, int]], kind: type[FrontEnd], servers: int, latency: float, tokenizers: float,
    burst: list[tuple[float, int]],
) -> None:  # fmt: skip
    """Event by event, all at once and compiled: the same bits, also where the next comes as one leaves."""
    more = {"tokenizers": tokenizers} if kind is InTurns else {}
    front_end = kind(0.25, 2.0**-12, servers, latency, **more)
    came, tokens = (list(column) for column in zip(*sorted(burst + stream), strict=True))
    one_by_one, left = replace(front_end), list[float]()
    for time, count in zip(came, tokens, strict=True):
        while one_by_one.next_leave < time:
            left.append(one_by_one.next_leave)
            one_by_one.leave()
        one_by_one.enter(time, count)
    while len(left) < len(came):
        left.append(one_by_one.next_leave)
        one_by_one.leave()
    assert leave_times(front_end, table(came, tokens)).tolist() == left
    pytest.importorskip("numba")
    from simulator.serving.compiled.front_end import compiled_leave_times

    assert compiled_leave_times(front_end, table(came, tokens)).tolist() == left


@pytest.mark.parametrize("loop", ["objects", "compiled"])
def test_an_open_loop_passes_its_front_end_once(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the compiled loop hands over to the objects, in the middle and at the end."""
    if loop == "compiled":
        pytest.importorskip("numba")
    entered = list[float]()
    monkeypatch.setattr("simulator.serving.arrivals.front_end_pays", lambda requests: False)
    monkeypatch.setattr(InTurns, "enter", lambda self, came, tokens: entered.append(came) or enter(self, came, tokens))
    requests, clock = table([0.1 * i for i in range(200)], [100] * 200), Clock()
    process = DeploymentProcess(clock, requests, COST, EngineLimits(1000), front_end=InTurns(0.05, 1e-5), loop=loop)
    clock.at(10.0, lambda: process.truncate(0))
    done = process.start()
    clock.run(done)
    assert len(entered) == len(requests)
    assert np.isfinite(done.value.finish).all()
