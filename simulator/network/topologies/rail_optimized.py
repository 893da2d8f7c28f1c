"""Rail-optimised fat trees: port i of every node of a unit is plugged into leaf i."""

from __future__ import annotations

from simulator.network.links import Ids
from simulator.network.topologies.fat_tree import FAT_TREE_OPTIONS, FatTree
from simulator.network.wiring import Options, Ports, register_topology

__all__ = ["RailOptimized"]


@register_topology(
    "rail-optimized",
    {**FAT_TREE_OPTIONS, "nodes_per_leaf": "nodes of one unit, each with one port on every rail's leaf"},
)
class RailOptimized(FatTree):
    """A fat tree whose leaves are rails (NVIDIA DGX SuperPOD reference architecture).

    Traffic between equal places of the nodes of a unit meets one switch only. Traffic between rails takes the
    spines, unless it first crosses the scale-up network to the accelerator on the rail of its destination (PXN).
    """

    rail_aligned = True

    def _assign(self, ports: Ports, options: Options, down: int) -> tuple[Ids, int]:
        nodes = options.integer("nodes_per_leaf", down)
        node, rail = ports.node[: ports.count], ports.rail[: ports.count]
        first = int(node.min(initial=0)) if ports.count == 0 else int(node.min())
        present = int(node.max(initial=0)) - first + 1
        return (node - first) // nodes * ports.per_node + rail, min(nodes, present)

    def _pod_unit(self, ports: Ports, leaves: int) -> int:
        return max(1, leaves // ports.per_node) * ports.per_node
