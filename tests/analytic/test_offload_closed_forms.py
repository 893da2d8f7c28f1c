"""Offloaded activations and states against formulas, exhaustive enumeration, and limits that are known baselines."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from memory_jobs import LAYERS, estimate, gpt, job, on_tier, single, with_host_link

from simulator.cost.tiers import PAGE_FAULT
from simulator.hardware import Node, load_node
from simulator.strategies.offload.planned import Delta
from simulator.strategies.recompute.planning import LayerProblem, greedy, optimal
from simulator.training.decisions import settle
from simulator.training.pipelined import PipelinedJob
from simulator.workload.counting import parameters
from simulator.workload.ops import Block, Tier

UNIT = 4 * 2048 * 2048
"""Elements of s·b·h."""
FP16: dict[str, Any] = {"framework": "deepspeed-2022", "precision": "fp16", "recompute": "full"}


def a100(link: float = 20e9) -> Node:
    return with_host_link(load_node("dgx-a100-640"), link)


def rate(node: Node) -> float:
    return float(node.accelerator.host_link.achievable)


def layer(work: PipelinedJob) -> Block:
    return next(b for b, _ in work.chunks[0].blocks if b.name == "layer")


def choices(sizes: dict[str, float], budget: float) -> Iterator[float]:
    """Bytes that every set of swapped tensors moves which leaves no more than the budget."""
    whole = sum(sizes.values())
    for count in range(len(sizes) + 1):
        for moved in itertools.combinations(sizes.values(), count):
            if whole - sum(moved) <= budget * (1 + 1e-12):
                yield sum(moved)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_swapadvisor_and_autotm_find_the_best_of_all_sets(share: float) -> None:
    """Every subset of the saved tensors: the least stall where copies hide, the fewest bytes where they do not."""
    node = a100(5e9)
    plain = PipelinedJob(job(), single(node))
    sizes = {t.name: t.bytes() for t in layer(plain).saved}
    pricer = plain.pricer(0)
    hidden = [pricer.forward(layer(plain)).seconds, pricer.backward(layer(plain)).seconds]

    def stall(moved: float) -> float:
        return sum(max(0.0, moved / rate(node) - h) for h in hidden)

    possible = list(choices(sizes, share * sum(sizes.values())))

    def moved(name: str, **plan: Any) -> float:
        settled = settle(job(offload=name, activation_share=share, **plan), single(node))
        chosen = settled.plan.option("offload_tensors")
        assert isinstance(chosen, tuple)
        return sum(sizes[n] for n, _ in chosen)

    for name in ("swapadvisor", "autotm"):
        assert stall(moved(name)) == pytest.approx(min(map(stall, possible)), rel=1e-9)
    assert moved("autotm", copies="synchronous") == min(possible)


def test_copies_between_kernels_show_in_full() -> None:
    node = a100(5e9)
    base = estimate(job(), node)
    waits = estimate(job(offload="autotm", activation_share=0.5, copies="synchronous"), node)
    gone = on_tier(waits, Tier.HOST, "activation")
    assert waits.seconds - base.seconds == pytest.approx(2 * gone / rate(node), rel=1e-6)
    assert estimate(job(offload="autotm", activation_share=0.5), node).seconds < waits.seconds


def test_unified_memory_pays_a_fault_for_every_block() -> None:
    """DeepUM without a prediction: every 2 MiB block of a fetch stops the device for a fault and its transfer."""
    node = a100()
    late = PipelinedJob(job(offload="deepum", activation_share=0.5, prefetch_hit_ratio=0.0), single(node))
    plain = PipelinedJob(job(), single(node))
    faults = [t.bytes() for t in layer(late).saved if t.tier is Tier.HOST]
    blocks = sum(math.ceil(size / 2**21) for size in faults)
    extra = late.pricer(0).backward(layer(late)).seconds - plain.pricer(0).backward(layer(plain)).seconds
    assert extra == pytest.approx(sum(faults) / rate(node) + blocks * PAGE_FAULT.value, rel=1e-9)


def test_superneurons_moves_what_only_a_gemm_could_bring_back() -> None:
    """Of a GPT layer in s·b·h bytes: input 2, QKV 6, attention 2 and statistics, sum and masks 2 + 1 + 1, MLP-up 8."""
    result = estimate(job(offload="superneurons"))
    statistics = 4 * 16 * 4 * 2048  # fp32, per head and token
    assert result.traffic.by_link["host"] == 2 * LAYERS * (22 * UNIT + statistics)
    run = PipelinedJob(job(offload="superneurons"), single(load_node("dgx-a100-640")))
    again = [op.name for op in layer(run).backward if op.phase.value == "recompute"]
    assert sorted(again) == ["attention.norm.recompute", "mlp.act.recompute", "mlp.norm.recompute"]


def test_delta_is_dtr_on_a_dead_link_and_free_on_an_infinite_one() -> None:
    dead, free = a100(1.0), a100(1e18)
    plan: dict[str, Any] = {"activation_share": 0.4}
    delta, dtr = (
        settle(job(**{kind: name}, **plan), single(dead)).plan
        for kind, name in (("offload", "delta"), ("recompute", "dtr"))
    )
    assert delta.option("offload_tensors") == dtr.option("recompute_tensors")
    assert estimate(job(offload="delta", **plan), dead).seconds == estimate(job(recompute="dtr", **plan), dead).seconds
    assert estimate(job(offload="delta", **plan), free).seconds == pytest.approx(
        estimate(job(), free).seconds, rel=2e-3
    )


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7])
@pytest.mark.parametrize("link", [2e9, 10e9, 20e9, 30e9, 50e9, 1e11, 1e12])
def test_delta_is_no_worse_than_swapping_or_recomputing_alone(share: float, link: float) -> None:
    """Its director takes the cheaper action per tensor (arXiv 2203.15980 abstract), so neither alone is better.

    Nor is swapping first, which the abstract argues against. Never below the exact optimum of the same problem.
    """
    view = PipelinedJob(job(), single(a100()))
    block, pricer = layer(view), view.pricer(0)
    task = LayerProblem(
        block, view.mesh(0), lambda op: pricer.price(op).priced.seconds, lambda size: size / link,
        pricer.forward(block).seconds, pricer.backward(block).seconds,
        share * sum(t.bytes() for t in block.saved), Delta.actions,
    )  # fmt: skip
    delta = task.cost(Delta().solve(task))
    for actions in (("swap",), ("recompute",)):
        assert delta <= task.cost(greedy(replace(task, actions=actions))) + 1e-9
    assert delta <= task.cost(greedy(task, swap_first=True)) + 1e-9
    assert delta >= task.cost(optimal(task)) - 1e-9


@pytest.mark.parametrize("link", [1e9, 1e10, 1e11])
def test_delta_of_one_tensor_is_the_cheaper_of_its_two_actions(link: float) -> None:
    """Closed form: min(time of what makes it, max(0, size/link − forward) + max(0, size/link − backward))."""
    view = PipelinedJob(job(), single(a100()))
    block, pricer = layer(view), view.pricer(0)
    maker = next(op for op in block.forward if op.name == "mlp.up")
    only = tuple(replace(op, saves=maker.writes if op is maker else ()) for op in block.forward)
    size, again = maker.writes[0].bytes(), pricer.price(maker).priced.seconds
    forward, backward = 1e-3, 2e-3
    task = LayerProblem(
        replace(block, forward=only), view.mesh(0), lambda op: again if op.name == "mlp.up" else 0.0,
        lambda moved: moved / link, forward, backward, block.boundary.bytes(), Delta.actions,
    )  # fmt: skip
    choice = Delta().solve(task)
    assert set(choice) == {maker.writes[0].name}
    stall = max(0.0, size / link - forward) + max(0.0, size / link - backward)
    assert task.cost(choice) == pytest.approx(min(again, stall))


def test_capuchin_only_recomputes_on_a_dead_link_and_only_swaps_while_that_hides() -> None:
    def actions(node: Node, share: float) -> set[str]:
        chosen = settle(job(offload="capuchin", activation_share=share), single(node)).plan.option("offload_tensors")
        assert isinstance(chosen, tuple)
        return {action for _, action in chosen}

    assert actions(a100(1.0), 0.4) == {"recompute"}
    assert actions(a100(1e18), 0.4) == {"swap"}


def test_g10_gives_flash_what_it_can_write_during_a_forward() -> None:
    """Tensor by tensor: never more than the drives write in a layer's forward, and not a whole tensor less."""
    plan: dict[str, Any] = {"offload": "g10", "activation_share": 0.3}
    node = a100()
    assert node.nvme is not None
    moved = estimate(job(**plan), node)
    run = PipelinedJob(job(**plan), single(node))
    away = {t.name: t for t in layer(run).saved if t.tier is not Tier.HBM}
    plain = PipelinedJob(job(), single(node))
    hides = plain.pricer(0).forward(layer(plain)).seconds * min(node.nvme.write, rate(node))
    flash = sum(t.bytes() for t in away.values() if t.tier is Tier.NVME)
    left = [t.bytes() for t in away.values() if t.tier is Tier.HOST]
    assert 0 < flash <= hides * (1 + 1e-6)
    assert all(flash + size > hides for size in left)
    assert on_tier(moved, Tier.NVME) == pytest.approx(LAYERS * flash)


