"""Planners that decide stages, layers or devices by their own mathematics before plans are run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from simulator.registry import register
from simulator.strategies.planner.exhaustive import Exhaustive
from simulator.strategies.planner.problem import LayerPricing, PlanBound, PlanProblem, RankedPlans
from simulator.strategies.planner.slicing import balance_shares, decide_layers, slice_stages
from simulator.workload.counting import parameters
from simulator.workload.plan import Plan

if TYPE_CHECKING:
    from simulator.results.estimate import Estimate

__all__ = ["AlpaPlanner", "GalvatronPlanner", "MixedDevices"]

MOST_LAYERS = 24
"""Layers are grouped to at most this many before stages are cut, as Alpa clusters operators."""


class _Ranked:
    """An evaluation that sees only some plans, in place of the whole space."""

    def __init__(self, evaluate: Callable[[Plan], Estimate], keep: int) -> None:
        self.evaluate, self.keep = evaluate, keep

    def best(self, ranked: list[tuple[float, Plan]], considered: int) -> RankedPlans:
        """Run the most promising plans."""
        found = RankedPlans()
        found.considered = considered
        found.reasons["sizes"] = considered - len(ranked)
        for _, plan in sorted(ranked, key=lambda r: r[0])[: 4 * self.keep]:
            found.add(plan, self.evaluate(plan), self.keep)
        found.reasons["slower"] += max(0, len(ranked) - 4 * self.keep)
        return found


@register(
    "alpa",
    kind="planner",
    area="training",
    family="planner",
    cites=("Zheng et al. 2022 (Alpa), arXiv 2201.12023",),
    catalogue=("Alpa",),
    validated_by="closed_form",
)
class AlpaPlanner:
    """Ranks plans by t* = Σ t_i + (m−1)·max t_i over intra-op choices, then runs the best of them.

    Plans give every stage the same mesh. What stages of unequal meshes would reach, by Alpa's dynamic programme over
    layers and sub-meshes, is stated in ``notes``.
    """

    name: str

    def search(self, problem: PlanProblem, evaluate: Callable[[Plan], Estimate]) -> RankedPlans:
        """The best plans by t*, run."""
        if not isinstance(evaluate, LayerPricing):
            return Exhaustive().search(problem, evaluate)
        ranked, considered = [], 0
        bound = getattr(evaluate, "bound", lambda plan: PlanBound(0.0))
        for plan in problem.plans():
            considered += 1
            if plan.virtual_stages == 1 and not bound(plan).reason:
                ranked.append((self.latency(problem, plan, evaluate), plan))
        found = _Ranked(evaluate, problem.keep).best(ranked, considered)
        if found:
            found.notes.append(self._unequal(problem, found[0][0], evaluate))
        return found

    def latency(self, problem: PlanProblem, plan: Plan, evaluate: LayerPricing) -> float:
        """t* of equal stages [s]."""
        costs = np.array([c.seconds for c in evaluate.layers(plan)])
        stages = [float(part.sum()) for part in np.array_split(costs, plan.pipeline_parallel)]
        return sum(stages) + (_microbatches(problem, plan) - 1) * max(stages)

    def _unequal(self, problem: PlanProblem, plan: Plan, evaluate: LayerPricing) -> str:
        """What unequal stages would reach."""
        costs = [float(p.sum()) for p in np.array_split([c.seconds for c in evaluate.layers(plan)], MOST_LAYERS)]
        units = plan.pipeline_parallel  # a unit is the mesh of one stage of the plan
        meshes = [2**k for k in range(units.bit_length()) if 2**k <= units]
        total = np.concatenate(([0.0], np.cumsum(costs)))
        m = _microbatches(problem, plan)
        found = slice_stages(lambda i, j, k: float(total[j] - total[i]) / meshes[k], len(costs), meshes, units, m)
        even = self.latency(problem, plan, evaluate)
        return (
            f"unequal stages at perfect scaling: {found.seconds:.4g} s against {even:.4g} s of equal ones (layers only)"
        )


@register(
    "galvatron",
    kind="planner",
    area="training",
    family="planner",
    cites=("Miao et al. 2022 (Galvatron), arXiv 2211.13878",),
    catalogue=("Galvatron",),
    validated_by="closed_form",
)
class GalvatronPlanner:
    """The best uniform plan, and the best strategy per layer under the memory budget by dynamic programme.

    A plan gives all layers one strategy, so the plans returned are uniform ones; ``notes`` says which mix of strategies
    per layer the dynamic programme would take instead and what it gains.
    """

    name: str

    def search(self, problem: PlanProblem, evaluate: Callable[[Plan], Estimate]) -> RankedPlans:
        """The best uniform plans, and the best mix as a note."""
        found = Exhaustive().search(problem, evaluate)
        if found and isinstance(evaluate, LayerPricing):
            found.notes.append(self._mix(problem, found[0][0], evaluate))
        return found

    def _mix(self, problem: PlanProblem, plan: Plan, evaluate: LayerPricing) -> str:
        """Per-layer decisions among the recomputations and ZeRO stages of the problem, others as in ``plan``."""
        stages = [z for z in problem.zero_stage if z < 2 or plan.pipeline_parallel == 1]
        ways = [replace(plan, recompute=r, zero_stage=z) for r in problem.recompute for z in stages]
        layers = [evaluate.layers(w)[:: plan.pipeline_parallel] for w in ways]
        flights = min(plan.pipeline_parallel, _microbatches(problem, plan))
        seconds = [[layer[i].seconds for layer in layers] for i in range(len(layers[0]))]
        held = [[layer[i].states + flights * layer[i].activations for layer in layers] for i in range(len(layers[0]))]
        budget = 0.9 * min(g.node.accelerator.memory_usable for g in problem.cluster.groups)
        free = [[0.0] * len(ways) for _ in ways]
        best = decide_layers(seconds, held, free, budget)
        if not best.chosen:
            return "no mix of strategies per layer fits"
        counts = {ways[s]: best.chosen.count(s) for s in dict.fromkeys(best.chosen)}
        mix = ", ".join(f"{n} layers recompute={w.recompute} zero{w.zero_stage}" for w, n in counts.items())
        return f"best mix per layer of the first stage: {mix}; {best.seconds:.4g} s per micro-batch"


@register(
    "mixed-devices",
    kind="planner",
    area="training",
    family="planner",
    cites=(
        "Jia et al. 2022 (Whale), arXiv 2011.09208",
        "Zhang et al. 2024 (HAP), EuroSys",
        "Jiang et al. 2024 (HexGen), arXiv 2311.11514",
    ),
    catalogue=("Whale, HAP, Metis",),
    validated_by="closed_form",
)
class MixedDevices:
    """Plans for clusters of unequal nodes: with the first group alone, the first two, and so on up to all.

    ``notes`` gives the shares of work in proportion to speed within the memories, and what equal shares lose.
    """

    name: str

    def search(self, problem: PlanProblem, evaluate: Callable[[Plan], Estimate]) -> RankedPlans:
        """The best plans over the groups used."""
        found = RankedPlans()
        used = 0
        for group in problem.cluster.groups:
            used += group.count * group.node.accelerators
            part = Exhaustive().search(replace(problem, accelerators=used), evaluate)
            found.considered += part.considered
            found.reasons += part.reasons
            for plan, estimate in part:
                found.add(plan, estimate, problem.keep)
        found.notes.append(self._shares(problem))
        return found

    def _shares(self, problem: PlanProblem) -> str:
        devices = [g.node.accelerator for g in problem.cluster.groups for _ in range(g.count * g.node.accelerators)]
        speeds = [d.peak("bf16") for d in devices]
        states = 16.0 * parameters(problem.model)
        caps = [min(1.0, d.memory_usable / states) for d in devices]
        shares = balance_shares(speeds, caps)
        if any(math.isnan(s) for s in shares):
            return "the memories together cannot hold the states once"
        equal = 1 / len(speeds) / min(speeds)
        balanced = max(s / v for s, v in zip(shares, speeds, strict=True))
        faster = equal / balanced
        return f"shares in proportion to speed within the memories would be {faster:.2f} times as fast as equal ones"


def _microbatches(problem: PlanProblem, plan: Plan) -> int:
    size = plan.option("micro_batch_size", problem.batch.micro_batch_size)
    assert isinstance(size, int)
    return problem.batch.global_batch_size // (size * plan.data_parallel)
