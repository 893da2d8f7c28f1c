"""Disaggregated serving: closed forms of the transfer, queueing limits, conservation of tokens, blocks and bytes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.engine.clock import Clock
from simulator.errors import ConfigError
from simulator.hardware.types import Accelerator, Cluster, Link, Node, NodeGroup, PowerProfile, ScaleUp
from simulator.hardware.types import Fabric as FabricSpec
from simulator.network.fabric import Fabric
from simulator.network.topology import build
from simulator.registry import strategies
from simulator.serving.limits import EngineLimits
from simulator.serving.pools import Pool, PooledDeployment, simulate_pools
from simulator.serving.pools_transfer import FabricLink, PointToPoint, kv_wire_bytes
from simulator.serving.quantiles import segment_quantiles
from simulator.serving.simulate import simulate_deployment
from simulator.strategies.disaggregation.pools import MixedPool
from simulator.strategies.protocols import BatchShape, Segment
from simulator.workload.model_files import load_model
from simulator.workload.requests.provenance import TraceProvenance
from simulator.workload.requests.table import RequestTable

POLICIES = [r.name for r in strategies(family="disaggregation")]
LAYERS = 10
PER_TOKEN = 1000.0


class Affine:
    """A prompt token takes a millisecond, a decode iteration ten, whatever else."""

    def iteration(self, batch: BatchShape) -> float:
        return sum(chunk for chunk, _ in batch.prefill) * 1e-3 + (0.01 if batch.decodes else 0.0)

    def decode_segment(self, batch: BatchShape) -> Segment:
        return Segment(0.01, 0.0, 1 << 40)


def wire(tokens: int) -> float:
    return tokens * PER_TOKEN


def table(arrival, inputs, outputs) -> RequestTable:
    size = len(arrival)
    lengths = (np.broadcast_to(np.asarray(column), size) for column in (inputs, outputs))
    return RequestTable(np.asarray(arrival, float), *lengths, "pools", TraceProvenance("test", "generated", size, size))


def pools(
    requests, policy, bandwidth, latency=0.0, prefills=1, decodes=1, blocks=(10**5, 10**5), seqs=256, budget=10**6
):
    limits = [EngineLimits(b, 16, budget, seqs) for b in blocks]
    return simulate_pools(
        requests, Pool(Affine(), limits[0], prefills), Pool(Affine(), limits[1], decodes, "chunked-prefill"),
        lambda clock: PointToPoint(clock, bandwidth, latency), wire_bytes=wire, layers=LAYERS, policy=policy,
    )  # fmt: skip


@pytest.mark.parametrize(("model", "per_token"), [("llama-2-70b", 327_680), ("opt-13b", 819_200)])
def test_published_cache_sizes_per_token(model: str, per_token: int) -> None:
    """Catalogue §12: Llama-2-70B 327 680 B, OPT-13B 819 200 B per token in 16 bit."""
    assert kv_wire_bytes(load_model(model), 1) == per_token
    assert kv_wire_bytes(load_model(model), 2048) == 2048 * per_token


def test_latent_attention_sends_the_latent_and_the_rotary_key() -> None:
    """DeepSeek-V3: 61 layers of 512 + 64 values."""
    assert kv_wire_bytes(load_model("deepseek-v3"), 3) == 3 * 61 * 576 * 2


@pytest.mark.parametrize("bandwidth", [0.3e6, 1e6, 5e6, math.inf])
@pytest.mark.parametrize(("policy", "layerwise"), [("distserve", False), ("splitwise", True)])
def test_a_lone_request_waits_for_its_cache_by_the_closed_form(policy: str, layerwise: bool, bandwidth: float) -> None:
    """Serial: X = bytes/bandwidth after the prompt's P. Layer by layer the two-stage pipeline of L equal layers ends at
    P/L + X/L + (L − 1)·max(P, X)/L, so the wait is that less P. The prompt takes 1 s, and produces 1 MB/s."""
    result = pools(table([0.0], 1000, 21), policy, bandwidth)
    compute, sending = 1.0, 1e6 / bandwidth
    wait = (compute + sending + (LAYERS - 1) * max(compute, sending)) / LAYERS - compute if layerwise else sending
    assert result.transfer_wait[0] == pytest.approx(wait, abs=1e-9)
    assert result.run.ttft[0] == pytest.approx(compute)
    assert result.run.finish[0] == pytest.approx(compute + wait + 20 * 0.01)


def test_the_prefill_pool_is_an_m_d_1_queue_when_sending_is_free() -> None:
    """W = ρ·s/(2(1 − ρ)) before the prompt, and the time between first and last token is that of a lone request."""
    rng, load, size = np.random.Generator(np.random.PCG64(2)), 0.5, 40_000
    arrival = np.cumsum(rng.exponential(0.4 / load, size))
    run = pools(table(arrival, 400, 5), "distserve", math.inf, seqs=1, decodes=4).run
    wait = [0.0]
    for gap in np.diff(arrival):
        wait.append(max(0.0, wait[-1] + 0.4 - gap))
    np.testing.assert_allclose(run.queueing, wait, atol=1e-6)
    assert run.queueing.mean() == pytest.approx(load * 0.4 / (2 * (1 - load)), rel=0.05)
    np.testing.assert_allclose(run.e2e - run.ttft, 4 * 0.01, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_nothing_is_lost_or_duplicated(data: st.DataObject) -> None:
    """Every policy, tight memory included: all tokens come, all blocks come back, the bytes are the formula's."""
    policy = data.draw(st.sampled_from(POLICIES))
    size = data.draw(st.integers(1, 25))
    draw = lambda low, high: data.draw(st.lists(st.integers(low, high), min_size=size, max_size=size))  # noqa: E731
    arrival = np.cumsum(np.array(draw(0, 300)) / 1000.0)
    requests = table(arrival, np.array(draw(1, 200)), np.array(draw(1, 60)))
    blocks = data.draw(st.integers(20, 60)), data.draw(st.integers(20, 60))
    clock = Clock()
    link = PointToPoint(clock, data.draw(st.sampled_from([1e4, 1e6, math.inf])), 0.001)
    seqs = data.draw(st.integers(1, 8))
    budget, batching = data.draw(st.sampled_from([(32, "chunked-prefill"), (4096, "prefill-first")]))
    process = PooledDeployment(
        clock, requests,
        Pool(Affine(), EngineLimits(blocks[0], 16, budget, seqs), data.draw(st.integers(1, 2)), "chunked-prefill"),
        Pool(Affine(), EngineLimits(blocks[1], 16, budget, seqs), data.draw(st.integers(1, 2)), batching),
        link, wire_bytes=wire, layers=LAYERS, policy=policy,
    )  # fmt: skip
    result = clock.run(process.start())
    run = result.run
    assert run.completed.all()
    assert (run.first_token >= run.arrival).all() and (run.finish >= run.first_token).all()
    for replica in process.replicas:
        assert (replica.free_blocks, replica.outstanding, replica.queued_tokens) == (replica.kv_blocks, 0, 0)
        assert replica.usage.kv_blocks_peak <= replica.kv_blocks
    apart = ~np.isnan(result.transfer_bytes)
    assert link.sent == pytest.approx(sum(wire(int(n)) for n in run.input_tokens[apart]))
    assert not apart[run.output_tokens == 1].any()
    # Every token but a prompt's first ones comes out of a decode iteration, or of recomputing a preempted request.
    produced = sum(u.decode_tokens + u.prefills for u in run.replicas)
    assert produced == run.output_tokens.sum()
    assert run.gaps[:, 2] @ run.gaps[:, 3] == run.output_tokens.sum() - size
    spans = (run.gaps[:, 0] * run.gaps[:, 2] + run.gaps[:, 1] * run.gaps[:, 2] * (run.gaps[:, 2] - 1) / 2) @ run.gaps[
        :, 3
    ]
    assert spans == pytest.approx((run.finish - run.first_token).sum(), abs=1e-6)


