"""Scale-up networks: how the accelerators of one domain reach each other (NVSwitch, meshes, ICI tori)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final

import numpy as np

from simulator.hardware.types import NodeGroup
from simulator.network.grid import TorusGrid, near_cube
from simulator.network.links import Ids, NetworkBuilder

__all__ = ["CUBE_MESH_LANES", "ScaleUpNetwork", "scale_up_network", "switch_links"]

CUBE_MESH_LANES: Final = np.array(
    [
        [0, 1, 1, 2, 2, 0, 0, 0],
        [1, 0, 2, 1, 0, 2, 0, 0],
        [1, 2, 0, 2, 0, 0, 1, 0],
        [2, 1, 2, 0, 0, 0, 0, 1],
        [2, 0, 0, 0, 0, 1, 1, 2],
        [0, 2, 0, 0, 1, 0, 2, 1],
        [0, 0, 1, 0, 1, 2, 0, 2],
        [0, 0, 0, 1, 2, 1, 2, 0],
    ]
)
"""NVLinks between each pair of the eight V100 of a DGX-1: hybrid cube mesh, six links each (NVIDIA DGX-1 With Tesla
V100 System Architecture, WP-08437-002, figure 4; the matrix is what ``nvidia-smi topo -m`` prints there)."""


class ScaleUpNetwork(ABC):
    """The domains of one node group. Accelerators are numbered inside the group, ``size`` to a domain."""

    def __init__(self, size: int) -> None:
        self.size = size

    @abstractmethod
    def path(self, a: int, b: int, choice: int) -> tuple[int, ...]:
        """Links from accelerator ``a`` to ``b`` of the same domain."""

    def width(self, a: int, b: int) -> int:
        """Number of equal routes."""
        return 1


class _Switch(ScaleUpNetwork):
    """A non-blocking switch: only the ports of the accelerators are resources."""

    def __init__(self, builder: NetworkBuilder, group: NodeGroup, size: int, gpus: Ids, first_node: int) -> None:
        super().__init__(size)
        link = group.node.scale_up.link
        count = gpus.size
        hubs = builder.vertices("domain{0}@" + str(first_node), -(-count // size))
        hub = hubs[np.arange(count) // size].reshape(gpus.shape)
        offset = (first_node, 0)
        label = "node{0}/gpu{1}/scale_up"
        self.out = builder.links(f"{label}:out", "scale_up", gpus, hub, link.achievable, link.latency, offset).ravel()
        self.into = builder.links(f"{label}:in", "scale_up", hub, gpus, link.achievable, 0.0, offset).ravel()

    def path(self, a: int, b: int, choice: int) -> tuple[int, ...]:
        return int(self.out[a]), int(self.into[b])


class _Mesh(ScaleUpNetwork):
    """Cables between pairs; pairs without one go through a neighbour of both."""

    def __init__(
        self, builder: NetworkBuilder, group: NodeGroup, lanes: np.ndarray, gpus: Ids, first_node: int
    ) -> None:
        super().__init__(len(lanes))
        link = group.node.scale_up.link
        per_lane = link.achievable / lanes.sum(axis=1).max()
        self.pairs = np.full((gpus.size, self.size), -1, np.int64)
        flat, per_node = gpus.ravel(), gpus.shape[1]
        domains = np.arange(gpus.size // self.size)
        for i, j in zip(*np.nonzero(lanes), strict=True):
            first = domains * self.size
            # One block per pair: its name holds the place of the pair in the node.
            node_step = f"node{{0}}/gpu{i % per_node}/scale_up>gpu{j % per_node}"
            if self.size < per_node:
                node_step = f"node{first_node}+domain{{0}}/gpu{i}/scale_up>gpu{j}"
            offset = (first_node if self.size >= per_node else 0,)
            ids = builder.links(
                node_step, "scale_up", flat[first + i], flat[first + j], per_lane * lanes[i, j], link.latency, offset
            )
            self.pairs[first + i, j] = ids
        self.between = {
            (i, j): np.flatnonzero((lanes[i] > 0) & (lanes[:, j] > 0)).tolist()
            for i in range(self.size)
            for j in range(self.size)
            if i != j and not lanes[i, j]
        }

    def width(self, a: int, b: int) -> int:
        return len(self.between.get((a % self.size, b % self.size), (0,)))

    def path(self, a: int, b: int, choice: int) -> tuple[int, ...]:
        i, j = a % self.size, b % self.size
        through = self.between.get((i, j))
        if through is None:
            return (int(self.pairs[a, j]),)
        k = through[choice % len(through)]
        return int(self.pairs[a, k]), int(self.pairs[a - i + k, j])


class _Torus(ScaleUpNetwork):
    """Direct links to the neighbours of a torus (TPU interconnect); the ports of an accelerator are divided evenly."""

    def __init__(
        self, builder: NetworkBuilder, group: NodeGroup, shape: tuple[int, ...], gpus: Ids, first_node: int
    ) -> None:
        super().__init__(int(np.prod(shape)))
        link = group.node.scale_up.link
        per_link = link.achievable / (2 * sum(n > 1 for n in shape))
        flat = gpus.ravel()
        self.grids = []
        for domain in range(gpus.size // self.size):
            grid = TorusGrid(shape, (True,) * len(shape))
            label = f"domain{domain}@{first_node}/chip{{0}}"
            here = flat[domain * self.size : (domain + 1) * self.size]
            grid.connect(builder, "scale_up", label, here, per_link, link.latency)
            self.grids.append(grid)

    def width(self, a: int, b: int) -> int:
        return self.grids[a // self.size].width(a % self.size, b % self.size)

    def path(self, a: int, b: int, choice: int) -> tuple[int, ...]:
        return self.grids[a // self.size].path(a % self.size, b % self.size, choice)


def scale_up_network(
    builder: NetworkBuilder, group: NodeGroup, gpus: Ids, first_node: int, shape: tuple[int, ...] | None
) -> ScaleUpNetwork | None:
    """Wire the scale-up domains of one node group.

    Parameters
    ----------
    gpus
        [nodes, accelerators per node], vertices. A domain larger than a node joins consecutive nodes.
    shape
        Of a torus; as cubic as possible when ``None``.

    Returns
    -------
    ScaleUpNetwork or None
        ``None`` when every accelerator stands alone.
    """
    spec = group.node.scale_up
    size = min(spec.domain, gpus.size)
    where = "cluster.nodes"
    if spec.topology == "none" or size < 2:
        return None
    if spec.topology == "switch":
        return _Switch(builder, group, size, gpus, first_node)
    if gpus.size % size:
        builder.issues.add(
            f"{gpus.size} accelerators of '{group.node.name}' do not fill scale-up domains of {size}",
            where,
        )
        return None
    if spec.topology in ("mesh", "bridge"):
        return _Mesh(builder, group, 1 - np.eye(size, dtype=np.int64), gpus, first_node)
    if spec.topology == "cube-mesh":
        if size != len(CUBE_MESH_LANES):
            builder.issues.add(f"a cube mesh joins 8 accelerators, '{group.node.name}' has a domain of {size}", where)
            return None
        return _Mesh(builder, group, CUBE_MESH_LANES, gpus, first_node)
    shape = shape or near_cube(size, 3)
    if int(np.prod(shape)) != size:
        builder.issues.add(f"torus shape {'x'.join(map(str, shape))} does not hold {size} accelerators", where)
        return None
    return _Torus(builder, group, shape, gpus, first_node)


def switch_links(network: ScaleUpNetwork | None, count: int) -> tuple[Ids, Ids]:
    """Links [accelerators] to and from the scale-up switch of each accelerator of a group, −1 without a switch."""
    if isinstance(network, _Switch):
        return network.out, network.into
    none = np.full(count, -1, np.int64)
    return none, none
