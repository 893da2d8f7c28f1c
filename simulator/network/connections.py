"""Many equal connections as one flow: a checkpoint of all nodes of a job, a dataset read by them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from simulator.network.flows import Way

if TYPE_CHECKING:
    from simulator.network.fabric import Fabric

__all__ = ["way_of_all"]


def way_of_all(fabric: Fabric, pairs: Sequence[tuple[int, int]]) -> Way:
    """Links of connections between pairs of endpoints, each of which carries an equal part.

    Every connection takes the way of its hash, round links that are lost; where nothing leads round them it keeps its
    way and waits for the repair. Give the flow the number of pairs as its weight: each connection competes for itself.
    """
    shares: dict[int, float] = {}
    down = fabric.down
    for number, (source, target) in enumerate(pairs):
        path = fabric.topology.path_avoiding(source, target, down, number) if down else None
        for link in path or fabric.topology.path(source, target, number):
            shares[link] = shares.get(link, 0.0) + 1 / len(pairs)
    return Way.of(shares)
