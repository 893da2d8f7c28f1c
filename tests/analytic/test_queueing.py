"""Degenerate servers against queueing theory: one request at a time, known service times."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simulator.serving.metrics import summarize
from simulator.serving.run import ServingRun
from simulator.serving.simulate import simulate_deployment
from simulator.strategies.protocols import BatchShape, Segment
from simulator.workload.requests.provenance import TraceProvenance
from simulator.workload.requests.table import RequestTable


class TokenTime:
    """A prompt token takes one second / 1000, whatever else: service time = prompt length."""

    def iteration(self, batch: BatchShape) -> float:
        return batch.tokens / 1000.0

    def decode_segment(self, batch: BatchShape) -> Segment:
        return Segment(batch.decodes / 1000.0, 0.0, 1 << 40)


def table(arrival: np.ndarray, inputs: np.ndarray, outputs: np.ndarray | int = 1) -> RequestTable:
    size = len(arrival)
    outputs = np.broadcast_to(np.asarray(outputs), size)
    return RequestTable(arrival, inputs, outputs, "queue", TraceProvenance("test", "generated", size, size))


def one_at_a_time(requests: RequestTable, **options: object) -> ServingRun:
    return simulate_deployment(
        requests,
        TokenTime(),
        kv_blocks=10**6,
        max_num_seqs=1,
        max_num_batched_tokens=10**6,
        batching="prefill-first",
        **options,
    )  # type: ignore[arg-type]


def lindley(arrival: np.ndarray, service: np.ndarray) -> np.ndarray:
    """Waiting times of a single first-come server: w' = max(0, w + s − gap)."""
    wait = np.zeros(len(arrival))
    for i in range(1, len(arrival)):
        wait[i] = max(0.0, wait[i - 1] + service[i - 1] - (arrival[i] - arrival[i - 1]))
    return wait


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_mean_wait_of_m_d_1(load: float) -> None:
    """Pollaczek–Khinchine with constant service: W = ρ·s / (2(1 − ρ)); prompt 400 + 100 single decodes = 0.5 s."""
    rng = np.random.Generator(np.random.PCG64(11))
    size, service = 60_000, 0.5
    arrival = np.cumsum(rng.exponential(service / load, size))
    run = one_at_a_time(table(arrival, np.full(size, 400), 101))
    np.testing.assert_allclose(run.queueing, lindley(arrival, np.full(size, service)), atol=1e-6)
    assert run.queueing.mean() == pytest.approx(load * service / (2 * (1 - load)), rel=0.05)


def test_mean_wait_of_m_m_1() -> None:
    """W = ρ·s / (1 − ρ), and the wait is exponential given that there is one: P(W > t) = ρ·exp(−(1 − ρ)t/s)."""
    rng = np.random.Generator(np.random.PCG64(5))
    size, service, load = 60_000, 1.0, 0.7
    arrival = np.cumsum(rng.exponential(service / load, size))
    tokens = np.maximum(1, np.rint(rng.exponential(1000 * service, size))).astype(int)
    run = one_at_a_time(table(arrival, tokens))
    np.testing.assert_allclose(run.queueing, lindley(arrival, tokens / 1000.0), atol=1e-6)
    assert run.queueing.mean() == pytest.approx(load * service / (1 - load), rel=0.06)
    for t in (1.0, 3.0):
        expected = load * np.exp(-(1 - load) * t / service)
        assert (run.queueing > t).mean() == pytest.approx(expected, rel=0.08)


def test_random_routing_splits_a_poisson_stream_into_independent_queues() -> None:
    """Four replicas at random: each is M/D/1 at a quarter of the rate; utilisation is the load."""
    rng = np.random.Generator(np.random.PCG64(3))
    size, service, load = 80_000, 0.4, 0.6
    arrival = np.cumsum(rng.exponential(service / load / 4, size))
    run = one_at_a_time(table(arrival, np.full(size, 400)), replicas=4, router="random")
    assert run.queueing.mean() == pytest.approx(load * service / (2 * (1 - load)), rel=0.05)
    assert summarize(run)["utilization"] == pytest.approx(load, rel=0.02)


def test_better_informed_routers_wait_less() -> None:
    """Random > power of two > least outstanding, at equal load."""
    rng = np.random.Generator(np.random.PCG64(4))
    size = 20_000
    requests = table(np.cumsum(rng.exponential(0.4 / 0.85 / 8, size)), np.full(size, 400))
    waits = [
        one_at_a_time(requests, replicas=8, router=router).queueing.mean()
        for router in ("random", "power-of-two", "least-outstanding")
    ]
    assert waits[0] > 2 * waits[1] > 2 * waits[2]


@pytest.mark.parametrize(("load", "unstable"), [(0.6, False), (0.9, False), (1.3, True), (3.0, True)])
def test_a_load_above_capacity_is_called_unstable_with_its_growth(load: float, unstable: bool) -> None:
    rng = np.random.Generator(np.random.PCG64(8))
    size, service = 20_000, 0.5
    run = one_at_a_time(table(np.cumsum(rng.exponential(service / load, size)), np.full(size, 500)))
    summary = summarize(run)
    assert summary["unstable"] is unstable
    if unstable:
        # The server works at its capacity 1/s, so the queue grows by λ − 1/s.
        assert summary["queue_growth"] == pytest.approx((load - 1) / service, rel=0.08)
        assert summary["completion_rate"] == pytest.approx(1 / service, rel=0.02)


def test_a_closed_loop_keeps_its_concurrency() -> None:
    """N requests in flight on one server without think time: throughput 1/s, sojourn N·s (interactive law, Z = 0)."""
    size, concurrency = 400, 5
    base = table(np.zeros(size), np.full(size, 500))
    closed = replace(base, closed_loop_concurrency=concurrency)
    run = one_at_a_time(closed)
    assert run.finish.max() == pytest.approx(size * 0.5)
    np.testing.assert_allclose(run.e2e[concurrency:], concurrency * 0.5, rtol=1e-9)


def test_turns_of_a_session_follow_each_other_after_the_think_time() -> None:
    base = table(np.array([0.0, 0.0, 0.0]), np.array([1000, 2000, 500]))
    session = RequestTable(
        base.arrival, base.input_tokens, base.output_tokens, "session", base.provenance,
        parent=np.array([-1, 0, 1]), think_time=np.array([np.nan, 3.0, 0.25]),
    )  # fmt: skip
    run = one_at_a_time(session)
    np.testing.assert_allclose(run.arrival, [0.0, 4.0, 6.25])
    np.testing.assert_allclose(run.finish, [1.0, 6.0, 6.75])