def test_both_sides_hold_the_cache_while_it_travels() -> None:
    clock = Clock()
    pool = Pool(Affine(), EngineLimits(100, 16, 4096, 8))
    process = PooledDeployment(
        clock, table([0.0], 160, 5), pool, pool, PointToPoint(clock, PER_TOKEN * 160), wire_bytes=wire, layers=1
    )
    process.start()
    for time, held in ((0.1, [10, 0]), (0.5, [10, 10]), (1.165, [0, 11])):
        clock.run(time)
        assert [r.pool.used for r in process.replicas] == held


def test_a_full_decoder_leaves_the_cache_where_it_was_computed() -> None:
    """Room for one request at a time in the decoder: the second waits, in the prefill replica, for the first to end."""
    run = pools(table([0.0, 0.0], 160, 11), "distserve", math.inf, blocks=(1000, 14))
    # Both prompts are one batch of 0.32 s; each then decodes alone for 0.1 s.
    np.testing.assert_allclose(np.sort(run.run.finish), [0.42, 0.52])
    assert run.transfer_wait.max() == pytest.approx(0.1)


def fabric_link(clock: Clock) -> tuple[Fabric, FabricLink]:
    fast = ScaleUp(Link("up", 400e9, 0.0), 2)
    gpu = Accelerator(
        "g", "v", "a", 2024, {"bf16": 1e15}, 8e10, 8e10, 3e12, fast, Link("host", 1e12, 0.0), PowerProfile(0, 1)
    )
    node = Node("n", gpu, 2, fast, Link("port", 1e6, 0.0), 2, 1e12, 1e11)
    topology = build(Cluster("c", (NodeGroup(node, 3),), FabricSpec("fat-tree", Link("cable", 1e6, 0.0), 1.0)))
    fabric = Fabric(clock, topology)
    ends = [tuple(topology.accelerator(n, i) for i in range(2)) for n in range(3)]
    return fabric, FabricLink(clock, fabric, ends)


