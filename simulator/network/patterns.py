"""Who sends how much to whom in each algorithm of a collective: the messages, over the whole of it, ranks as laid out.

Ranks are numbered through the scale-up domains of a layout, e.g. ``(8, 8)``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from simulator.network.links import Ids

__all__ = ["Messages", "pattern"]

Messages = tuple[Ids, Ids, NDArray[np.float64]]
"""From, to, bytes."""


def pattern(op: str, algorithm: str, size: float, layout: Sequence[int]) -> Iterator[Messages]:
    """The messages of a collective of ``size`` bytes, in pieces; see :mod:`simulator.network.collectives`."""
    n = sum(layout)
    everyone = np.arange(n)
    passes = 2.0 if op == "all_reduce" else 1.0
    if op == "p2p":
        yield everyone[:1], everyone[1:], np.array([size])
    elif algorithm == "pairwise":
        yield from _exchange(everyone, size)
    elif op == "all_to_all":
        yield from _two_exchanges(everyone, size, layout[0])
    elif algorithm == "tree":
        yield from _tree(op, size, layout, [_heap(len(layout))])
    elif algorithm == "double-tree":
        yield from _tree(op, size, layout, _two_trees(len(layout)))
    elif algorithm == "halving-doubling":
        yield from _halving(everyone, passes * size)
    elif op == "broadcast":
        yield everyone[:-1], everyone[1:], np.full(n - 1, size)
    elif algorithm == "ring":
        yield everyone, (everyone + 1) % n, np.full(n, passes * (n - 1) / n * size)
    else:
        g, domains = layout[0], len(layout)
        inside = everyone // g * g + (everyone + 1) % g
        between = (everyone + g) % n
        yield everyone, inside, np.full(n, passes * (g - 1) / g * size)
        yield everyone, between, np.full(n, passes * (domains - 1) / domains * size / g)


def _exchange(everyone: Ids, size: float) -> Iterator[Messages]:
    """Every rank sends its part to every other."""
    n = len(everyone)
    per_step = max(1, 2**20 // n)
    for first in range(1, n, per_step):
        shift = np.arange(first, min(n, first + per_step))
        source = np.repeat(everyone[None], len(shift), axis=0)
        yield source.ravel(), ((source + shift[:, None]) % n).ravel(), np.full(source.size, size / n)


def _two_exchanges(everyone: Ids, size: float, g: int) -> Iterator[Messages]:
    """Inside the domain by the place of the target in its own; then between ranks of one place, in few large pieces."""
    place, domain, domains = everyone % g, everyone // g, len(everyone) // g
    for shift in range(1, g):
        yield everyone, domain * g + (place + shift) % g, np.full(len(everyone), size / g)
    for shift in range(1, domains):
        yield everyone, (domain + shift) % domains * g + place, np.full(len(everyone), size / domains)


def _halving(everyone: Ids, size: float) -> Iterator[Messages]:
    """Halves with the neighbour, quarters with the next but one ...: the large messages stay near."""
    distance, part = 1, size / 2
    while distance < len(everyone):
        yield everyone, everyone ^ distance, np.full(len(everyone), part)
        distance, part = 2 * distance, part / 2


def _tree(op: str, size: float, layout: Sequence[int], trees: list[Ids]) -> Iterator[Messages]:
    """A chain inside each domain, and between their first ranks trees that share the bytes; up, and down again."""
    first = np.cumsum([0, *layout[:-1]])
    inner = np.setdiff1d(np.arange(sum(layout)), first)
    edges = [(inner, inner - 1, size)]
    for parent in trees:
        below = np.flatnonzero(parent >= 0)
        edges.append((first[below], first[parent[below]], size / len(trees)))
    for below, above, volume in edges:
        yield above, below, np.full(len(below), volume)
        if op == "all_reduce":
            yield below, above, np.full(len(below), volume)


def _heap(count: int) -> Ids:
    """Parents in a binary tree as heaps number it, −1 for the root."""
    return (np.arange(count) - 1) // 2


def _two_trees(count: int) -> list[Ids]:
    """Parents in two binary trees; whoever has children in one is a leaf of the other, but for rank 0 of an odd number.

    Sanders, Speck, Träff, *Two-tree algorithms for full bandwidth broadcast, reduction and scan*, Parallel Computing
    2009. The second is the mirror image of the first for even numbers, and the first moved by one for odd ones.
    """
    parent = np.full(count, -1, np.int64)
    for rank in range(1, count):
        bit = rank & -rank
        above = (rank ^ bit) | (bit << 1)
        parent[rank] = above if above < count else rank ^ bit
    other = np.full(count, -1, np.int64)
    for rank in range(count):
        partner = count - 1 - rank if count % 2 == 0 else (rank - 1) % count
        above = int(parent[partner])
        if above >= 0:
            other[rank] = count - 1 - above if count % 2 == 0 else (above + 1) % count
    return [parent, other]
