"""Recomputation against closed forms, brute force and its limits."""

from __future__ import annotations

import itertools
import math
from functools import cache
from types import MappingProxyType
from typing import Any

import pytest
from memory_jobs import LAYERS, estimate, job, on_tier, single

from simulator.hardware import load_node
from simulator.strategies.recompute.dropping import recompute_tensors
from simulator.strategies.recompute.periodic import binomial_steps, extra_forwards
from simulator.strategies.recompute.planning import Action, LayerProblem, greedy, optimal
from simulator.training.pipelined import PipelinedJob
from simulator.workload.ops import Block, Phase, Tier

UNFUSED: dict[str, Any] = {"framework": "megatron-lm-2021"}


def layer_of(**plan: Any) -> Block:
    chunks = PipelinedJob(job(**plan), single(load_node("dgx-a100-640"))).chunks
    return next(block for block, _ in chunks[0].blocks if block.name == "layer")


@cache
def fewest(steps: int, slots: int) -> int:
    """Least repeated forward steps by dynamic programming: go to step k, keep it, reverse behind it, then before it."""
    if steps <= 1:
        return 0
    if slots == 1:
        return steps * (steps - 1) // 2
    return min(k + fewest(steps - k, slots - 1) + fewest(k, slots) for k in range(1, steps))


@pytest.mark.parametrize("slots", [1, 2, 3, 5])
def test_binomial_checkpointing_is_the_optimum_of_the_recurrence(slots: int) -> None:
    for steps in range(1, 30):
        assert extra_forwards(steps, slots) == fewest(steps, slots)


def test_binomial_checkpointing_reverses_ten_steps_with_three_slots_twice() -> None:
    assert binomial_steps(3, 2) == 10
    assert extra_forwards(10, 3) <= 2 * 10 < extra_forwards(11, 3) + 11  # r = 3 from 11 steps on


def test_every_layer_uniform_is_full_recomputation() -> None:
    full, uniform = estimate(job(recompute="full")), estimate(job(recompute="every-k", recompute_num_layers=1))
    assert uniform.seconds == pytest.approx(full.seconds, rel=1e-12)
    assert uniform.memory.worst.peak == full.memory.worst.peak


def test_block_method_runs_from_none_to_full() -> None:
    by_count = [
        estimate(job(recompute="every-k", recompute_method="block", recompute_num_layers=k)) for k in range(LAYERS + 1)
    ]
    none, full = estimate(job()), estimate(job(recompute="full"))
    assert by_count[0].seconds == pytest.approx(none.seconds, rel=1e-12)
    assert by_count[-1].seconds == pytest.approx(full.seconds, rel=1e-12)
    step = (full.seconds - none.seconds) / LAYERS
    for count, result in enumerate(by_count):
        assert result.seconds == pytest.approx(none.seconds + count * step, rel=1e-9)
        kept = on_tier(result, Tier.HBM, "activation")
        whole, least = on_tier(none, Tier.HBM, "activation"), on_tier(full, Tier.HBM, "activation")
        assert kept == pytest.approx(whole + count * (least - whole) / LAYERS)


