"""Who gets which accelerators: consecutive ranges in document order, whole nodes where they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simulator.hardware.types import Cluster
from simulator.scenario.types import Placement

__all__ = ["Demand", "place"]


@dataclass(frozen=True)
class Demand:
    """What one workload asks for: ``replicas`` groups of ``accelerators`` each.

    They are numbered from ``first``, and on nodes of one ``profile`` where it is given.
    """

    workload: str
    accelerators: int
    replicas: int = 1
    first: int = 0
    profile: str | None = None

    @property
    def total(self) -> int:
        """Accelerators of all replicas."""
        return self.accelerators * self.replicas


def place(cluster: Cluster, demands: Sequence[Demand]) -> tuple[Placement, ...] | str:
    """Place every replica, or say why it cannot be done.

    A group that fills a node or more starts at a node boundary; a smaller one never straddles two nodes, so that
    its collectives stay on the scale-up network it was planned for.
    """
    sizes = [group.node.accelerators for group in cluster.groups for _ in range(group.count)]
    kinds = [group.node.name for group in cluster.groups for _ in range(group.count)]
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + size)
    placed: list[Placement] = []
    node, used = 0, 0
    for demand in demands:
        for replica in range(demand.first, demand.first + demand.replicas):
            while node < len(sizes) and (
                (used and demand.accelerators > sizes[node] - used) or demand.profile not in (None, kinds[node])
            ):
                node, used = node + 1, 0
            first, first_node = (starts[node] + used if node < len(sizes) else starts[-1]), node
            if first + demand.accelerators > starts[-1]:
                return _too_small(cluster, demands, demand, replica, starts[-1] - min(first, starts[-1]))
            left = demand.accelerators
            while left:
                taken = min(left, sizes[node] - used)
                left, used, last = left - taken, used + taken, node
                if used == sizes[node]:
                    node, used = node + 1, 0
            placed.append(
                Placement(demand.workload, replica, first, demand.accelerators, first_node, last - first_node + 1)
            )
    return tuple(placed)


def _too_small(cluster: Cluster, demands: Sequence[Demand], demand: Demand, replica: int, left: int) -> str:
    asked = sum(d.total for d in demands)
    which = f"replica {replica} of '{demand.workload}'" if demand.replicas > 1 else f"'{demand.workload}'"
    shares = ", ".join(
        f"{d.workload} {d.replicas} × {d.accelerators}" if d.replicas > 1 else f"{d.workload} {d.accelerators}"
        for d in demands
    )
    return (
        f"{which} needs {demand.accelerators} accelerators but {left} are left of {cluster.accelerator_count} "
        f"(asked for: {shares} = {asked}); add nodes or ask for less"
    )
