"""Topologies that are asked for again and again: one per cluster, and none where links block nobody."""

from __future__ import annotations

from functools import lru_cache

from simulator.hardware.types import Cluster
from simulator.network.topology import Topology, build
from simulator.network.wiring import topology_class

__all__ = ["never_blocks", "topology_of"]


def never_blocks(cluster: Cluster) -> bool:
    """Whether whatever passes the ports of nodes passes the switches: then no network need be built to know."""
    fabric = cluster.fabric
    return fabric.routing.policy != "ecmp" and topology_class(fabric.topology).never_blocks(fabric)


def topology_of(cluster: Cluster) -> Topology:
    """The links of a cluster, built once for all plans that are tried on it."""
    return _topology(_Same(cluster))


class _Same:
    """A cluster, equal to itself only: two that look alike are not compared field by field."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.cluster is other.cluster

    def __hash__(self) -> int:
        return id(self.cluster)


@lru_cache(maxsize=2)
def _topology(same: _Same) -> Topology:
    return build(same.cluster)
