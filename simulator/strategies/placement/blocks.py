"""Slices of a torus made of blocks: of any free blocks through optical switches, or of a box of neighbours without."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from simulator.registry import register
from simulator.strategies.placement.basic import Gang, Ints, TopologyAware

__all__ = ["Blocks"]

Floats = NDArray[np.float64]


@register(
    "blocks", kind="policy", area="cluster", family="placement",
    cites=("Jouppi et al., TPU v4, ISCA 2023, arXiv 2304.01433",), validated_by="closed_form",
)  # fmt: skip
class Blocks:
    """A gang larger than a block (all nodes of one group) takes whole blocks in which every node is there and free.

    Optical circuit switches join any blocks to the torus of a gang, so any will do, and one that failed is replaced by
    another. Without them a gang needs a box of blocks next to each other, whose opposite sides count as neighbours.
    Gangs that fit into one block share blocks as packed as possible.

    Parameters
    ----------
    optical
        Whether switches join the blocks.
    grid
        Blocks along each dimension, e.g. (4, 4, 4), without switches; groups are numbered along the last one first.
    reconfiguration
        From the begin of a gang of several blocks until the switches have joined them [s].

    Raises
    ------
    ValueError
        Without switches and without a grid, or with a wrong grid or time.
    """

    name: str

    def __init__(self, optical: bool = True, grid: Sequence[int] | None = None, reconfiguration: float = 0.0) -> None:
        if not optical and not grid:
            raise ValueError("without optical switches it needs 'grid', the blocks along each dimension, as [4, 4, 4]")
        if not all(isinstance(extent, int) and extent >= 1 for extent in grid or ()):
            raise ValueError(f"'grid' must be whole numbers of at least 1, as [4, 4, 4], not {grid!r}")
        if isinstance(reconfiguration, bool) or not isinstance(reconfiguration, int | float) or reconfiguration < 0:
            raise ValueError(f"'reconfiguration' must be seconds of at least 0, as 10.0, not {reconfiguration!r}")
        self.optical, self.grid = optical, tuple(grid or ())
        self.reconfiguration = float(reconfiguration)
        self._inside = TopologyAware()

    def place(self, gpus: int, free: Ints, size: Ints, group: Ints) -> Gang | None:
        """Inside one block where one is large enough, else on whole ones."""
        rooms: Floats = np.bincount(group, size).astype(np.float64)
        if gpus <= rooms.max():
            return self._share(gpus, free, size, group)
        idle = np.bincount(group, (size > 0) & (free == size)) == np.bincount(group)
        blocks = self._any(gpus, idle, rooms) if self.optical else self._box(gpus, idle, rooms)
        return None if blocks is None else _fill(np.flatnonzero(np.isin(group, blocks)), free, gpus)

    def setup(self, place: Sequence[tuple[int, int]], group: Ints) -> float:
        """Switches are set where a gang has several blocks."""
        return self.reconfiguration if self.optical and len({int(group[node]) for node, _ in place}) > 1 else 0.0

    def _share(self, gpus: int, free: Ints, size: Ints, group: Ints) -> Gang | None:
        """In the fullest block that has room."""
        room = np.bincount(group, free)
        for block in np.argsort(room, kind="stable").tolist():
            if room[block] >= gpus:
                mine = group == block
                place = self._inside.place(gpus, np.where(mine, free, 0), np.where(mine, size, 0), group)
                if place is not None:
                    return place
        return None

    @staticmethod
    def _any(gpus: int, idle: NDArray[np.bool_], rooms: Floats) -> Ints | None:
        """The first free blocks that are enough."""
        blocks = np.flatnonzero(idle)
        enough = np.flatnonzero(np.cumsum(rooms[blocks]) >= gpus)
        return blocks[: enough[0] + 1] if len(enough) else None

    def _box(self, gpus: int, idle: NDArray[np.bool_], rooms: Floats) -> Ints | None:
        """The smallest free box that is enough; of equal ones the most cubic, then the first."""
        count = int(np.prod(self.grid))
        free = np.zeros(count, bool)
        free[: len(idle)] = idle[:count]
        large = rooms.max()
        for sides in _boxes(self.grid):
            if np.prod(sides) * large >= gpus:
                for corner in np.ndindex(*self.grid):
                    along = [(c + np.arange(s)) % n for c, s, n in zip(corner, sides, self.grid, strict=True)]
                    box = np.ravel_multi_index(np.ix_(*along), self.grid).ravel()
                    if free[box].all() and rooms[box].sum() >= gpus:
                        return box
        return None


def _boxes(grid: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Sides of all boxes in a grid, the smallest and most cubic first."""
    sides = product(*(range(1, extent + 1) for extent in grid))
    yield from sorted(sides, key=lambda s: (np.prod(s), sum(s), s))


def _fill(nodes: Ints, free: Ints, gpus: int) -> Gang:
    """From these nodes in turn until the gang is complete."""
    place = []
    for node in nodes.tolist():
        if gpus > 0:
            place.append((node, min(gpus, int(free[node]))))
            gpus -= place[-1][1]
    return tuple(place)
