"""Placements of gangs on nodes with free accelerators."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulator.registry import register

__all__ = ["BestFit", "FirstFit", "RandomFit", "TopologyAware"]

Ints = NDArray[np.int64]
Gang = tuple[tuple[int, int], ...]


def _take(order: Ints, free: Ints, gpus: int) -> Gang | None:
    """From nodes in this order until the gang is complete."""
    have = np.cumsum(free[order])
    if not len(have) or have[-1] < gpus:
        return None
    last = int(np.searchsorted(have, gpus))
    nodes = order[: last + 1]
    counts = free[nodes].copy()
    counts[-1] -= have[last] - gpus
    return tuple(zip(nodes.tolist(), counts.tolist(), strict=True))


@register("first-fit", kind="policy", area="cluster", family="placement", validated_by="closed_form")
class FirstFit:
    """The first nodes with free accelerators, one node if one has enough."""

    name: str

    def place(self, gpus: int, free: Ints, size: Ints, group: Ints) -> Gang | None:
        """In order of the nodes."""
        enough = free >= gpus
        if enough.any():
            return ((int(enough.argmax()), gpus),)
        return _take(np.flatnonzero(free), free, gpus)


@register(
    "best-fit", kind="policy", area="cluster", family="placement", cites=("Jeon et al., Philly, USENIX ATC 2019",),
    validated_by="closed_form",
)  # fmt: skip
class BestFit:
    """The fullest node that has enough; gangs larger than a node take empty nodes and wait for them."""

    name: str

    def place(self, gpus: int, free: Ints, size: Ints, group: Ints) -> Gang | None:
        """Packed: as few nodes as there can be."""
        largest = int(size.max())
        if gpus <= largest:
            left = np.where(free >= gpus, free, largest + 1)
            node = int(left.argmin())
            return ((node, gpus),) if left[node] <= largest else None
        empty = np.flatnonzero((free == size) & (size > 0))
        return _take(empty[np.argsort(-size[empty], kind="stable")], free, gpus)


@register("topology-aware", kind="policy", area="cluster", family="placement", validated_by="closed_form")
class TopologyAware:
    """As few nodes as possible, and all of them below one leaf switch if one has room; else below few."""

    name: str

    def place(self, gpus: int, free: Ints, size: Ints, group: Ints) -> Gang | None:
        """Best fit inside the leaf that the gang fills most."""
        largest = int(size.max())
        if gpus <= largest:
            room = np.bincount(group, free)[group]
            # Among the fullest nodes that have enough, the one whose leaf has least left: whole leaves stay free.
            score = np.where(free >= gpus, free * (room.max() + 1) + room, np.inf)
            node = int(score.argmin())
            return ((node, gpus),) if np.isfinite(score[node]) else None
        empty = np.flatnonzero((free == size) & (size > 0))
        room = np.bincount(group[empty], free[empty], minlength=int(group.max()) + 1)
        fits = np.flatnonzero(room >= gpus)
        if len(fits):
            leaf = fits[room[fits].argmin()]
            return _take(empty[group[empty] == leaf], free, gpus)
        return _take(empty[np.lexsort((empty, group[empty], -room[group[empty]]))], free, gpus)


@register("random", kind="policy", area="cluster", family="placement", validated_by="closed_form")
class RandomFit:
    """Random nodes with free accelerators."""

    name: str

    def __init__(self, seed: int = 0) -> None:
        self._random = np.random.Generator(np.random.PCG64(seed))

    def place(self, gpus: int, free: Ints, size: Ints, group: Ints) -> Gang | None:
        """In random order."""
        return _take(self._random.permutation(np.flatnonzero(free)), free, gpus)
