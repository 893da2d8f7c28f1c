"""How many rings a mesh of links holds: what a ring collective can use of it.

A library lays one channel on every ring it finds over all ranks that shares no lane with another (NCCL,
``ncclTopoCompute``). Ranks that no lane joins reach each other through one with lanes
to both (NCCL's "NVB" paths).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import pairwise, permutations

__all__ = ["ring_count"]

Lanes = tuple[tuple[int, ...], ...]
_MOST_RANKS = 8


@cache
def ring_count(lanes: Lanes) -> int:
    """Directed rings over all ranks of a mesh that share no lane, each lane taken once in each direction.

    Parameters
    ----------
    lanes
        [ranks][ranks], symmetric: lanes between each pair.

    Raises
    ------
    ValueError
        For more than eight ranks: all rings are looked at.
    """
    ranks = len(lanes)
    if ranks > _MOST_RANKS:
        raise ValueError(f"rings of at most {_MOST_RANKS} ranks, not {ranks}")
    if ranks == 2:  # there and back is one ring
        return lanes[0][1]
    count = 0
    rings = sorted({tuple(sorted(ring)) for ring in _rings(lanes)})
    while 2 * (count + 1) <= min(map(sum, lanes)) and _pack(lanes, rings, count + 1):
        count += 1
    return 2 * count  # each can be run both ways round


def _rings(lanes: Lanes) -> Iterator[list[tuple[int, int]]]:
    """Undirected lanes of every ring."""
    for order in permutations(range(1, len(lanes))):
        if order[0] < order[-1]:
            hops = [_hop(lanes, a, b) for a, b in pairwise((0, *order, 0))]
            if all(hops):
                yield [lane for hop in hops for lane in hop]


def _hop(lanes: Lanes, a: int, b: int) -> list[tuple[int, int]]:
    if lanes[a][b]:
        return [(min(a, b), max(a, b))]
    for via in range(len(lanes)):
        if lanes[a][via] and lanes[via][b]:
            return [(min(a, via), max(a, via)), (min(via, b), max(via, b))]
    return []


def _pack(lanes: Lanes, rings: list[tuple[tuple[int, int], ...]], count: int, first: int = 0) -> bool:
    """Whether so many rings fit on the lanes together; a ring may be laid more than once."""
    if count == 0:
        return True
    for place in range(first, len(rings)):
        left = [list(row) for row in lanes]
        for a, b in rings[place]:
            left[a][b] -= 1
            left[b][a] -= 1
        if all(left[a][b] >= 0 for a, b in rings[place]) and _pack(tuple(map(tuple, left)), rings, count - 1, place):
            return True
    return False
