"""The way of a transfer from what its sender names; and many equal connections as one flow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from simulator.network.flows import Way

if TYPE_CHECKING:
    from simulator.network.fabric import Fabric
    from simulator.network.topology import Topology

__all__ = ["way_of", "way_of_all"]


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


def way_of(
    topology: Topology, route: Sequence[int] | Mapping[int, float] | Way, endpoints: bool, spray: bool, number: int
) -> tuple[Way, float]:
    """Way and latency [s] of a transfer; see :meth:`Fabric.transfer` for what a route may be.

    Raises
    ------
    ValueError
        If a link does not exist.
    """
    if endpoints:
        ends: Any = route
        source, target = ends
        path = topology.path(source, target, number)
        way = Way.of(topology.spread(source, target, number) if spray else path)
        return way, topology.path_latency(path)
    way = route if isinstance(route, Way) else Way.of(route)
    count = len(topology.links)
    if len(way.links) and not 0 <= way.links.min() <= way.links.max() < count:
        raise ValueError(f"link numbers must lie in [0, {count})")
    return way, 0.0
