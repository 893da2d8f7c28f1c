"""Schedulers that plan an iteration ahead: who waits for running decodes, how long, and who does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simulator.serving.conformance import check_batch_policy
from simulator.serving.planned_ahead import PlannedAhead, planned_ahead
from simulator.serving.setup import policies
from simulator.serving.simulate import simulate_deployment
from simulator.strategies.batching.chunked_prefill import ChunkedPrefill
from simulator.strategies.batching.in_flight import InFlight
from simulator.strategies.batching.request_level import Static
from simulator.strategies.protocols import BatchPolicy, BatchShape, Segment
from simulator.workload.requests.table import RequestTable
from tests.serving_deployments import deployment, requests

PROMPT, DECODE = 0.050, 0.010


class Steps:
    """50 ms with prompts, 10 ms without."""

    def iteration(self, batch: BatchShape) -> float:
        return PROMPT if batch.prefill else DECODE

    def decode_segment(self, batch: BatchShape) -> Segment:
        return Segment(DECODE, 0.0, 1000)


def table(*arrivals: float) -> RequestTable:
    return replace(requests(len(arrivals), 100, 400), arrival=np.array(arrivals))


def first(policy: BatchPolicy, *arrivals: float, stride: int | None = None) -> np.ndarray:
    return simulate_deployment(table(*arrivals), Steps(), batching=policy, kv_blocks=5000, stride=stride).first_token


@pytest.mark.parametrize("stride", [None, 1])
@pytest.mark.parametrize(("tokens", "later"), [(1.0, 1), (1.79, 2), (2.49, 3)])
def test_who_comes_during_a_decode_misses_the_next(stride: int | None, tokens: float, later: int) -> None:
    """The third decode runs at 0.074 s and ends at 0.080; the one after it has been launched."""
    plain = first(InFlight(), 0.0, 0.074, stride=stride)
    ahead = first(PlannedAhead(InFlight(), tokens), 0.0, 0.074, stride=stride)
    np.testing.assert_allclose(plain, [PROMPT, 0.080 + PROMPT])
    np.testing.assert_allclose(ahead - plain, [0.0, later * DECODE], atol=1e-12)


@pytest.mark.parametrize("arrivals", [(0.0, 0.0), (0.0, 0.03), (0.0, 7.0)])
def test_an_idle_engine_and_one_busy_with_prompts_keep_nobody_waiting(arrivals: tuple[float, float]) -> None:
    np.testing.assert_array_equal(first(PlannedAhead(InFlight()), *arrivals), first(InFlight(), *arrivals))


def test_prompts_keep_no_scheduler_whose_workers_launch() -> None:
    """A decode after the first prompt is planned when the second request comes at 0.03 s."""
    apart = first(PlannedAhead(InFlight(), apart=True), 0.0, 0.03)
    np.testing.assert_allclose(apart, [PROMPT, PROMPT + DECODE + PROMPT])
    idle = PlannedAhead(InFlight(), apart=True)
    np.testing.assert_array_equal(first(idle, 0.0, 7.0), first(InFlight(), 0.0, 7.0))


@pytest.mark.parametrize("base", [InFlight, ChunkedPrefill])
def test_it_is_a_batching_policy(base: type) -> None:
    check_batch_policy(PlannedAhead(base()))


def test_only_engines_that_overlap_plan_ahead() -> None:
    assert isinstance(policies(deployment("llama-3.1-8b", "sglang-0.4"), 0)["batching"], PlannedAhead)
    for name in ("vllm-0.6", "vllm-0.10"):
        assert not isinstance(policies(deployment("llama-3.1-8b", name), 0)["batching"], PlannedAhead)
    assert isinstance(policies(deployment("llama-3.1-8b", "vllm-latest"), 0)["batching"], PlannedAhead)
    drafted = {"speculation": {"method": "mtp", "draft_tokens": 3, "accepted_lengths": "dsv4-pro-mtp-thinking"}}
    found = policies(deployment("deepseek-v3", "tensorrt-llm-1.0", options=drafted), 0)["batching"]
    assert found.lag == round(1.5 * 2.49 - 0.5)
    whole = Static()
    assert planned_ahead(whole, 1.0) is whole
