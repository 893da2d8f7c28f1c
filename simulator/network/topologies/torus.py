"""A torus or mesh of nodes: every node is a router with cables to its neighbours."""

from __future__ import annotations

import numpy as np

from simulator.hardware.types import Fabric
from simulator.network.grid import TorusGrid, near_cube
from simulator.network.links import NetworkBuilder
from simulator.network.wiring import PATH, Options, Ports, Wiring, register_topology

__all__ = ["Torus"]


@register_topology(
    "torus",
    {
        "shape": "nodes along each dimension, e.g. [8, 8, 4]; as cubic as possible in 3-D by default",
        "wrap": "whether each dimension closes into a ring, e.g. [true, true, false]; all do by default",
    },
)
class Torus(Wiring):
    """Nodes on a grid, dimension-ordered shortest routes; ``choice`` picks the order of the dimensions.

    Each node has one cable of the fabric's link in each direction of each dimension. Storage and gateways are
    plugged into the first nodes, one each. Accelerators that are themselves joined in a torus (TPU) are described
    by their scale-up network instead.

    Attributes
    ----------
    shape, wrap
        Nodes along each dimension, and whether its two ends are joined.
    """

    def __init__(self, builder: NetworkBuilder, ports: Ports, fabric: Fabric, options: Options) -> None:
        super().__init__(builder, ports, fabric, options)
        nodes = np.unique(ports.node[: ports.count])
        shape = options.shape("shape") or near_cube(max(1, len(nodes)), 3)
        if int(np.prod(shape)) != len(nodes):
            text = "x".join(map(str, shape))
            builder.issues.add(f"shape {text} has {np.prod(shape)} places for {len(nodes)} nodes", f"{PATH}.shape")
        wrap = options.get("wrap", [True] * len(shape))
        if not isinstance(wrap, list | tuple) or len(wrap) != len(shape) or not all(isinstance(w, bool) for w in wrap):
            builder.issues.add(f"must be one true or false per dimension, not {wrap!r}", f"{PATH}.wrap")
        builder.issues.raise_if_any()
        router = builder.vertices("router{0}", len(nodes))
        self._place = np.concatenate(
            [np.searchsorted(nodes, ports.node[: ports.count]), np.arange(len(ports.vertex) - ports.count) % len(nodes)]
        )
        self.switch[:] = router[self._place]
        self.shape, self.wrap = shape, tuple(wrap)
        self._grid = TorusGrid(shape, tuple(wrap))
        self._grid.connect(builder, "leaf_spine", "router{0}", router, fabric.link.achievable, self.hop_latency)

    def width(self, a: int, b: int) -> int:
        """See :meth:`Wiring.width`."""
        return self._grid.width(int(self._place[a]), int(self._place[b]))

    def path(self, a: int, b: int, choice: int) -> tuple[int, ...]:
        """See :meth:`Wiring.path`."""
        return self._grid.path(int(self._place[a]), int(self._place[b]), choice)
