"""Geometry of a torus or mesh of any dimension: coordinates, neighbours, dimension-ordered routes."""

from __future__ import annotations

from itertools import permutations
from math import prod

import numpy as np

from simulator.network.links import Ids, NetworkBuilder

__all__ = ["TorusGrid", "near_cube"]


def near_cube(count: int, dimensions: int) -> tuple[int, ...]:
    """Factors of ``count``, as many as ``dimensions``, as equal as possible, largest first."""
    if dimensions == 1:
        return (count,)
    best = (count, *([1] * (dimensions - 1)))
    for side in range(1, round(count ** (1 / dimensions)) + 1):
        if count % side == 0:
            shape = tuple(sorted((side, *near_cube(count // side, dimensions - 1)), reverse=True))
            best = min(best, shape, key=lambda s: (sum(s), s))
    return best


class TorusGrid:
    """Vertices on a grid with a link in both directions to every neighbour.

    Parameters
    ----------
    shape
        Vertices along each dimension.
    wrap
        Whether the ends of a dimension are joined. A dimension of two is never joined twice.
    """

    def __init__(self, shape: tuple[int, ...], wrap: tuple[bool, ...]) -> None:
        self.shape = shape
        self.size = prod(shape)
        self.wrap = tuple(w and n > 2 for w, n in zip(wrap, shape, strict=True))
        self.orders = list(permutations([d for d, n in enumerate(shape) if n > 1])) or [()]
        self._links: Ids = np.zeros((0, 0, 0), np.int64)
        self._strides: list[int] = [prod(shape[d + 1 :]) for d in range(len(shape))]

    def connect(
        self, builder: NetworkBuilder, kind: str, label: str, vertices: Ids, capacity: float, latency: float
    ) -> None:
        """Make the links between ``vertices`` [size]; ``label`` is the template of their names up to the direction."""
        self._links = np.full((self.size, len(self.shape), 2), -1, np.int64)
        coordinates = np.stack(np.unravel_index(np.arange(self.size), self.shape), axis=1)
        for d, extent in enumerate(self.shape):
            for way, step in enumerate((1, -1)):
                moved = coordinates.copy()
                moved[:, d] += step
                inside = (moved[:, d] >= 0) & (moved[:, d] < extent)
                moved[:, d] %= extent
                whole = np.full(self.size, extent > 1 and self.wrap[d]) | inside
                here = np.flatnonzero(whole)
                there = np.ravel_multi_index(tuple(moved[here].T), self.shape)
                sign = "+" if step > 0 else "-"
                template = f"{label}:{sign}{'xyzuvw'[d]}"
                # Names follow the vertex, so edges of an open mesh are numbered in one run per link.
                for chunk in np.split(np.arange(len(here)), np.flatnonzero(np.diff(here) != 1) + 1):
                    if len(chunk):
                        ids = builder.links(
                            template, kind, vertices[here[chunk]], vertices[there[chunk]], capacity, latency,
                            offset=(int(here[chunk[0]]),),
                        )  # fmt: skip
                        self._links[here[chunk], d, way] = ids

    def width(self, a: int, b: int) -> int:
        """Number of different dimension-ordered routes: the orders, times both ways round where they are equal."""
        ties = sum(self._is_tie(d, a, b) for d in range(len(self.shape)))
        return len(self.orders) << ties

    def _offset(self, d: int, a: int, b: int) -> int:
        extent, stride = self.shape[d], self._strides[d]
        return (b // stride) % extent - (a // stride) % extent

    def _is_tie(self, d: int, a: int, b: int) -> bool:
        return self.wrap[d] and 2 * abs(self._offset(d, a, b)) == self.shape[d]

    def path(self, a: int, b: int, choice: int) -> tuple[int, ...]:
        """Links from ``a`` to ``b``: the shorter way round in each dimension, in an order by ``choice``."""
        choice, which = divmod(choice, len(self.orders))
        found: list[int] = []
        at = a
        for d in self.orders[which]:
            extent, stride, offset = self.shape[d], self._strides[d], self._offset(d, a, b)
            if self._is_tie(d, a, b):
                choice, bit = divmod(choice, 2)
                offset = abs(offset) if bit else -abs(offset)
            elif self.wrap[d] and 2 * abs(offset) > extent:
                offset -= extent if offset > 0 else -extent
            step, way = (1, 0) if offset > 0 else (-1, 1)
            for _ in range(abs(offset)):
                found.append(int(self._links[at, d, way]))
                x = (at // stride) % extent
                at += ((x + step) % extent - x) * stride
        return tuple(found)
