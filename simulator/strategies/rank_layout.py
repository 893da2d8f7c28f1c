"""Where the ranks of a mesh axis sit: how many share a scale-up domain, how many domains a group spans."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from simulator.cost.network import CommGroup
from simulator.hardware.types import Node
from simulator.network.collectives import collective_traffic
from simulator.workload.ops import Collective, Op, Stream
from simulator.workload.plan import AXES, Plan, base_axis

__all__ = ["RankLayout"]


class RankLayout:
    """Consecutive ranks along tp, cp, dp, pp (Megatron's order) on consecutive accelerators.

    Parameters
    ----------
    plan
        Mesh sizes.
    node
        Its scale-up domain decides which groups stay inside.
    first
        Place of rank 0 in its node: above 0 for a stage that begins in the middle of a node and ends in another.
    """

    def __init__(self, plan: Plan, node: Node, first: int = 0) -> None:
        self.plan = plan
        self.node = node
        self.first = first
        self.nodes_per_domain = max(1, node.scale_up.domain // node.accelerators)

    @cached_property
    def strides(self) -> dict[str, int]:
        """Distance between neighbouring ranks of an axis, in ranks."""
        strides, step = {}, 1
        for axis in AXES:
            strides[axis] = step
            step *= self.plan.mesh[axis]
        strides["dpcp"] = strides["cp"]
        strides["ep"] = strides["tp"] if self.plan.folds_experts else strides["cp"]
        strides["edp"] = strides["ep"] * self.plan.expert_parallel
        for axis in self.plan.mesh:
            if axis not in strides:  # a sub-axis "dpcp[8:64]" steps over 8 ranks of its axis
                strides[axis] = strides[base_axis(axis)] * int(axis.partition("[")[2].partition(":")[0])
        return strides

    def group(self, axis: str) -> CommGroup:
        """The communication group of one rank along ``axis``."""
        return self._group(self.plan.mesh[axis], self.strides[axis])

    def neighbour(self, axis: str, distance: int = 1) -> CommGroup:
        """Two ranks ``distance`` places apart along ``axis``."""
        return self._group(2, self.strides[axis] * distance)

    def _group(self, ranks: int, stride: int) -> CommGroup:
        held = self.node.accelerators
        inside = max(1, min(ranks, held // stride))
        if self.first:
            inside = min(inside, max(1, ranks // self._touched(ranks, stride)))
        while ranks % inside:  # a group that straddles nodes unevenly is priced at the coarser even split
            inside -= 1
        return CommGroup(ranks, inside, ranks // inside, bridged=self._bridged(inside, stride))

    def _bridged(self, inside: int, stride: int) -> bool:
        """Whether the ranks of a group in a node, as many as a bridge joins or fewer, lie behind one bridge."""
        domain = self.node.scale_up.domain
        return domain >= self.node.accelerators or inside > domain or domain % (inside * stride) == 0

    def _touched(self, ranks: int, stride: int) -> int:
        """Nodes that the most spread of the stage's groups touches."""
        plan = self.plan
        every = np.arange(plan.tensor_parallel * plan.context_parallel * plan.data_parallel)
        starts = every[every // stride % ranks == 0]
        ends = np.minimum(starts + (ranks - 1) * stride, every[-1])
        node = (self.first + every) // self.node.accelerators
        return int((node[ends] - node[starts]).max()) + 1

    def stream(self, op: Op) -> Stream:
        """The queue an Op really uses: a collective goes to scale-out as soon as its group leaves the domain."""
        if op.stream not in (Stream.SCALE_UP, Stream.SCALE_OUT) or not op.axis:  # copies, also to a peer, have no axis
            return op.stream
        return Stream.SCALE_UP if self.inside_domain(self.group(op.axis)) else Stream.SCALE_OUT

    def inside_domain(self, group: CommGroup) -> bool:
        """Whether the group never leaves one scale-up domain (which may hold several nodes, as in an NVL72)."""
        return group.nodes <= self.nodes_per_domain

    def domains(self, group: CommGroup) -> tuple[int, ...]:
        """Ranks of the group in each scale-up domain it touches."""
        if self.inside_domain(group):
            return (group.ranks,)
        per_domain = group.ranks_per_node * self.nodes_per_domain
        full, rest = divmod(group.ranks, per_domain)
        return (per_domain,) * full + ((rest,) if rest else ())

    def wire_bytes(self, collective: Collective | None, message: float, group: CommGroup) -> dict[str, float]:
        """Bytes one rank sends inside (``scale_up``) and outside (``scale_out``) its scale-up domain.

        ``message`` is the full buffer. Groups of several equal domains use the hierarchical algorithm.
        """
        domains = self.domains(group)
        if collective is Collective.SEND_RECV and group.ranks > 1:  # one message each, whoever takes it
            inside = len(domains) == 1
            return {"scale_up": message * inside, "scale_out": message * (not inside)}
        name = "p2p" if collective is None or collective is Collective.SEND_RECV else collective.value
        even = len(set(domains)) == 1 and len(domains) > 1 and domains[0] > 1
        hierarchical = even and name in ("all_reduce", "all_gather", "reduce_scatter")
        sent = collective_traffic(name, message, domains, "hierarchical" if hierarchical else None).per_rank
        return {"scale_up": sent["scale_up"], "scale_out": sent["nic"]}