def test_uniform_groups_keep_one_input_per_group_and_one_group_alive() -> None:
    layer, full_layer = layer_of(), layer_of(recompute="full")
    boundary, saved = full_layer.boundary.bytes(), sum(t.bytes() for t in layer.saved)
    full = estimate(job(recompute="full"))
    for size in (2, 4, 8):
        result = estimate(job(recompute="every-k", recompute_num_layers=size))
        freed = on_tier(full, Tier.HBM, "activation") - on_tier(result, Tier.HBM, "activation")
        assert freed == pytest.approx((LAYERS - LAYERS // size) * boundary)
        grown = on_tier(result, Tier.HBM, "workspace") - on_tier(full, Tier.HBM, "workspace")
        assert grown == pytest.approx((size - 1) * saved, rel=0.2)  # less where the head's logits are the larger peak
        assert result.seconds == pytest.approx(full.seconds, rel=1e-12)  # one more forward, however it is grouped


def test_sqrt_segments_need_least_memory_among_uniform_groups() -> None:
    """k·l/n + n·a is least near n = √(l·k/a); with inputs as large as a layer's activations that is √l."""
    sizes = {n: LAYERS / n + n for n in range(1, LAYERS + 1)}
    root = round(math.sqrt(LAYERS))
    assert sizes[root] == min(sizes.values())
    result = estimate(job(recompute="sqrt"))
    same = estimate(job(recompute="every-k", recompute_num_layers=root))
    assert result.memory.worst.peak == same.memory.worst.peak


def test_revolve_with_a_slot_per_layer_repeats_all_but_the_last_layer() -> None:
    """l slots: every layer runs once more, except the last, whose forward is the one its reversal needs."""
    assert extra_forwards(LAYERS, LAYERS) == LAYERS - 1
    assert extra_forwards(LAYERS, 1) == LAYERS * (LAYERS - 1) // 2
    base = estimate(job())
    few, many = (estimate(job(recompute="revolve", recompute_slots=c)) for c in (2, LAYERS))
    ratio = (few.seconds - base.seconds) / (many.seconds - base.seconds)
    assert ratio == pytest.approx(extra_forwards(LAYERS, 2) / (LAYERS - 1), rel=0.02)
    freed = on_tier(many, Tier.HBM, "activation") - on_tier(few, Tier.HBM, "activation")
    assert freed == pytest.approx((LAYERS - 2) * layer_of(recompute="full").boundary.bytes())


def test_dropping_the_core_attention_is_selective_recomputation() -> None:
    layer, selective = layer_of(**UNFUSED), layer_of(recompute="selective", **UNFUSED)
    gone = {t.name for t in layer.saved} - {t.name for t in selective.saved}
    again = recompute_tensors(layer, gone)
    assert sum(t.bytes() for t in again.saved) == sum(t.bytes() for t in selective.saved)
    ours, whole = ({op.name for op in b.backward if op.phase is Phase.RECOMPUTE} for b in (again, selective))
    assert whole - ours == {"attention.values.recompute"}  # a checkpointed region runs whole, its kept output too


def test_dropping_everything_recomputes_each_kernel_at_most_once() -> None:
    layer = layer_of(**UNFUSED)
    dropped = recompute_tensors(layer, {t.name for t in layer.saved})
    again = [op for op in dropped.backward if op.phase is Phase.RECOMPUTE]
    assert sum(op.flops() for op in again) <= sum(op.flops() for op in layer.forward)
    assert len({op.name for op in again}) == len(again)
    assert sum(t.bytes() for t in dropped.saved) == pytest.approx(layer.boundary.bytes())
    made = {t.name for t in dropped.saved}
    for op in dropped.backward:  # nothing is read before it exists
        for tensor in op.reads:
            if any(tensor.name == t.name for f in layer.forward for t in f.writes):
                assert tensor.name in made
        made |= {t.name for t in op.writes}


def problem(
    share: float, actions: tuple[Action, ...] = ("recompute",), framework: str = "megatron-lm-2021"
) -> LayerProblem:
    view = PipelinedJob(job(framework=framework), single(load_node("dgx-a100-640")))
    layer = next(block for block, _ in view.chunks[0].blocks if block.name == "layer")
    pricer = view.pricer(0)
    latency = pricer.tiers.node.accelerator.host_link.latency  # once per transfer, not per sum of transfers
    return LayerProblem(
        layer, MappingProxyType({}), lambda op: pricer.price(op).priced.seconds,
        lambda size: pricer.tiers.copy(Tier.HBM, Tier.HOST, size).seconds - latency,
        pricer.forward(layer).seconds, pricer.backward(layer).seconds,
        share * sum(t.bytes() for t in layer.saved), actions,
    )  # fmt: skip


def brute_force(task: LayerProblem) -> float:
    """Least extra seconds over all choices that meet the budget."""
    choices = [(None, *(a for a in task.actions if a == "swap" or name in task.made)) for name in task.sizes]
    best = math.inf
    for chosen in itertools.product(*choices):
        trial = {name: action for name, action in zip(task.sizes, chosen, strict=True) if action}
        if task.kept(trial) <= task.budget:
            best = min(best, task.cost(trial))
    return best


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.8])
def test_integer_programme_finds_the_cheapest_recomputation(share: float) -> None:
    """Checkmate within a layer: every set of recomputed tensors, by enumeration."""
    task = problem(share, framework="megatron-core-0.8")
    choice = optimal(task)
    assert task.kept(choice) <= task.budget
    assert task.cost(choice) == pytest.approx(brute_force(task), rel=1e-6, abs=1e-12)
    assert task.cost(greedy(task)) >= task.cost(choice) - 1e-12


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_joint_programme_finds_the_cheapest_of_all_plans(share: float) -> None:
    """POFO: every set of recomputed tensors with every set of swapped ones among the rest, by enumeration."""
    task = problem(share, ("recompute", "swap"), "megatron-core-0.8")
    best = math.inf
    names = list(task.sizes)
    for dropped in (set(c) for n in range(len(names) + 1) for c in itertools.combinations(names, n)):
        if not dropped <= task.made:
            continue
        again: dict[str, Action] = dict.fromkeys(dropped, "recompute")
        kept, seconds = task.kept(again), task.cost(again)
        others = [task.sizes[n] for n in names if n not in dropped]
        for moved in (sum(c) for n in range(len(others) + 1) for c in itertools.combinations(others, n)):
            if kept - moved <= task.budget:
                out = task.swap_seconds(moved) if moved else 0.0
                stalls = max(0.0, out - task.forward_seconds) + max(0.0, out - task.backward_seconds)
                best = min(best, seconds + stalls)
    choice = optimal(task)
    assert task.kept(choice) <= task.budget
    assert task.cost(choice) == pytest.approx(best, rel=1e-6, abs=1e-12)


