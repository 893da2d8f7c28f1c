"""Activations outside HBM: closed forms of transfer-bound layers, limits, and plans made under a budget."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from memory_jobs import LAYERS, estimate, gpt, job, on_tier, single, with_host_link

from simulator.hardware import load_node
from simulator.strategies.offload.placement import offload_efficiency, smallest_window
from simulator.training.pipelined import PipelinedJob
from simulator.workload.ops import Tier

FIXED = ("activation-offload", "vdnn", "superneurons")


@pytest.mark.parametrize("name", [*FIXED, "swapadvisor", "autotm", "deepum", "g10", "flashneuron"])
def test_infinite_bandwidth_makes_swaps_free(name: str) -> None:
    node = with_host_link(load_node("dgx-a100-640"), 1e18)
    assert node.nvme is not None
    node = replace(node, nvme=replace(node.nvme, read=1e18, write=1e18))
    base = estimate(job(), node)
    swapped = estimate(job(offload=name, activation_share=0.3), node)
    recomputed = swapped.time.parts.get("recompute", 0.0)
    assert swapped.seconds - recomputed == pytest.approx(base.seconds, rel=2e-3)
    assert on_tier(swapped, Tier.HBM, "activation") < 0.5 * on_tier(base, Tier.HBM, "activation")


@pytest.mark.parametrize("name", ["activation-offload", "vdnn"])
def test_a_slow_link_sets_the_pace_of_a_layer(name: str) -> None:
    """In the steady state a layer takes max(computation, bytes / rate) in each direction."""
    for bandwidth in (2e9, 5e9):
        node = with_host_link(load_node("dgx-a100-640"), bandwidth)
        run = PipelinedJob(job(offload=name), single(node))
        plain = PipelinedJob(job(), single(node))
        pricer = run.pricer(0)
        layer = next(b for b, _ in run.chunks[0].blocks if b.name == "layer")
        rate = node.accelerator.host_link.achievable
        moved = sum(t.bytes() for t in layer.saved)
        assert pricer.forward(layer).seconds == pytest.approx(moved / rate, rel=1e-6)
        assert pricer.backward(layer).seconds == pytest.approx(moved / rate, rel=1e-6)
        assert (
            moved / rate
            > plain.pricer(0).backward(next(b for b, _ in plain.chunks[0].blocks if b.name == "layer")).seconds
        )


def test_evicted_bytes_are_conserved() -> None:
    base = estimate(job())
    for share in (0.25, 0.5, 1.0):
        result = estimate(job(offload="activation-offload", offload_share=share))
        held = on_tier(base, Tier.HBM, "activation")
        assert on_tier(result, Tier.HBM, "activation") + on_tier(result, Tier.HOST, "activation") == pytest.approx(
            held, rel=1e-6
        )
        layers = held - estimate(job(offload="activation-offload")).memory.stages[0].by_class["activation"]
        assert result.traffic.by_link["host"] == pytest.approx(2 * share * layers, rel=1e-3)


def test_without_prefetch_a_fetch_is_never_hidden() -> None:
    ahead, late = (estimate(job(offload="activation-offload", offload_prefetch=n)) for n in (1, 0))
    assert late.seconds > ahead.seconds
    assert on_tier(late, Tier.HBM) <= on_tier(ahead, Tier.HBM)


def test_compression_divides_the_traffic_to_flash() -> None:
    whole, half = (estimate(job(offload="flashneuron", offload_compression=c)) for c in (1.0, 0.5))
    assert half.traffic.by_link["nvme"] == pytest.approx(whole.traffic.by_link["nvme"] / 2)
    assert half.seconds < whole.seconds
    assert on_tier(whole, Tier.HOST) == 0  # direct: no host memory


def test_superneurons_recomputes_the_cheap_and_moves_less() -> None:
    super_, plain = (estimate(job(offload=n)) for n in ("superneurons", "vdnn"))
    assert super_.traffic.by_link["host"] < plain.traffic.by_link["host"]
    assert super_.seconds < plain.seconds


def test_peer_swap_levels_the_stages_of_a_pipeline() -> None:
    """1F1B holds p − i micro-batches on stage i; afterwards no stage holds more than the mean (p + 1)/2."""
    p = 4
    shape: dict[str, Any] = {"pipeline_parallel": p, "batch": (32, 4)}
    base, level = estimate(job(**shape)), estimate(job(offload="mpress", **shape))
    held = [s.by_class["activation"] for s in base.memory.stages if s.tier is Tier.HBM]
    left = [s.by_class["activation"] for s in level.memory.stages if s.tier is Tier.HBM]
    away = {s.stage: s.peak for s in level.memory.stages if s.tier is Tier.PEER}
    one = held[1] / (p - 1)  # a stage of layers only
    assert left[1] == pytest.approx(min(p - 1, (p + 1) / 2) * one, rel=1e-3)
    assert set(away) == {0, 1}
    for stage, moved in away.items():
        assert left[stage] + moved == pytest.approx(held[stage], rel=1e-6)
    assert left[2:] == held[2:]
    run = PipelinedJob(job(offload="mpress", **shape), single(load_node("dgx-a100-640")))
    for stage, moved in away.items():  # out and in again for every micro-batch; p − i of them are away at the peak
        assert run.step_time(stage).traffic["scale_up"] == pytest.approx(2 * 8 * moved / (p - stage), rel=1e-3)


@pytest.mark.parametrize("name", ["capuchin", "delta", "pofo", "swapadvisor", "autotm", "tsplit", "g10", "deepum"])
def test_planned_swaps_do_nothing_where_all_fits_and_fit_where_it_does_not(name: str) -> None:
    assert estimate(job(offload=name)).seconds == estimate(job()).seconds
    large, node = (16, 16), "dgx-a100-320"
    assert not estimate(job(batch=large), node).feasible
    planned = estimate(job(batch=large, offload=name), node)
    assert planned.feasible
    assert planned.memory.worst.peak <= planned.memory.worst.capacity


def test_joint_plans_are_no_slower_than_swapping_alone() -> None:
    results = {
        n: estimate(job(offload=n, activation_share=0.3)).seconds for n in ("pofo", "capuchin", "delta", "swapadvisor")
    }
    assert results["pofo"] <= results["capuchin"] * 1.01
    assert results["capuchin"] <= results["swapadvisor"]
    assert results["delta"] <= results["swapadvisor"]


def test_split_tensors_free_no_more_than_asked() -> None:
    node = with_host_link(load_node("dgx-a100-640"), 1e18)  # swaps cost nothing, so that whole tensors overshoot
    share = 0.55
    base = estimate(job(), node)
    whole, split = (estimate(job(offload=n, activation_share=share), node) for n in ("delta", "tsplit"))
    layer = next(b for b, _ in PipelinedJob(job(), single(node)).chunks[0].blocks if b.name == "layer")
    budget = on_tier(base, Tier.HBM, "activation") - LAYERS * (1 - share) * sum(t.bytes() for t in layer.saved)
    assert on_tier(whole, Tier.HBM, "activation") < on_tier(split, Tier.HBM, "activation")
    assert on_tier(split, Tier.HBM, "activation") == pytest.approx(budget, rel=1e-3)


def test_unified_memory_without_prefetch_stalls_for_every_fault() -> None:
    perfect, none = (estimate(job(offload="deepum", activation_share=0.8, prefetch_hit_ratio=r)) for r in (1.0, 0.0))
    planned = estimate(job(offload="swapadvisor", activation_share=0.8))
    assert perfect.seconds == planned.seconds
    host = none.traffic.by_link["host"]
    assert host == pytest.approx(planned.traffic.by_link["host"])
    rate = load_node("dgx-a100-640").accelerator.host_link.achievable
    assert none.seconds - perfect.seconds > 0.9 * host / 2 / rate - planned.time.parts.get("offload", 0.0)


def test_flash_takes_its_share_of_a_planned_migration() -> None:
    shares = [estimate(job(offload="g10", activation_share=0.2, flash_share=s)) for s in (0.0, 0.6, 1.0)]
    flash = [on_tier(r, Tier.NVME) for r in shares]
    assert flash[0] == 0 < flash[1] < flash[2]
    assert on_tier(shares[2], Tier.HOST) == 0
    assert flash[2] == pytest.approx(on_tier(shares[0], Tier.HOST))


def test_efficiency_formula_gives_the_published_requirements() -> None:
    """Catalogue §12: peak 70 TFLOP/s, 2048 tokens: parameters at 60 GB/s, 1024 at 70 GB/s, optimizer at 1.5 TB/s."""
    assert offload_efficiency(2048, 60e9, 70e12) == pytest.approx(0.637, abs=5e-4)
    assert offload_efficiency(1024, 70e9, 70e12) == pytest.approx(0.506, abs=5e-4)
    assert offload_efficiency(512, 1500e9, 70e12) == pytest.approx(0.916, abs=5e-4)


def test_unhidden_parameter_traffic_costs_what_the_formula_says() -> None:
    """Without overlap a layer's efficiency is ait·bw/(ait·bw + peak) with ait = FLOPs per byte fetched."""
    node = with_host_link(load_node("dgx-a100-640"), 20e9)
    model = gpt(layers=LAYERS, hidden=4096, heads=32)
    plan: dict[str, Any] = {"precision": "fp16", "batch": (1, 1)}
    moving = PipelinedJob(job(model, offload="zero-infinity", offload_prefetch=0, **plan), single(node))
    plain = PipelinedJob(job(model, **plan), single(node))
    ours, theirs = (next(b for b, _ in x.chunks[0].blocks if b.name == "layer") for x in (moving, plain))
    slow, fast = moving.pricer(0).forward(ours), plain.pricer(0).forward(theirs)
    moved = sum(t.bytes() for t in ours.states if t.cls.value == "param")
    expected = offload_efficiency(fast.flops / moved, node.accelerator.host_link.achievable, fast.flops / fast.seconds)
    assert fast.seconds / slow.seconds == pytest.approx(expected, rel=1e-6)


def test_smallest_window_covers_a_transfer() -> None:
    assert smallest_window(1.0, 0.5, 24) == 1
    assert smallest_window(1.0, 3.0, 24) == 3
    assert smallest_window(1.0, 3.1, 24) == 4
    assert smallest_window(0.1, 100.0, 24) == 24
