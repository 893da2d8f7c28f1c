"""Folded Clos networks of two and three levels, oversubscribed per level."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from simulator.hardware.types import Fabric
from simulator.network.links import Ids, NetworkBuilder
from simulator.network.wiring import PATH, Options, Ports, Wiring, register_topology

__all__ = ["FAT_TREE_OPTIONS", "FatTree"]

FAT_TREE_OPTIONS: Final = {
    "levels": "2 (leaf, spine) or 3 (leaf, spine, core); the fewest that the radix allows by default",
    "radix": "ports of one switch, 64 by default",
    "nodes_per_leaf": "nodes whose ports share a leaf; as many as the radix allows by default",
    "leaves_per_pod": "leaves under one set of spines when there are 3 levels; half the radix by default",
    "oversubscription_spine": "downlink over uplink bandwidth of the spines towards the core, 1 by default",
}


@register_topology("fat-tree", FAT_TREE_OPTIONS)
class FatTree(Wiring):
    """Leaves under spines (under cores): all ports of a node on one leaf.

    The number of uplinks of a leaf is what the oversubscription asks for, rounded to whole cables; their bandwidth
    is adjusted so that downlinks over uplinks is exactly the ratio asked for. Spine s of a pod meets only the cores
    of its own plane s (Al-Fares et al., SIGCOMM 2008). Storage and gateways hang on every switch of the top level.
    """

    def __init__(self, builder: NetworkBuilder, ports: Ports, fabric: Fabric, options: Options) -> None:
        super().__init__(builder, ports, fabric, options)
        ratio = fabric.oversubscription
        ratio_spine = options.quantity("oversubscription_spine", 1.0, "ratio")
        for value, name in ((ratio, "oversubscription"), (ratio_spine, "oversubscription_spine")):
            if not 0 < value < np.inf:
                builder.issues.add(f"must be above 0 (1 = non-blocking), not {value:g}", f"{PATH}.{name}")
        builder.issues.raise_if_any()
        radix = options.integer("radix", 64, 2)
        down = max(1, round(radix * ratio / (1 + ratio)))
        self.leaf, per_leaf = self._assign(ports, options, down)
        leaves = int(self.leaf.max(initial=0)) + 1
        levels = options.integer("levels", 2 if leaves <= radix else 3, 2)
        if levels not in (2, 3):
            builder.issues.add(f"a fat tree has 2 or 3 levels here, not {levels}", f"{PATH}.levels")
        if levels == 2 and leaves > radix:
            builder.issues.add(
                f"{leaves} leaves need spines of {leaves} ports, the radix is {radix}: use levels: 3 or a larger radix",
                f"{PATH}.levels",
            )
        builder.issues.raise_if_any()
        per_pod = options.integer("leaves_per_pod", self._pod_unit(ports, radix // 2)) if levels == 3 else leaves
        self.pods = -(-leaves // per_pod)
        bandwidth = float(ports.capacity[: ports.count].max(initial=0.0)) * per_leaf
        cable = fabric.link.achievable
        self.spines = max(1, round(bandwidth / (ratio * cable))) if leaves > 1 and cable > 0 else 1
        uplink = bandwidth / (ratio * self.spines)
        self.cores = max(1, round(per_pod * uplink / (ratio_spine * cable))) if self.pods > 1 and cable > 0 else 0
        self.pod_of = np.arange(leaves) // per_pod
        self._connect(builder, leaves, uplink if cable > 0 else 0.0, per_pod * uplink / ratio_spine)

    @classmethod
    def never_blocks(cls, fabric: Fabric) -> bool:
        """See :meth:`Wiring.never_blocks`."""
        return fabric.oversubscription <= 1 and "oversubscription_spine" not in dict(fabric.options)

    def _assign(self, ports: Ports, options: Options, down: int) -> tuple[Ids, int]:
        """The leaf of every node port, and the ports a full leaf has."""
        per_node = ports.per_node
        nodes = options.integer("nodes_per_leaf", max(1, down // per_node))
        first = int(ports.node[: ports.count].min(initial=0)) if ports.count else 0
        present = int(ports.node[: ports.count].max(initial=0)) - first + 1
        return (ports.node[: ports.count] - first) // nodes, min(nodes, present) * per_node

    def _pod_unit(self, ports: Ports, leaves: int) -> int:
        return max(1, leaves)

    def _connect(self, builder: NetworkBuilder, leaves: int, uplink: float, spine_uplink: float) -> None:
        pod = "pod{0}/" if self.pods > 1 else ""
        leaf = builder.vertices("leaf{0}", leaves)
        joined = leaves > 1
        spine = builder.vertices(f"{pod}spine{{1}}", self.pods, self.spines) if joined else np.zeros((0, 0), np.int64)
        self.switch[: self.ports.count] = leaf[self.leaf]
        shape = (leaves, self.spines) if joined else (0, 0)
        own = spine[self.pod_of] if joined else np.zeros(shape, np.int64)
        below = np.broadcast_to(leaf[:, None], shape) if joined else own
        hop = self.hop_latency
        self.leaf_up = builder.links("leaf{0}>spine{1}", "leaf_spine", below, own, uplink, hop)
        self.leaf_down = builder.links("spine{1}>leaf{0}", "leaf_spine", own, below, uplink, hop)
        builder.bundle(self.leaf_up)
        builder.bundle(self.leaf_down)
        tops = spine.ravel() if joined else leaf
        if self.cores:
            core = builder.vertices("core{0}.{1}", self.spines, self.cores)
            above = np.broadcast_to(core[None], (self.pods, *core.shape))
            each = spine_uplink / self.cores
            ends = np.broadcast_to(spine[:, :, None], above.shape)
            self.spine_up = builder.links("pod{0}/spine{1}>core{1}.{2}", "spine_core", ends, above, each, hop)
            self.spine_down = builder.links("core{1}.{2}>pod{0}/spine{1}", "spine_core", above, ends, each, hop)
            builder.bundle(self.spine_up)
            builder.bundle(self.spine_down)
            tops = core.ravel()
        extras = len(self.ports.vertex) - self.ports.count
        hubs = builder.vertices("gateway{0}", extras)
        self.switch[self.ports.count :] = hubs
        capacity = self.ports.capacity[self.ports.count :, None]
        up = np.broadcast_to(tops[None], (extras, len(tops)))
        kind = "spine_core" if self.cores else "leaf_spine"
        self.extra_out = builder.links("top{1}>gateway{0}", kind, up, hubs[:, None], capacity, hop)
        self.extra_in = builder.links("gateway{0}>top{1}", kind, hubs[:, None], up, capacity, hop)

    def _is_extra(self, port: int) -> bool:
        return port >= self.ports.count

    def width(self, a: int, b: int) -> int:
        """See :meth:`Wiring.width`."""
        if self._is_extra(a) or self._is_extra(b):
            return int(self.extra_out.shape[1])
        if self.leaf[a] == self.leaf[b]:
            return 1
        if self.pod_of[self.leaf[a]] == self.pod_of[self.leaf[b]]:
            return self.spines
        return self.spines * self.cores

    def path(self, a: int, b: int, choice: int) -> tuple[int, ...]:
        """See :meth:`Wiring.path`."""
        if self._is_extra(a) or self._is_extra(b):
            return (*self._to_top(a, choice), *self._from_top(b, choice))
        below, target = self.leaf[a], self.leaf[b]
        if below == target:
            return ()
        spine, core = choice % self.spines, choice // self.spines
        up, down = int(self.leaf_up[below, spine]), int(self.leaf_down[target, spine])
        pod, other = self.pod_of[below], self.pod_of[target]
        if pod == other:
            return up, down
        return up, int(self.spine_up[pod, spine, core]), int(self.spine_down[other, spine, core]), down

    def _to_top(self, port: int, top: int) -> tuple[int, ...]:
        if self._is_extra(port):
            return (int(self.extra_in[port - self.ports.count, top]),)
        leaf = self.leaf[port]
        if not self.leaf_up.size:
            return ()
        if not self.cores:
            return (int(self.leaf_up[leaf, top % self.spines]),)
        spine, core = divmod(top, self.cores)
        return int(self.leaf_up[leaf, spine]), int(self.spine_up[self.pod_of[leaf], spine, core])

    def _from_top(self, port: int, top: int) -> tuple[int, ...]:
        if self._is_extra(port):
            return (int(self.extra_out[port - self.ports.count, top]),)
        leaf = self.leaf[port]
        if not self.leaf_up.size:
            return ()
        if not self.cores:
            return (int(self.leaf_down[leaf, top % self.spines]),)
        spine, core = divmod(top, self.cores)
        return int(self.spine_down[self.pod_of[leaf], spine, core]), int(self.leaf_down[leaf, spine])

    def spread(self, a: int, b: int) -> dict[int, float]:
        """See :meth:`Wiring.spread`."""
        if self._is_extra(a) or self._is_extra(b):
            return super().spread(a, b)
        source, target = self.leaf[a], self.leaf[b]
        if source == target:
            return {}
        ends = (*self.leaf_up[source].tolist(), *self.leaf_down[target].tolist())
        shares = dict.fromkeys(ends, 1.0 / self.spines)
        pod, other = self.pod_of[source], self.pod_of[target]
        if pod != other:
            middle = (*self.spine_up[pod].ravel().tolist(), *self.spine_down[other].ravel().tolist())
            shares |= dict.fromkeys(middle, 1.0 / (self.spines * self.cores))
        return shares

    def add_loads(self, loads: NDArray[np.float64], a: Ids, b: Ids, volume: NDArray[np.float64]) -> None:
        """See :meth:`Wiring.add_loads`."""
        plain = (a < self.ports.count) & (b < self.ports.count)
        if not plain.all():
            super().add_loads(loads, a[~plain], b[~plain], volume[~plain])
            a, b, volume = a[plain], b[plain], volume[plain]
        source, target = self.leaf[a], self.leaf[b]
        far = source != target
        source, target, volume = source[far], target[far], volume[far]
        if not len(source):
            return
        for grid, leaf in ((self.leaf_up, source), (self.leaf_down, target)):
            rows, which = np.unique(leaf, return_inverse=True)
            loads[grid[rows]] += (np.bincount(which, volume) / self.spines)[:, None]
        pod, other = self.pod_of[source], self.pod_of[target]
        far = pod != other
        if self.cores and far.any():
            paths = self.spines * self.cores
            for grid, of in ((self.spine_up, pod), (self.spine_down, other)):
                rows, which = np.unique(of[far], return_inverse=True)
                loads[grid[rows]] += (np.bincount(which, volume[far]) / paths)[:, None, None]

    def add_hashed(
        self, loads: NDArray[np.float64], a: Ids, b: Ids, volume: NDArray[np.float64], number: NDArray[np.uint64]
    ) -> None:
        """See :meth:`Wiring.add_hashed`."""
        plain = (a < self.ports.count) & (b < self.ports.count)
        if not plain.all():
            super().add_hashed(loads, a[~plain], b[~plain], volume[~plain], number[~plain])
            a, b, volume, number = a[plain], b[plain], volume[plain], number[plain]
        source, target = self.leaf[a], self.leaf[b]
        cross = source != target
        source, target, volume, number = source[cross], target[cross], volume[cross], number[cross]
        far = self.pod_of[source] != self.pod_of[target]
        width = np.where(far, self.spines * max(1, self.cores), self.spines).astype(np.uint64)
        choice = (number % width).astype(np.int64)
        spine = choice % self.spines
        np.add.at(loads, self.leaf_up[source, spine], volume)
        np.add.at(loads, self.leaf_down[target, spine], volume)
        if self.cores and far.any():
            core, spine, volume = choice[far] // self.spines, spine[far], volume[far]
            np.add.at(loads, self.spine_up[self.pod_of[source[far]], spine, core], volume)
            np.add.at(loads, self.spine_down[self.pod_of[target[far]], spine, core], volume)