def test_with_no_budget_only_the_input_of_the_layer_stays() -> None:
    task = problem(0.0)
    assert task.kept(optimal(task)) == pytest.approx(task.block.boundary.bytes())


@pytest.mark.parametrize("share", [0.1, 0.4, 0.7])
def test_swaps_never_make_the_optimum_worse(share: float) -> None:
    alone, joint = problem(share), problem(share, ("recompute", "swap"))
    best = optimal(joint)
    assert joint.kept(best) <= joint.budget
    assert joint.cost(best) <= alone.cost(optimal(alone)) + 1e-9
    assert joint.cost(greedy(joint)) >= joint.cost(best) - 1e-9
    assert joint.cost(greedy(joint, swap_first=True)) >= joint.cost(best) - 1e-9


def test_a_budget_for_everything_changes_nothing_and_costs_fall_with_the_budget() -> None:
    assert optimal(problem(1.0)) == {} == greedy(problem(1.0))
    costs = [problem(s).cost(optimal(problem(s))) for s in (0.05, 0.2, 0.4, 0.6, 0.8, 1.0)]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] > 0 == costs[-1]


@pytest.mark.parametrize("name", ["checkmate", "dtr"])
def test_planners_do_nothing_where_all_fits_and_fit_where_it_does_not(name: str) -> None:
    small = estimate(job(recompute=name))
    assert small.seconds == estimate(job()).seconds
    large = (16, 16)
    node = load_node("dgx-a100-320")
    assert not estimate(job(batch=large), node).feasible
    planned, full = estimate(job(batch=large, recompute=name), node), estimate(job(batch=large, recompute="full"), node)
    assert planned.feasible
    assert planned.seconds <= full.seconds
    assert full.memory.worst.peak <= planned.memory.worst.peak <= planned.memory.worst.capacity


@pytest.mark.parametrize(("name", "bits"), [("mesa", 8), ("gact", 4)])
def test_compressed_activations_are_bits_over_sixteen(name: str, bits: int) -> None:
    layer, small = layer_of(), layer_of(recompute=name)
    expected = sum(
        t.bytes() if t.dtype in ("bool", "int32") else t.bytes() * bits / (32 if t.dtype == "fp32" else 16)
        for t in layer.saved
    )
    assert sum(t.bytes() for t in small.saved) == pytest.approx(expected)
    assert sum(op.flops() for op in small.ops if "quantise" not in op.name) == sum(op.flops() for op in layer.ops)
