"""Dragonfly: groups of routers, all joined inside a group and all groups joined to each other."""

from __future__ import annotations

import numpy as np

from simulator.hardware.types import Fabric
from simulator.network.links import NetworkBuilder
from simulator.network.wiring import PATH, Options, Ports, Wiring, register_topology

__all__ = ["Dragonfly"]


@register_topology(
    "dragonfly",
    {
        "ports_per_router": "ports of nodes on one router (p), 16 by default",
        "routers_per_group": "routers of one group (a), 2p by default",
        "global_links_per_router": "cables from one router to other groups (h), p by default",
        "routing": "'minimal' (default) or 'valiant': through a random group, which evens out adversarial traffic",
    },
)
class Dragonfly(Wiring):
    """Balanced when a = 2p = 2h (Kim, Dally, Scott, Abts, ISCA 2008).

    With g groups each pair of groups has a·h // (g − 1) cables, ``choice`` picks among them. The fabric's
    oversubscription divides the bandwidth of the cables between groups.
    """

    def __init__(self, builder: NetworkBuilder, ports: Ports, fabric: Fabric, options: Options) -> None:
        super().__init__(builder, ports, fabric, options)
        p = options.integer("ports_per_router", 16)
        a = self.routers = options.integer("routers_per_group", 2 * p)
        h = self.global_links = options.integer("global_links_per_router", p)
        self.valiant = options.get("routing", "minimal") == "valiant"
        if options.get("routing", "minimal") not in ("minimal", "valiant"):
            builder.issues.add(f"'minimal' or 'valiant', not {options.get('routing')!r}", f"{PATH}.routing")
        routers = max(1, -(-ports.count // p))
        g = self.groups = -(-routers // a)
        if g > a * h + 1:
            builder.issues.add(
                f"{ports.count} ports make {g} groups, but {a} routers with {h} global links each reach only "
                f"{a * h} others: raise ports_per_router, routers_per_group or global_links_per_router",
                PATH,
            )
        builder.issues.raise_if_any()
        self.cables = a * h // (g - 1) if g > 1 else 0
        router = builder.vertices("group{0}/router{1}", g, a)
        flat = np.concatenate([np.arange(ports.count) // p, np.arange(len(ports.vertex) - ports.count) % (g * a)])
        self.router_of = flat
        self.switch[:] = router.ravel()[flat]
        self._local = np.full((g, a, a), -1, np.int64)
        near, far = np.nonzero(~np.eye(a, dtype=bool))
        for i, j in zip(near.tolist(), far.tolist(), strict=True):
            name = f"group{{0}}/router{i}>router{j}"
            self._local[:, i, j] = builder.links(
                name, "leaf_spine", router[:, i], router[:, j], fabric.link.achievable, self.hop_latency
            )
        capacity = fabric.link.achievable / fabric.oversubscription if fabric.oversubscription > 0 else 0.0
        self._global = np.full((g, max(g - 1, 0), self.cables), -1, np.int64)
        for group in range(g):
            for turn in range(g - 1):
                other = (group + 1 + turn) % g
                back = (group - other - 1) % g
                slots = np.arange(self.cables)
                out = router[group, (turn * self.cables + slots) // h]
                into = router[other, (back * self.cables + slots) // h]
                name = f"group{group}>group{other}#{{0}}"
                self._global[group, turn] = builder.links(name, "spine_core", out, into, capacity, self.hop_latency)

    def _gateway(self, group: int, other: int, cable: int) -> int:
        return ((other - group - 1) % self.groups * self.cables + cable) // self.global_links

    def _cross(self, group: int, router: int, other: int, cable: int) -> tuple[list[int], int]:
        """Links from a router into another group, and the router where they arrive."""
        gate = self._gateway(group, other, cable)
        found = [] if gate == router else [int(self._local[group, router, gate])]
        found.append(int(self._global[group, (other - group - 1) % self.groups, cable]))
        return found, self._gateway(other, group, cable)

    def width(self, a: int, b: int) -> int:
        """See :meth:`Wiring.width`."""
        group, other = self.router_of[a] // self.routers, self.router_of[b] // self.routers
        if group == other:
            return 1
        if self.valiant and self.groups > 2:
            return (self.groups - 2) * self.cables
        return self.cables

    def path(self, a: int, b: int, choice: int) -> tuple[int, ...]:
        """See :meth:`Wiring.path`."""
        group, router = divmod(int(self.router_of[a]), self.routers)
        other, target = divmod(int(self.router_of[b]), self.routers)
        found: list[int] = []
        if group != other:
            cable, detour = choice % self.cables, choice // self.cables
            if self.valiant and self.groups > 2:
                middle = [g for g in range(self.groups) if g not in (group, other)][detour]
                found, router = self._cross(group, router, middle, cable)
                group = middle
            more, router = self._cross(group, router, other, cable)
            found += more
        if router != target:
            found.append(int(self._local[other, router, target]))
        return tuple(found)
