"""Where the pipeline stages of a job sit: which accelerators of its cluster each of them takes.

Stages take accelerators in the order of the cluster's nodes, first come first served. A stage that names a kind of node
takes the next free ones of that kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from simulator.errors import did_you_mean
from simulator.hardware.types import Cluster, Node, NodeGroup
from simulator.workload.plan import Plan

__all__ = ["first_seat", "missing_seats", "nodes_of_stages", "seats_of_stages"]

Ids = NDArray[np.int64]


def seats_of_stages(plan: Plan, cluster: Cluster) -> list[Ids]:
    """Accelerators of every pipeline rank, in the order of its ranks; fewer than it needs where there are no more."""
    if not any(stage.accelerator for stage in plan.stages):
        ends = np.cumsum([0, *(plan.stage_size(rank) for rank in range(plan.pipeline_parallel))])
        return [np.arange(begin, end) for begin, end in pairwise(ends)]
    kinds = _starts(cluster.groups)
    free = np.ones(cluster.accelerator_count, dtype=bool)
    found = []
    for rank, stage in enumerate(plan.stages):
        wanted = free.copy()
        if stage.accelerator:
            for group, begin, end in kinds:
                wanted[begin:end] &= is_kind(group.node, stage.accelerator)
        seats = np.flatnonzero(wanted)[: plan.stage_size(rank)]
        free[seats] = False
        found.append(seats)
    return found


def missing_seats(plan: Plan, cluster: Cluster) -> list[str]:
    """Why stages that name a kind of node cannot all sit on this cluster; empty where they can."""
    kinds = {name for g in cluster.groups for name in (g.node.name, g.node.accelerator.name)}
    reasons = []
    for rank, (stage, seats) in enumerate(zip(plan.stages, seats_of_stages(plan, cluster), strict=True)):
        size = plan.stage_size(rank)
        if stage.accelerator and stage.accelerator not in kinds:
            near = did_you_mean(stage.accelerator, sorted(kinds)) or f"the cluster has {', '.join(sorted(kinds))}"
            reasons.append(f"stage {rank} asks for {stage.accelerator}, which the cluster has not: {near}")
        elif len(seats) < size:
            kind = f" {stage.accelerator}" if stage.accelerator else ""
            reasons.append(f"stage {rank} needs {size}{kind} accelerators, {len(seats)} are left for it")
    return reasons


def nodes_of_stages(seats: Sequence[Ids], cluster: Cluster) -> list[Node]:
    """Node type of each pipeline rank: the slowest of those it sits on."""
    kinds = _starts(cluster.groups)
    found = []
    for mine in seats:
        nodes = {
            g.node.name: g.node for g, begin, end in kinds if len(mine) and begin <= mine[-1] and mine[0] < end
            and bool(((mine >= begin) & (mine < end)).any())
        }  # fmt: skip
        found.append(min(nodes.values(), key=lambda n: (n.accelerator.peak("bf16"), n.name)))
    return found


def first_seat(seats: Ids, cluster: Cluster) -> int:
    """Place of a stage's first accelerator in its node where it straddles nodes; 0 where that changes nothing."""
    for group, begin, end in _starts(cluster.groups):
        if begin <= seats[0] < end:
            held = group.node.accelerators
            first = int(seats[0] - begin) % held
            return 0 if first + len(seats) <= held else first
    return 0


def is_kind(node: Node, name: str) -> bool:
    """Whether a node, or its accelerator, is called so."""
    return name in (node.name, node.accelerator.name)


def _starts(groups: Sequence[NodeGroup]) -> list[tuple[NodeGroup, int, int]]:
    """Every group with its first accelerator and the first after it."""
    found, begin = [], 0
    for group in groups:
        end = begin + group.count * group.node.accelerators
        found.append((group, begin, end))
        begin = end
    return found
