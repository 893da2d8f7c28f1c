"""Figures of an engine by hand: memory for swapping, the rate that fills it, what stages send, a late begin."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import simulator
from simulator.engine.clock import Clock
from simulator.hardware import load_node
from simulator.serving.limits import EngineLimits
from simulator.serving.pools import Pool, PooledDeployment
from simulator.serving.pools_transfer import PointToPoint
from simulator.serving.setup import engine_limits
from simulator.serving.token_wise import TokenWise
from simulator.strategies.protocols import BatchShape, Segment
from simulator.workload.model_files import load_model
from simulator.workload.plan import Plan
from tests.serving_deployments import random_requests

GIB = 2.0**30


@pytest.mark.parametrize(("asked", "have"), [(4 * GIB, 8 * GIB), (10**6 * GIB, 0.25)])
def test_swapping_takes_what_is_asked_up_to_the_share_of_the_node(asked: float, have: float) -> None:
    """Two of eight accelerators own a quarter of the host memory."""
    node = load_node("dgx-h100")
    deployment: Any = SimpleNamespace(
        plan=Plan().with_(tensor_parallel=2), options=(("swap_space", asked),), preemption="swap", block_size=16,
        max_num_batched_tokens=2048, max_num_seqs=64, max_model_len=4096,
    )  # fmt: skip
    cache: Any = SimpleNamespace(blocks=100, bytes_per_token=1.0, state_blocks=0)
    wanted = have * node.host_memory if have < 1 else have
    assert engine_limits(deployment, cache, node).host_memory == pytest.approx(wanted)


def test_the_rate_that_fills_an_engine_is_one_over_the_time_a_request_takes_of_it() -> None:
    """A prompt alone and, per generated token, its share of a decode iteration of the full batch."""
    law = [f"workloads.chat.requests.{which}_tokens={size}" for which, size in (("input", 900), ("output", 100))]
    scenario = simulator.load("quickstart", [*law, "workloads.chat.requests.count=50"])
    row = simulator.estimate(scenario, depth="step").of("chat")
    each = row["prefill_time"] + 100 * row["seconds"] / row["decode_batch"]
    assert row["capacity_requests_per_s"] == pytest.approx(4 / each)  # replicas


@pytest.mark.parametrize(("apart", "width"), [(False, 2), (True, 4)])
def test_a_stage_sends_hidden_states_in_sixteen_bits_or_as_its_operators_keep_them(apart: bool, width: int) -> None:
    asked = []

    def price(work: Any, where: object) -> Any:
        asked.append(work.message)
        return SimpleNamespace(seconds=1.0)

    model = load_model("llama-3.1-8b")
    one: Any = SimpleNamespace(
        model=model, network=SimpleNamespace(price=price), layout=SimpleNamespace(neighbour=lambda axis: None),
        framework=SimpleNamespace(operators_apart=apart),
    )  # fmt: skip
    sent = TokenWise._sent(one, 300)
    assert sent.size == asked[0] == 300 * 4096 * width


class Affine:
    """A prompt token takes a millisecond, a decode iteration ten."""

    def iteration(self, batch: BatchShape) -> float:
        return sum(chunk for chunk, _ in batch.prefill) * 1e-3 + (0.01 if batch.decodes else 0.0)

    def decode_segment(self, batch: BatchShape) -> Segment:
        return Segment(0.01, 0.0, 1 << 40)


def test_pools_that_start_late_do_the_same_later() -> None:
    table = random_requests(4, 60, 0.2, (10, 300), (2, 40))

    def run(begin: float) -> Any:
        clock = Clock()
        if begin:
            clock.run(clock.timeout(begin))
        limits = EngineLimits(10**5, 16, 10**6, 256)
        process = PooledDeployment(
            clock, table, Pool(Affine(), limits), Pool(Affine(), limits, 1, "chunked-prefill"),
            PointToPoint(clock, 1e6, 0.0), wire_bytes=lambda tokens: 1000.0 * tokens, layers=10,
        )  # fmt: skip
        clock.run(process.start())
        return clock.now, process.result().run

    (end, early), (later, late) = run(0.0), run(1000.0)
    assert later == pytest.approx(end + 1000.0)
    np.testing.assert_allclose(late.finish, early.finish, rtol=0, atol=1e-9)
    np.testing.assert_allclose(late.first_token, early.first_token, rtol=0, atol=1e-9)


def test_host_link_of_one_accelerator_is_bounded_by_its_share_of_the_host_memory() -> None:
    from simulator.cost.tiers import TierCost

    node = load_node("dgx-h100")
    link = node.accelerator.host_link.bandwidth / node.accelerators_per_host_link
    slow = replace(node, host_memory_bandwidth=4 * link)
    assert TierCost(slow, 8).host_floor_rate == pytest.approx(link / 2)
    assert TierCost(slow, 2).host_floor_rate == pytest.approx(min(link * node.accelerators_per_host_link, 2 * link))
