"""Dragonfly+: groups that are two-level fat-trees, all joined to each other by their spines."""

from __future__ import annotations

import numpy as np

from simulator.hardware.types import Fabric
from simulator.network.links import NetworkBuilder
from simulator.network.wiring import PATH, Options, Ports, Wiring, register_topology

__all__ = ["DragonflyPlus"]


@register_topology(
    "dragonfly-plus",
    {
        "ports_per_leaf": "ports of nodes on one leaf, 32 by default",
        "leaves_per_group": "leaves of one group, 32 by default",
        "spines_per_group": "spines of one group, each with a cable to every leaf; ports_per_leaf by default",
        "global_links_per_spine": "cables from one spine to other groups, leaves_per_group by default",
    },
)
class DragonflyPlus(Wiring):
    """Shpiner, Haramaty, Eliad, Zdornov, Gafni, Zahavi, *Dragonfly+: low cost topology for scaling datacenters*, 2017.

    Every spine of a group meets every leaf of it. With g groups of s spines with h cables each, a pair of groups has
    s·h // (g − 1) cables, dealt to the spines in turn; ``choice`` picks the cable, and with it the spines. Inside a
    group ``choice`` picks the spine. The fabric's oversubscription divides the bandwidth of the cables between groups.
    """

    def __init__(self, builder: NetworkBuilder, ports: Ports, fabric: Fabric, options: Options) -> None:
        super().__init__(builder, ports, fabric, options)
        p = options.integer("ports_per_leaf", 32)
        self.leaves = options.integer("leaves_per_group", 32)
        self.spines = options.integer("spines_per_group", p)
        h = self.global_links = options.integer("global_links_per_spine", self.leaves)
        g = self.groups = max(1, -(-ports.count // (p * self.leaves)))
        if g > self.spines * h + 1:
            builder.issues.add(
                f"{ports.count} ports make {g} groups, but {self.spines} spines with {h} global links each reach only "
                f"{self.spines * h} others: raise ports_per_leaf, leaves_per_group or global_links_per_spine",
                PATH,
            )
        builder.issues.raise_if_any()
        self.cables = self.spines * h // (g - 1) if g > 1 else 0
        leaf = builder.vertices("group{0}/leaf{1}", g, self.leaves)
        spine = builder.vertices("group{0}/spine{1}", g, self.spines)
        extras = np.arange(len(ports.vertex) - ports.count) % leaf.size
        self.leaf_of = np.concatenate([np.arange(ports.count) // p, extras])
        self.switch[:] = leaf.ravel()[self.leaf_of]
        low, high = leaf[:, :, None], spine[:, None, :]
        speed, hop = fabric.link.achievable, self.hop_latency
        self._up = builder.links("group{0}/leaf{1}>spine{2}", "leaf_spine", low, high, speed, hop)
        self._down = builder.links("group{0}/spine{2}>leaf{1}", "leaf_spine", high, low, speed, hop)
        capacity = speed / fabric.oversubscription if fabric.oversubscription > 0 else 0.0
        self._between = np.full((g, max(g - 1, 0), self.cables), -1, np.int64)
        slots = np.arange(self.cables)
        for group in range(g):
            for turn in range(g - 1):
                other = (group + 1 + turn) % g
                out, into = (
                    spine[group, self._spine(group, other, slots)],
                    spine[other, self._spine(other, group, slots)],
                )
                name = f"group{group}>group{other}#{{0}}"
                self._between[group, turn] = builder.links(name, "spine_core", out, into, capacity, hop)

    def _spine(self, group: int, other: int, cable: np.ndarray) -> np.ndarray:
        """Spines of ``group`` that the cables to ``other`` hang on."""
        found: np.ndarray = ((other - group - 1) % self.groups * self.cables + cable) // self.global_links
        return found

    def width(self, a: int, b: int) -> int:
        """See :meth:`Wiring.width`."""
        if self.leaf_of[a] == self.leaf_of[b]:
            return 1
        return self.spines if self.leaf_of[a] // self.leaves == self.leaf_of[b] // self.leaves else self.cables

    def path(self, a: int, b: int, choice: int) -> tuple[int, ...]:
        """See :meth:`Wiring.path`."""
        group, leaf = divmod(int(self.leaf_of[a]), self.leaves)
        other, target = divmod(int(self.leaf_of[b]), self.leaves)
        if (group, leaf) == (other, target):
            return ()
        if group == other:
            return int(self._up[group, leaf, choice]), int(self._down[group, target, choice])
        cable = np.array([choice])
        out, into = int(self._spine(group, other, cable)[0]), int(self._spine(other, group, cable)[0])
        between = int(self._between[group, (other - group - 1) % self.groups, choice])
        return int(self._up[group, leaf, out]), between, int(self._down[other, target, into])