def test_g10_without_drives_swaps_to_the_host_and_with_fast_ones_to_flash_alone() -> None:
    plan: dict[str, Any] = {"activation_share": 0.3}
    bare = replace(a100(), nvme=None)
    ours, theirs = (estimate(job(offload=name, **plan), bare) for name in ("g10", "swapadvisor"))
    assert ours.feasible
    assert ours.seconds == theirs.seconds
    fast = a100(1e18)
    assert fast.nvme is not None
    result = estimate(job(offload="g10", **plan), replace(fast, nvme=replace(fast.nvme, read=1e18, write=1e18)))
    assert on_tier(result, Tier.HOST) == 0 < on_tier(result, Tier.NVME)


def test_angel_ptm_never_waits_for_its_drives() -> None:
    """Updates on SSD are decoupled: the step is that of the offload without an optimizer, however slow drives are."""
    plan: dict[str, Any] = {"offload": "angel-ptm", "resident_layers": 0, **FP16}
    node = load_node("dgx-a100-640")
    assert node.nvme is not None
    slow = replace(node, nvme=replace(node.nvme, read=1e6, write=1e6))
    host, fast, crawling = (
        estimate(job(**plan)),
        estimate(job(offload_optimizer="nvme", **plan)),
        estimate(job(offload_optimizer="nvme", **plan), slow),
    )
    assert fast.seconds == crawling.seconds
    assert fast.seconds == pytest.approx(host.seconds - host.time.parts["optimizer"], rel=1e-9)
    assert any("several of them late" in w for w in fast.warnings)


