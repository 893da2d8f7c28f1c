"""Geometry of a torus or mesh of any dimension: coordinates, neighbours, dimension-ordered routes."""

from __future__ import annotations

from itertools import permutations, product
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

    A torus is the grid of all whole numbers in which two points are the same vertex when they differ by a sum of
    closing vectors, one per joined dimension: its extent along that dimension, and in a twisted torus a shift along
    others. A shortest way is a shortest of the differences that lead to the same vertex, one dimension after another.

    Parameters
    ----------
    shape
        Vertices along each dimension.
    wrap
        Whether the ends of a dimension are joined. A dimension of two is never joined twice.
    twist
        [dimensions][dimensions]: how far the links that close one dimension shift along each of the others; no shift
        by default.
    """

    def __init__(
        self, shape: tuple[int, ...], wrap: tuple[bool, ...], twist: tuple[tuple[int, ...], ...] | None = None
    ) -> None:
        self.shape = shape
        self.size = prod(shape)
        self.wrap = tuple(w and n > 2 for w, n in zip(wrap, shape, strict=True))
        self.orders = list(permutations([d for d, n in enumerate(shape) if n > 1])) or [()]
        self._links: Ids = np.zeros((0, 0, 0), np.int64)
        self._next: Ids = np.zeros((0, 0, 0), np.int64)
        self._twist: Ids = np.array(twist or np.zeros((len(shape), len(shape))), np.int64)
        # A vertex is at most one extent away in each dimension; shifts can add up to another one.
        reach = 2 if self._twist.any() else 1
        times = product(*(range(-reach, reach + 1) if joined else (0,) for joined in self.wrap))
        self._same = np.array(list(times), np.int64) @ (np.diag(shape) - self._twist)
        self._coordinates = np.stack(np.unravel_index(np.arange(self.size), shape), axis=1)
        self._shortest: dict[tuple[int, ...], list[tuple[int, ...]]] = {}

    def connect(
        self, builder: NetworkBuilder, kind: str, label: str, vertices: Ids, capacity: float, latency: float
    ) -> None:
        """Make the links between ``vertices`` [size]; ``label`` is the template of their names up to the direction."""
        self._links = np.full((self.size, len(self.shape), 2), -1, np.int64)
        self._next = np.full_like(self._links, -1)
        for d, extent in enumerate(self.shape):
            for way, step in enumerate((1, -1)):
                moved = self._coordinates.copy()
                moved[:, d] += step
                inside = (moved[:, d] >= 0) & (moved[:, d] < extent)
                moved[~inside] += step * self._twist[d]
                moved %= self.shape
                whole = np.full(self.size, extent > 1 and self.wrap[d]) | inside
                here = np.flatnonzero(whole)
                there = np.ravel_multi_index(tuple(moved[here].T), self.shape)
                self._next[here, d, way] = there
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
        """Number of different dimension-ordered routes: the orders, times the differences that are equally short."""
        return len(self.orders) * len(self.offsets(a, b))

    def offsets(self, a: int, b: int) -> list[tuple[int, ...]]:
        """The shortest differences that lead from ``a`` to ``b``: steps along each dimension."""
        apart = self._coordinates[b] - self._coordinates[a]
        key = tuple(apart.tolist())
        if key not in self._shortest:
            same = apart + self._same
            hops = np.abs(same).sum(axis=1)
            self._shortest[key] = sorted({tuple(o) for o in same[hops == hops.min()].tolist()})
        return self._shortest[key]

    def path(self, a: int, b: int, choice: int) -> tuple[int, ...]:
        """Links from ``a`` to ``b`` by a shortest difference, its dimensions in an order; ``choice`` picks both."""
        which_offset, which_order = divmod(choice, len(self.orders))
        offset = self.offsets(a, b)[which_offset]
        found: list[int] = []
        at = a
        for d in self.orders[which_order]:
            way = 0 if offset[d] > 0 else 1
            for _ in range(abs(offset[d])):
                found.append(int(self._links[at, d, way]))
                at = int(self._next[at, d, way])
        return tuple(found)
