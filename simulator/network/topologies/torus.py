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
        "twisted": "whether the rings of the short dimensions close with a shift along the long ones (k x k x 2k, "
        "k x 2k x 2k or k x 2k); false by default",
    },
)
class Torus(Wiring):
    """Nodes on a grid, dimension-ordered shortest routes; ``choice`` picks the order of the dimensions.

    Each node has one cable of the fabric's link in each direction of each dimension. Storage and gateways are
    plugged into the first nodes, one each. Accelerators that are themselves joined in a torus (TPU) are described
    by their scale-up network instead.

    Twisted, a ring of k nodes closes k further along every dimension of 2k, so that all dimensions carry the same
    share of an all-to-all. TPU v4 joins slices of k x k x 2k and k x 2k x 2k (https://cloud.google.com/tpu/docs/v4)
    in this way (arXiv 2304.01433); which shift it takes was not read, this one makes all links equally busy.

    Attributes
    ----------
    shape, wrap
        Nodes along each dimension, and whether its two ends are joined.
    twisted
        Whether rings close with a shift.
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
        twist = self._twist(builder, shape, wrap, options.get("twisted", False))
        builder.issues.raise_if_any()
        router = builder.vertices("router{0}", len(nodes))
        self._place = np.concatenate(
            [np.searchsorted(nodes, ports.node[: ports.count]), np.arange(len(ports.vertex) - ports.count) % len(nodes)]
        )
        self.switch[:] = router[self._place]
        self.shape, self.wrap, self.twisted = shape, tuple(wrap), twist is not None
        self._grid = TorusGrid(shape, tuple(wrap), twist)
        self._grid.connect(builder, "leaf_spine", "router{0}", router, fabric.link.achievable, self.hop_latency)

    @staticmethod
    def _twist(
        builder: NetworkBuilder, shape: tuple[int, ...], wrap: object, twisted: object
    ) -> tuple[tuple[int, ...], ...] | None:
        """Shift along each dimension of the links that close each dimension."""
        if not isinstance(twisted, bool):
            builder.issues.add(f"must be true or false, not {twisted!r}", f"{PATH}.twisted")
        if twisted is not True:
            return None
        short = min(shape)
        if short < 3 or set(shape) != {short, 2 * short}:
            text = "x".join(map(str, shape))
            builder.issues.add(
                f"a twisted torus has short dimensions of k and long ones of 2k, k at least 3 (as 4x4x8), not {text}",
                f"{PATH}.twisted",
            )
        if isinstance(wrap, list | tuple) and not all(wrap):
            builder.issues.add("a twisted torus closes every dimension: take 'wrap' away", f"{PATH}.wrap")
        return tuple(tuple(short if near < far else 0 for far in shape) for near in shape)

    def width(self, a: int, b: int) -> int:
        """See :meth:`Wiring.width`."""
        return self._grid.width(int(self._place[a]), int(self._place[b]))

    def path(self, a: int, b: int, choice: int) -> tuple[int, ...]:
        """See :meth:`Wiring.path`."""
        return self._grid.path(int(self._place[a]), int(self._place[b]), choice)
