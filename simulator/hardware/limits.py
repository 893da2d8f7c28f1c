"""Power limits of accelerators, nodes, racks and the whole cluster, and the clocks they leave."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from simulator.hardware.power import DEEPEST_MEASURED, clock_under
from simulator.hardware.types import Cluster, Node, NodeGroup

__all__ = ["PowerLimits", "device_limit", "limited", "node_rating", "overload_probability"]


@dataclass(frozen=True)
class PowerLimits:
    """Most that may be drawn [W], before the losses of the building; infinity where there is no limit.

    Attributes
    ----------
    device_cap, node_cap, rack_cap, cap
        Per accelerator, per node, per rack of ``Cluster.rack.nodes`` nodes, and for all nodes together.
    oversubscription
        Power that the nodes are rated for over the power that is there; 1: every node may draw its rating.
    """

    device_cap: float = math.inf
    node_cap: float = math.inf
    rack_cap: float = math.inf
    cap: float = math.inf
    oversubscription: float = 1.0


def device_limit(cluster: Cluster, node: Node, limits: PowerLimits, working: int) -> tuple[float, str]:
    """Most that one accelerator of ``node`` may draw [W] when ``working`` nodes work, and the limit that says so.

    A rack's limit is shared evenly by its nodes, the cluster's by the nodes with work after idle ones have drawn
    what they draw; nodes of several types share in proportion to their ratings.
    """
    rated = sum(g.count * node_rating(g.node) for g in cluster.groups)
    idle = sum(g.count * _idle(g.node) for g in cluster.groups) / cluster.node_count
    spare = (cluster.node_count - working) * idle
    share = node_rating(node) / (rated / cluster.node_count) / max(working, 1)
    per_node = {
        "node_cap": limits.node_cap,
        "rack_cap": limits.rack_cap / max(cluster.rack.nodes, 1),
        "cap": (limits.cap - spare) * share,
        "oversubscription": (rated / limits.oversubscription - spare) * share
        if limits.oversubscription > 1
        else math.inf,
    }
    found = {key: (watts - node.power_overhead) / node.accelerators for key, watts in per_node.items()}
    found["device_cap"] = limits.device_cap
    key = min(found, key=lambda name: found[name])
    return found[key], key


def node_rating(node: Node) -> float:
    """Most that a node draws [W]: its rating, or what its parts draw together where none is known."""
    return node.power_peak or node.power_overhead + node.accelerators * node.accelerator.power.peak


def _idle(node: Node) -> float:
    return node.power_overhead + node.accelerators * node.accelerator.power.idle


def limited(cluster: Cluster, limits: PowerLimits, working: int) -> tuple[Cluster, list[str], list[tuple[str, str]]]:
    """The cluster with the clocks that the limits leave, what to tell the user, and what cannot be kept.

    Parameters
    ----------
    working
        Nodes with work; the others idle.

    Returns
    -------
    Problems are pairs of the limit's key and a message.
    """
    groups, notes, problems = list[NodeGroup](), list[str](), list[tuple[str, str]]()
    for group in cluster.groups:
        node, power = group.node, group.node.accelerator.power
        watts, key = device_limit(cluster, node, limits, working)
        clock = clock_under(power, watts)
        if clock <= 0:
            message = (
                f"leaves {max(0.0, watts):.0f} W per {node.accelerator.name}, which draws {power.idle:.0f} W when idle "
                f"(the rest of a {node.name} takes {node.power_overhead:.0f} W): use a higher limit or fewer nodes"
            )
            problems.append((key, message))
            clock = 1.0
        elif clock < 1.0:
            notes += _notes(node, watts, key, clock)
        groups.append(replace(group, node=replace(node, accelerator=replace(node.accelerator, clock=clock))))
    return replace(cluster, groups=tuple(groups)), notes, problems


def _notes(node: Node, watts: float, key: str, clock: float) -> Iterator[str]:
    name, peak = node.accelerator.name, node.accelerator.power.peak
    yield (
        f"cluster.power.{key}: {watts:.0f} of {peak:.0f} W for each {name}, so compute runs at {clock:.0%} of its "
        f"clock; work bound by memory keeps its speed"
    )
    if watts < DEEPEST_MEASURED * peak:
        yield (
            f"cluster.power.{key}: {watts / peak:.0%} of the peak power is deeper than the readings behind the "
            f"relation of power and clock; such limits slow compute more than predicted"
        )


def overload_probability(nodes: int, busy_share: float, busy: float, idle: float, cap: float) -> float:
    """Probability that nodes that work independently draw more than ``cap`` [W] together at a moment (binomial).

    What power oversubscription bets on: each node draws ``busy`` [W] for a share of the time, else ``idle`` [W].
    """
    if not 0 <= busy_share <= 1:
        raise ValueError(f"a share of the time is between 0 and 1, not {busy_share}")
    if nodes * idle > cap:
        return 1.0
    most = nodes if busy <= idle else min(nodes, math.floor((cap - nodes * idle) / (busy - idle) * (1 + 1e-12)))
    from scipy.stats import binom

    return float(binom.sf(most, nodes, busy_share))