def test_transfers_share_the_decoders_ports_on_a_fabric() -> None:
    """Two prefill replicas send 1 MB each over 2 lanes into the same 2 × 1 MB/s: alone 0.5 s, together 1 s."""
    for count, wait in ((1, 0.5), (2, 1.0)):
        clock = Clock()
        fabric, link = fabric_link(clock)
        pool = Pool(Affine(), EngineLimits(1000, 16, 10**6, 8), 2)
        process = PooledDeployment(
            clock,
            table([0.0] * count, 1000, 3),
            pool,
            Pool(Affine(), pool.limits),
            link,
            wire_bytes=wire,
            layers=LAYERS,
        )
        result = clock.run(process.start())
        np.testing.assert_allclose(result.transfer_wait, wait, rtol=1e-9)
        assert link.sent == count * 1e6
        # A byte crosses a port on its way out and one on its way in.
        assert fabric.traffic_by_kind()["nic"] == pytest.approx(2 * count * 1e6)


@pytest.mark.parametrize("policy", POLICIES)
def test_prompts_no_longer_interrupt_decodes(policy: str) -> None:
    """Same accelerators, same load: the slowest 1 % of the token gaps shrink once prompts run elsewhere."""
    rng, size = np.random.Generator(np.random.PCG64(6)), 600
    requests = table(np.cumsum(rng.exponential(0.5, size)), 300, 40)
    apart = pools(requests, policy, 1e9)
    together = simulate_deployment(
        requests, Affine(), kv_blocks=10**5, replicas=2, batching="prefill-first", max_num_batched_tokens=10**6
    )
    slowest = [segment_quantiles(run.gaps, [0.99])[0] for run in (apart.run, together)]
    assert slowest[0] < 0.5 * slowest[1]
    assert apart.run.completed.all()


def test_a_mixed_pool_takes_the_prompts_an_overloaded_one_cannot() -> None:
    """One prompt machine at 150 % load: alone its queue grows, the decoder has time to spare and helps."""
    requests = table(np.arange(200) * 0.2, 300, 5)
    helpers = MixedPool(queue_limit=600)
    waits = [pools(requests, policy, 1e9, budget=300).run.ttft.max() for policy in ("splitwise", helpers)]
    # Work comes at 1.5 s per second: after 40 s the lone machine is 20 s behind.
    assert waits[0] == pytest.approx(20.0, rel=0.1)
    assert waits[1] < 0.7 * waits[0]


def test_too_long_requests_are_rejected_and_engines_that_cannot_take_in_are_refused() -> None:
    run = pools(table([0.0, 0.0], [100, 1000], 5), "distserve", 1e6, blocks=(50, 20)).run
    assert run.rejections() == {"longer than the KV cache": 1}
    assert run.completed.tolist() == [True, False]
    with pytest.raises(ConfigError, match="takes requests in"):
        limits = EngineLimits(100)
        simulate_pools(
            table([0.0], 10, 2), Pool(Affine(), limits), Pool(Affine(), limits, batching="static"),
            lambda clock: PointToPoint(clock, 1.0), wire_bytes=wire, layers=1,
        )  # fmt: skip
