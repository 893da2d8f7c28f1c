"""Alpa: stages of unequal meshes by dynamic programme, the best intra-operator choice in each."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING

import numpy as np

from simulator.registry import register
from simulator.strategies.planner.beside_equal import Kind, search_beside_equal
from simulator.strategies.planner.problem import LayerPricing, PlanProblem, RankedPlans
from simulator.strategies.planner.slicing import Slicing, slice_stages
from simulator.strategies.planner.stage_choice import (
    SHARES,
    Candidate,
    StageTimes,
    Way,
    best_of_stage,
    group_sizes,
    joined,
    microbatch_sizes,
    ways_of,
)
from simulator.workload.plan import Plan

if TYPE_CHECKING:
    from simulator.results.estimate import Estimate

__all__ = ["AlpaPlanner"]

MOST_GROUPS = 12
"""Layers are joined to at most this many groups before stages are cut, as Alpa clusters operators."""

MOST_NODES = 4
"""Up to so many nodes any number makes a sub-mesh, beyond it powers of two."""

STEP = 0.02
"""Limits of the longest stage closer than this are not told apart."""

UNEQUAL = Kind("stages of unequal meshes", "best of unequal meshes", "equal stages", lambda plan: bool(plan.stages))

Slices = tuple[Slicing, Callable[[int, int, int, int], Way]]
"""Slices of least latency, and the way of each by first layer, past, mesh and stages behind."""


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
    """Least t* = Σ t_i + (m−1)·max t_i over slices of the layers, sub-meshes and the intra-op choice of each stage.

    Stages may differ in devices, tensor and data degree, sharding and recomputation; the plans of the least t* for
    every number of micro-batches are run, beside the best of equal stages. Sub-meshes are powers of two inside a node
    and whole nodes, as in the paper; its integer programme over shardings of every operator is the choice among the
    tensor strategies here.
    """

    name: str

    def search(self, problem: PlanProblem, evaluate: Callable[[Plan], Estimate]) -> RankedPlans:
        """The best plans by t*, run."""
        return search_beside_equal(problem, evaluate, UNEQUAL, partial(self.candidates, problem))

    def candidates(self, problem: PlanProblem, evaluate: LayerPricing) -> list[Candidate]:
        """The slices of least t* for every micro-batch."""
        slices = cache(partial(self.slice, problem, evaluate))
        return [
            Candidate(slicing.seconds, partial(_plan, problem, slices, whole))
            for whole in microbatch_sizes(problem)
            if (slicing := slices(whole, SHARES[0])[0]).stages
        ]

    def slice(self, problem: PlanProblem, evaluate: LayerPricing, whole: int, share: float) -> Slices:
        """The slices of least t* for micro-batches of ``whole`` sequences, and the way of each stage."""
        node = problem.cluster.groups[0].node
        groups, devices = min(problem.layers, MOST_GROUPS), problem.size
        meshes = submeshes(node.accelerators, devices)
        ways = [ways_of(problem, mesh, whole, node.accelerators) for mesh in meshes]
        most = min(groups, max(problem.pipeline_parallel))
        tables: dict[tuple[int, int], StageTimes] = {}

        def table(mesh: int, behind: int) -> StageTimes:
            if (mesh, behind) not in tables:
                tables[mesh, behind] = best_of_stage(problem, evaluate, ways[mesh], node, behind, groups, share)
            return tables[mesh, behind]

        def latency(first: int, past: int, mesh: int, behind: int) -> float:
            return float(table(mesh, behind).seconds[first, past]) if behind < most and ways[mesh] else np.inf

        microbatches = problem.batch.global_batch_size // whole
        slicing = slice_stages(latency, groups, meshes, devices, microbatches, STEP, most)
        return slicing, lambda first, past, mesh, behind: ways[mesh][int(table(mesh, behind).way[first, past])]


def _plan(problem: PlanProblem, slices: Callable[[int, float], Slices], whole: int, share: float) -> Plan | None:
    slicing, way = slices(whole, share)
    if not slicing.stages:
        return None
    sizes = group_sizes(problem.layers, MOST_GROUPS)
    behind = range(len(slicing.stages) - 1, -1, -1)
    stages = [
        (way(first, past, mesh, k), sum(sizes[first:past]), "")
        for k, (first, past, mesh) in zip(behind, slicing.stages, strict=True)
    ]
    return joined(stages, problem, names=False)


def submeshes(per_node: int, devices: int) -> list[int]:
    """Devices of the sub-meshes: powers of two inside a node, whole nodes beyond it (Alpa §5.2)."""
    inside = [2**k for k in range(per_node.bit_length()) if 2**k < per_node]
    nodes = devices // per_node
    beyond = {per_node * n for n in (*range(1, min(nodes, MOST_NODES) + 1), *(2**k for k in range(nodes.bit_length())))}
    return [n for n in (*inside, *sorted(beyond)) if n <= devices]
