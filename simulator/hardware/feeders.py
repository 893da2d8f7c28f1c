"""Feeders: what brings power to racks, rows and sites, and may be oversubscribed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from simulator.hardware.limits import node_rating
from simulator.hardware.power import node_power
from simulator.hardware.types import Cluster, Node

__all__ = ["Feeder", "PowerBudgets", "feeder_rating", "least_draw"]


@dataclass(frozen=True)
class Feeder:
    """Consecutive nodes behind one breaker.

    Attributes
    ----------
    nodes
        Their numbers in the cluster.
    limit
        Most that they may draw together [W], before the losses of the building.
    """

    name: str
    nodes: range
    limit: float


@dataclass(frozen=True)
class PowerBudgets:
    """Feeders whose limits are kept while work comes and goes.

    Attributes
    ----------
    feeders
        Those with the fewest nodes first: a rack keeps its limit before its row does.
    sharing
        Registered strategy that says whose clocks yield.
    interval
        From one reading of what deployments draw to the next [s].
    urgency
        Workload → who yields later (higher); serving 1 and everything else 0 where it is not named.
    """

    feeders: tuple[Feeder, ...]
    sharing: str = "uniform"
    interval: float = 60.0
    urgency: Mapping[str, int] = field(default_factory=dict)


def feeder_rating(cluster: Cluster, nodes: range) -> float:
    """What these nodes are rated for together [W]."""
    return sum(node_rating(node) for node in _nodes(cluster, nodes))


def least_draw(cluster: Cluster, nodes: range) -> float:
    """What these nodes draw without work [W]."""
    return sum(node_power(node, 0.0, active=0) for node in _nodes(cluster, nodes))


def _nodes(cluster: Cluster, nodes: range) -> list[Node]:
    all_of = [group.node for group in cluster.groups for _ in range(group.count)]
    return all_of[nodes.start : nodes.stop]
