"""Mixed accelerators: degrees and layers of every stage by the speed and memory of the nodes it runs on."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING

import numpy as np

from simulator.hardware.types import NodeGroup
from simulator.registry import register
from simulator.strategies.planner.beside_equal import Kind, gain
from simulator.strategies.planner.exhaustive import Exhaustive
from simulator.strategies.planner.problem import LayerPricing, PlanProblem, RankedPlans
from simulator.strategies.planner.slicing import balance_shares, cut_layers
from simulator.strategies.planner.stage_choice import (
    SHARES,
    Candidate,
    StageTimes,
    Way,
    best_of_stage,
    group_sizes,
    joined,
    microbatch_sizes,
    run_best,
    ways_of,
)
from simulator.workload.counting import parameters
from simulator.workload.plan import Plan

if TYPE_CHECKING:
    from simulator.results.estimate import Estimate

__all__ = ["MixedDevices"]

MOST_GROUPS = 32
"""Layers are joined to at most this many groups before they are dealt out."""

MOST_COMBINATIONS = 4000
"""Ways to cut the groups of nodes into stages that are tried, those of few stages first."""

STEP = 0.01

UNEQUAL = Kind("unequal stages", "best of unequal stages", "equal stages", lambda plan: bool(plan.stages))

Dealt = tuple[tuple[tuple[Way, int, str], ...], float]
"""Way, layers and node of every stage, and the latency of the pipeline [s]."""


@register(
    "mixed-devices",
    kind="planner",
    area="training",
    family="planner",
    cites=(
        "Jia et al. 2022 (Whale), arXiv 2011.09208",
        "Zhang et al. 2024 (HAP), EuroSys",
        "Jiang et al. 2024 (HexGen), arXiv 2311.11514",
        "Li et al. 2022 (AMP), arXiv 2210.07297",
    ),
    catalogue=("Whale, HAP, Metis",),
    validated_by="closed_form",
)
class MixedDevices:
    """Plans for clusters of unequal nodes: stages of their own degrees on each kind, layers in proportion to speed.

    Every group of nodes is cut into equal stages with the tensor and data degrees that suit it (HexGen), and the
    layers are dealt out by the dynamic programme of AMP within the memories (Whale). Beside these, plans of equal
    stages on the first group alone, the first two, and so on. ``notes`` gives the shares in proportion to speed, and
    what equal shares lose.
    """

    name: str

    def search(self, problem: PlanProblem, evaluate: Callable[[Plan], Estimate]) -> RankedPlans:
        """The best plans over the groups used."""
        found, used = RankedPlans(), 0
        for group in problem.cluster.groups:
            used += group.count * group.node.accelerators
            part = Exhaustive().search(replace(problem, accelerators=used), evaluate)
            found.considered += part.considered
            found.evaluated += part.evaluated - len(part)
            found.reasons += part.reasons
            for plan, estimate in part:
                found.add(plan, estimate, problem.keep)
        kinds = {g.node.name for g in problem.cluster.groups}
        if isinstance(evaluate, LayerPricing) and 1 < len(kinds) == len(problem.cluster.groups):
            equal = found[0][1].seconds if found else math.nan
            run_best(self.candidates(problem, evaluate), evaluate, found, problem.keep)
            found.notes.append(gain(found, equal, UNEQUAL))
        found.notes.append(self._shares(problem))
        return found

    def candidates(self, problem: PlanProblem, evaluate: LayerPricing) -> list[Candidate]:
        """Unequal plans over all groups, with their latency."""
        deal = cache(partial(self.deal, problem, evaluate))
        made = []
        for whole, pools in itertools.islice(self._combinations(problem), MOST_COMBINATIONS):
            _, seconds = deal(whole, pools, SHARES[0])
            if math.isfinite(seconds):
                made.append(Candidate(seconds, partial(_plan, problem, deal, whole, pools)))
        return made

    def deal(
        self, problem: PlanProblem, evaluate: LayerPricing, whole: int, pools: tuple[tuple[int, int, int], ...],
        share: float,
    ) -> Dealt:  # fmt: skip
        """Layers of every stage, given the (group, stages, tensor degree) of every pool."""
        sizes = group_sizes(problem.layers, MOST_GROUPS)
        total = sum(stages for _, stages, _ in pools)
        tables, kinds = list[StageTimes](), list[tuple[list[Way], str]]()
        for number, stages, tensor in pools:
            group = problem.cluster.groups[number]
            devices = group.count * group.node.accelerators // stages
            ways = [w for w in ways_of(problem, devices, whole, group.node.accelerators)
                    if w.plan.tensor_parallel == tensor]  # fmt: skip
            for _ in range(stages):
                behind = total - 1 - len(tables)
                tables.append(best_of_stage(problem, evaluate, ways, group.node, behind, len(sizes), share))
                kinds.append((ways, group.node.name))
        cut = cut_layers(np.stack([t.seconds for t in tables]), problem.batch.global_batch_size // whole, STEP)
        ends = np.concatenate(([0], np.cumsum(cut.layers, dtype=np.int64))).tolist()
        dealt = tuple(
            (ways[int(table.way[first, past])], sum(sizes[first:past]), kind)
            for table, (ways, kind), (first, past) in zip(tables, kinds, itertools.pairwise(ends), strict=False)
        )
        return dealt, cut.seconds

    def _combinations(self, problem: PlanProblem) -> Iterator[tuple[int, tuple[tuple[int, int, int], ...]]]:
        """Sequences of a micro-batch and the pools of every group that can take them, few stages first."""
        found = []
        for whole in microbatch_sizes(problem):
            per_group = [
                [(number, stages, tensor) for stages, tensor in _cuts(problem, group, whole)]
                for number, group in enumerate(problem.cluster.groups)
            ]
            found += [(whole, pools) for pools in itertools.product(*per_group)
                      if sum(stages for _, stages, _ in pools) <= problem.layers]  # fmt: skip
        yield from sorted(found, key=lambda c: (sum(stages for _, stages, _ in c[1]), -c[0]))

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


def _cuts(problem: PlanProblem, group: NodeGroup, whole: int) -> Iterator[tuple[int, int]]:
    """Stages of a group and their tensor degree."""
    held = group.count * group.node.accelerators
    for stages in problem.pipeline_parallel:
        if held % stages == 0:
            ways = ways_of(problem, held // stages, whole, group.node.accelerators)
            yield from ((stages, tensor) for tensor in sorted({w.plan.tensor_parallel for w in ways}))


def _plan(
    problem: PlanProblem, deal: Callable[[int, Sequence[object], float], Dealt], whole: int, pools: Sequence[object],
    share: float,
) -> Plan | None:  # fmt: skip
    dealt, seconds = deal(whole, pools, share)
    return joined(dealt, problem, names=True) if math.isfinite(seconds) else None