def test_mobius_loads_each_stage_twice_and_returns_its_gradients_once() -> None:
    """2 B per parameter for the forward, 2 B for the backward, 2 B of gradients, whatever the micro-batches."""
    shape: dict[str, Any] = {
        "pipeline_parallel": 2,
        "virtual_stages": 2,
        "schedule": "breadth-first",
        "offload": "mobius",
    }
    rank = 12 * 2048**2 * LAYERS / 2 + 50304 * 2048  # half of the layers and the embedding or the head
    for microbatches in (4, 16):
        result = estimate(job(batch=(4 * microbatches, 4), **shape, **FP16))
        assert result.traffic.by_link["host"] == pytest.approx(6 * rank, rel=2e-3)


def test_patrickstar_moves_whole_layers_only_and_reserves_two_chunks() -> None:
    """Layers outside HBM cost 16 B per parameter on the host; two chunks of 64 Mi 16-bit elements stay reserved."""
    for resident in (0, 3, LAYERS):
        result = estimate(job(offload="patrickstar", resident_layers=resident, **FP16))
        moved = 16 * 12 * 2048**2 * (LAYERS - resident)
        assert on_tier(result, Tier.HOST) == pytest.approx(moved, rel=2e-3)
    large, small = (
        estimate(job(offload="patrickstar", resident_layers=LAYERS, chunk_size=size, **FP16)) for size in (2**26, 2**20)
    )
    gap = on_tier(large, Tier.HBM, "workspace") - on_tier(small, Tier.HBM, "workspace")
    assert gap == 2 * 2 * (2**26 - 2**20)


BEHEMOTH: dict[str, Any] = {"offload": "behemoth", "precision": "fp16", "framework": "deepspeed-2022"}


def test_behemoth_holds_everything_on_flash_and_nothing_in_host_memory() -> None:
    """16 B per parameter and every saved activation; what crosses the flash link by hand.

    Parameters come in for forward and backward, gradients leave per micro-batch, and the update reads gradients and
    states (14 B) and writes states and parameters (14 B). A tied head reads the token embedding once more each way.
    """
    size, tied = float(parameters(gpt())), 50304 * 2048
    result = estimate(job(**BEHEMOTH))
    plain = estimate(job(precision="fp16", framework="deepspeed-2022"))
    layers = sum(t.bytes() for t in layer(PipelinedJob(job(**BEHEMOTH), single(load_node("dgx-a100-640")))).saved)
    assert on_tier(result, Tier.NVME) == pytest.approx(16 * size + LAYERS * layers, rel=1e-3)
    assert on_tier(result, Tier.HOST) == 0
    moved = (2 + 2 + 2 + 14 + 14) * size + (2 + 2) * tied + 2 * LAYERS * layers
    assert result.traffic.by_link["nvme"] == pytest.approx(moved, rel=1e-3)
    assert result.seconds > plain.seconds


def test_behemoth_with_infinite_flash_is_training_in_device_memory() -> None:
    node = a100(1e18)
    assert node.nvme is not None
    node = replace(node, nvme=replace(node.nvme, read=1e18, write=1e18))
    plain, flash = (
        estimate(job(precision="fp16", framework="deepspeed-2022"), node), estimate(job(**BEHEMOTH), node)
    )  # fmt: skip
    without = [r.seconds - r.time.parts["optimizer"] for r in (flash, plain)]
    assert without[0] == pytest.approx(without[1], rel=2e-3)
    assert flash.time.parts["optimizer"] <= plain.time.parts["optimizer"]  # gradients are clipped as they are read


def test_flash_wears_by_what_is_written() -> None:
    """Endurance over bytes per second: gradients 2 B and activations each micro-batch, states and parameters 14 B."""
    node = load_node("dgx-a100-640")
    assert node.nvme is not None
    node = replace(node, nvme=replace(node.nvme, endurance=1e17))
    for microbatches in (1, 3):
        result = estimate(job(batch=(4 * microbatches, 4), **BEHEMOTH), node)
        layers = sum(t.bytes() for t in layer(PipelinedJob(job(**BEHEMOTH), single(node))).saved)
        written = (2 * microbatches + 14) * float(parameters(gpt())) + microbatches * LAYERS * layers
        assert result.metrics["flash_written"] == pytest.approx(written, rel=1e-3)
        assert result.metrics["flash_lifetime"] == pytest.approx(1e17 / written * result.seconds, rel=1e-3)
    assert "flash_written" not in estimate(job()).metrics
