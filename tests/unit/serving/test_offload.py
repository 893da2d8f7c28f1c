"""Offload: nothing offloaded changes nothing, streams bound iterations, block schedules and placements add up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.hardware.profiles import load_node
from simulator.registry import lookup
from simulator.serving.estimate import check_deployment, estimate_deployment, replica_cost
from simulator.strategies.protocols import BatchShape
from simulator.strategies.serving_offload.block_schedule import (
    BlockPolicy,
    LayerShape,
    Tiers,
    best_placement,
    layer_times,
    memory,
    throughput,
)  # fmt: skip
from simulator.strategies.serving_offload.flexgen import GOOGLE_CLOUD_T4, layer_shape, tiers_of
from simulator.strategies.serving_offload.neurons import LLMInAFlash, NeuronSplit, PowerInfer, flash_rate
from simulator.strategies.serving_offload.sti import STI, pipeline_seconds
from simulator.strategies.serving_offload.weights import host_bandwidth
from simulator.workload.model_files import load_model
from simulator.workload.plan import Plan
from tests.serving_deployments import cluster, deployment, replica

V100 = cluster("dgx-2")


def streamed(tier: str = "host", model: str = "opt-30b", plan: Plan | None = None, **options: Any) -> Any:
    offload = {"method": "zero-inference", "tier": tier, **options}
    return deployment(model, plan=plan or Plan(precision="fp16"), options={"offload": offload})


def test_all_weights_resident_is_no_offload() -> None:
    batch = BatchShape((), 8, 800, 100)
    cost = replica_cost(streamed(model="opt-6.7b", resident=1.0), V100)
    assert cost.iteration(batch) == replica("opt-6.7b", node="dgx-2", plan=Plan(precision="fp16")).iteration(batch)


def test_a_streamed_iteration_is_bound_by_the_link() -> None:
    """60 GB of OPT-30B over a link: no token comes faster than its layers do."""
    link = load_node("dgx-2").accelerator.host_link.achievable
    layers = 2 * 48 * (12 * 7168**2 + 13 * 7168)
    cost = replica_cost(streamed(), V100)
    small = BatchShape((), 1, 100, 100)
    assert sum(cost.device_times(small)) == pytest.approx(layers / link, rel=1e-3)
    assert cost.traffic(small)["host"] == pytest.approx(layers, rel=1e-3)
    half = replica_cost(streamed(resident=0.5), V100)
    assert sum(half.device_times(small)) == pytest.approx(layers / link / 2, rel=1e-3)


def test_prefetch_takes_the_slower_way_and_without_it_they_add() -> None:
    node = load_node("dgx-2")
    slow = replace(node, nvme=replace(node.nvme, read=5e9))
    offload = lookup("serving_offload", "zero-inference")

    def seconds(**options: Any) -> float:
        from simulator.strategies.settings import Settings

        chosen = offload(Settings("offload", {"method": "zero-inference", **options}))
        return float(chosen.stream([1e9], [10], Plan(), slow).seconds[0])

    link = host_bandwidth(slow, 1)
    assert seconds(tier="host") == pytest.approx(1e9 / link)
    assert seconds(tier="nvme") == pytest.approx(1e9 / 5e9)
    assert seconds(tier="nvme", prefetch=False) == pytest.approx(1e9 / 5e9 + 1e9 / link)


def test_missing_experts_are_fetched() -> None:
    """EdgeMoE (arXiv 2308.14352): what the router asks for and the cache does not hold comes from storage."""
    from simulator.strategies.settings import Settings

    def stream(**options: Any) -> Any:
        values = {"method": "edgemoe", "expert_share": 0.9, "active_share": 0.25, **options}
        return lookup("serving_offload", "edgemoe")(Settings("offload", values)).stream([8e9], [32], Plan(), node)

    node = load_node("dgx-2")
    link = host_bandwidth(node, 1)
    assert stream(hit_ratio=0.0).seconds[0] == pytest.approx(8e9 * 0.9 * 0.25 / link)
    assert stream(hit_ratio=0.6).seconds[0] == pytest.approx(0.4 * stream(hit_ratio=0.0).seconds[0])
    assert stream(resident=1.0).seconds[0] == 0 and stream(resident=1.0).resident == pytest.approx(1.0)
    half = stream(compression=0.5, prefetch=True)
    assert half.seconds[0] == pytest.approx(stream(hit_ratio=0.0).seconds[0] / 2)
    assert half.hidden(0) > 0 and half.exposed(0) == 0  # predicted experts arrive while others compute
    assert half.traffic["host"] == pytest.approx(8e9 * 0.9 * 0.25 / 2)


def test_data_parallel_ranks_share_the_fetch() -> None:
    one, four = (
        replica_cost(streamed(plan=Plan(precision="fp16", data_parallel=n)), cluster("hgx-h200")) for n in (1, 4)
    )
    batch = BatchShape((), 4, 400, 100)
    assert sum(four.device_times(batch)) == pytest.approx(sum(one.device_times(batch)) / 4, rel=0.02)


def test_a_model_too_big_for_the_device_is_served_from_the_host() -> None:
    plain = estimate_deployment(deployment("opt-30b", plan=Plan(precision="fp16")), V100)
    away = estimate_deployment(streamed(), V100)
    assert not plain.feasible and away.feasible
    assert {stage.tier for stage in away.memory.stages} == {"hbm", "host"}
    assert away.time.parts["weight_streaming"] > 0.5 * away.seconds
    assert any("known: host, nvme" in reason for reason in check_deployment(streamed("disk"), V100))


SHAPE = layer_shape(load_model("opt-30b"), 512, 32)


def test_the_shape_of_a_layer_is_that_of_the_paper() -> None:
    """8h² + 4h·h_ffn bytes of weights, and 4·block·l·h·(s + n) bytes of cache (arXiv 2303.06865 section 3)."""
    assert SHAPE.weights == pytest.approx(8 * 7168**2 + 4 * 7168 * 28672, rel=1e-3)
    policy = BlockPolicy(4, 3, cache=(0.0, 1.0, 0.0))
    assert memory(SHAPE, policy)[1] == pytest.approx(4 * 12 * 48 * 7168 * (512 + 32))


def test_layer_times_are_the_closed_forms_of_the_paper() -> None:
    policy = BlockPolicy(16, 2, (0.2, 0.5, 0.3), (0.1, 0.6, 0.3), (0.0, 1.0, 0.0))
    h, b, s, n, t = 7168, 32, 512, 32, GOOGLE_CLOUD_T4
    w = SHAPE.weights
    prefill, decode = (layer_times(SHAPE, policy, t, prefill=p) for p in (True, False))
    assert prefill.to_gpu == pytest.approx((0.8 * w + 2 * s * h * b) / t.to_gpu)
    assert prefill.to_host == pytest.approx(
        4 * (s + 1) * h * b * 0.9 / t.cache_to_host + 2 * s * h * b / t.hidden_to_host
    )
    assert prefill.from_disk == pytest.approx(0.3 * w / t.from_disk)
    assert prefill.to_disk == pytest.approx(0.3 * 4 * b * (s + 1) * h / t.cache_to_disk)
    assert prefill.compute == pytest.approx(b * s * w / t.linear_prefill + 4 * b * s**2 * h / t.attention_prefill)
    assert decode.from_disk == pytest.approx((0.3 * 4 * b * (s + n / 2) * h + 0.3 * w) / t.from_disk)
    assert decode.to_gpu == pytest.approx((0.8 * w + 2 * h * b) / t.to_gpu)
    flops = 4 * b * (s + n / 2) * h
    linear = max(b * w / t.linear_decode, 2 * w / t.gpu_bandwidth)
    assert decode.compute == pytest.approx(linear + 0.1 * flops / t.attention_decode + 0.9 * flops / t.host_attention)


def test_everything_on_the_device_moves_nothing() -> None:
    here = BlockPolicy(1, 1)
    for prefill in (True, False):
        times = layer_times(SHAPE, here, GOOGLE_CLOUD_T4, prefill=prefill)
        assert (times.to_gpu, times.to_host, times.from_disk, times.to_disk) == (0, 0, 0, 0)
        assert times.parts["host_attention"] == 0


def test_a_block_shares_one_fetch_of_the_weights() -> None:
    def per_sequence(batches: int) -> float:
        policy = BlockPolicy(4, batches, weights=(0.0, 1.0, 0.0))
        return layer_times(SHAPE, policy, GOOGLE_CLOUD_T4, prefill=False).to_gpu / policy.block

    assert per_sequence(8) == pytest.approx(per_sequence(1) / 8)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from([1, 4, 16]), st.sampled_from([1, 3, 8]), st.randoms(use_true_random=False))
def test_no_feasible_placement_beats_the_linear_program(size: int, batches: int, random: Any) -> None:
    start = BlockPolicy(size, batches)
    best = best_placement(SHAPE, start, GOOGLE_CLOUD_T4)
    assert best is not None
    limits = (GOOGLE_CLOUD_T4.gpu, GOOGLE_CLOUD_T4.host, GOOGLE_CLOUD_T4.disk)
    assert all(used <= limit * (1 + 1e-6) for used, limit in zip(memory(SHAPE, best), limits, strict=True))
    for shares in (best.weights, best.cache, best.hidden):
        assert sum(shares) == pytest.approx(1.0)

    def some() -> tuple[float, float, float]:
        cuts = sorted((random.random(), random.random()))
        return cuts[0], cuts[1] - cuts[0], 1 - cuts[1]

    for _ in range(40):
        other = replace(start, weights=some(), cache=some(), hidden=some())
        if all(used <= limit for used, limit in zip(memory(SHAPE, other), limits, strict=True)):
            assert throughput(SHAPE, other, GOOGLE_CLOUD_T4) <= throughput(SHAPE, best, GOOGLE_CLOUD_T4) * (1 + 1e-6)


def test_a_model_that_fits_is_not_offloaded() -> None:
    """On a device with room for everything the program keeps all there: host attention is slower."""
    roomy: Tiers = replace(tiers_of(load_node("dgx-h100")), gpu=1e12)
    best = best_placement(SHAPE, BlockPolicy(4, 1), roomy)
    assert best is not None
    assert best.cache[0] == pytest.approx(1.0, abs=1e-6)
    assert throughput(SHAPE, best, roomy) == pytest.approx(throughput(SHAPE, BlockPolicy(4, 1), roomy), rel=1e-6)


def test_a_model_that_fits_nowhere_has_no_placement() -> None:
    tiny = replace(GOOGLE_CLOUD_T4, gpu=10e9, host=10e9, disk=10e9)
    assert best_placement(SHAPE, BlockPolicy(1, 1), tiny) is None


def test_block_schedules_want_equal_layers() -> None:
    with pytest.raises(ValueError, match="equal layers"):
        layer_shape(load_model("gemma-3-27b"), 512, 32)


SPLIT = NeuronSplit(dense=4e8, neurons=8e8, active=0.1, hot=0.25, coverage=0.8)


def test_hot_and_cold_neurons_run_side_by_side() -> None:
    """On a slow host the cold neurons decide: 10 % active, a fifth of them cold."""
    run = PowerInfer().token_seconds
    assert run(SPLIT, 48, 1e12, 5e10) == pytest.approx(48 * max((4e8 + 8e8 * 0.08) / 1e12, 8e8 * 0.02 / 5e10))
    assert run(SPLIT, 48, 1e12, 5e9, sync=1e-5) == pytest.approx(48 * (8e8 * 0.02 / 5e9 + 1e-5))


def test_no_cold_neurons_is_no_offload() -> None:
    whole = NeuronSplit(4e8, 8e8, active=1.0, hot=1.0, coverage=1.0)
    assert PowerInfer().token_seconds(whole, 48, 1e12, 1.0, sync=1.0) == pytest.approx(48 * 1.2e9 / 1e12)
    assert whole.held_hot == 1.2e9
    with pytest.raises(ValueError, match="fire at least as often"):
        NeuronSplit(1, 1, active=0.1, hot=0.5, coverage=0.2)


def test_flash_reads_only_what_the_window_lacks() -> None:
    run = LLMInAFlash().token_seconds
    common: dict[str, Any] = {"chunk": 8192, "flash": 6e9, "latency": 1e-4, "memory_bandwidth": 1e11, "threads": 32}
    resident = 48 * (4e8 + 8e7) / 1e11
    assert run(SPLIT, 48, new=0.0, **common) == pytest.approx(resident)
    one = run(SPLIT, 48, new=1.0, **common) - resident
    assert run(SPLIT, 48, new=0.25, **common) - resident == pytest.approx(one / 4)
    assert run(SPLIT, 48, new=1.0, bundled=False, **common) - resident > 1.9 * one * 0.9
    assert flash_rate(1e12, 6e9, 1e-4) == pytest.approx(6e9, rel=1e-3)


def test_a_shard_computes_when_loaded_and_in_turn() -> None:
    assert pipeline_seconds([1, 1, 1], [2, 2, 2]) == 1 + 6
    assert pipeline_seconds([3, 3, 3], [1, 1, 1]) == 9 + 1
    assert pipeline_seconds([3, 3, 3], [1, 1, 1], preloaded=3) == 3


def test_bits_go_to_what_matters_within_the_deadline() -> None:
    sizes, work = [1.0] * 4, [0.5] * 4
    plan = STI().search([1, 9, 2, 3], sizes, work, rate=10.0, deadline=2.6, bits=(2, 4, 8))
    assert plan is not None
    assert plan[1] == max(plan) > min(plan)
    assert pipeline_seconds([b / 10 for b in plan], work) <= 2.6
    assert STI().search([1] * 4, sizes, work, rate=10.0, deadline=100.0, bits=(2, 4, 8)) == [8] * 4
    assert STI().search([1] * 4, sizes, work, rate=10.0, deadline=2.0, bits=(2, 4, 8)) is None
    assert isinstance(SHAPE, LayerShape)
