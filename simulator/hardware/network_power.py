"""Draw of the network between nodes, per network port of a node.

Switches draw their typical power whether they are used or not, optics as well. In a fat tree every port of a node
takes a share of the levels above it: with 1:r oversubscription 1/r of a cable goes up from a leaf, and every cable
between switches takes a port at both ends.
"""

from __future__ import annotations

import math
import re

from simulator.hardware.parts import load_parts
from simulator.hardware.types import Cluster, Link
from simulator.units import UnitError, parse_quantity

__all__ = ["IN_CLOSED_FORM", "link_family", "ports_and_cables", "power_per_port"]

IN_CLOSED_FORM = ("single-switch", "fat-tree", "rail-optimized")
"""Topologies whose switches follow from the number of ports; those of others are counted where they are built."""


def link_family(link: Link) -> str:
    """``infiniband`` or ``ethernet``, by the name of the link."""
    return "infiniband" if re.match(r"(s|f|e|h|n|x)dr\d", link.name) else "ethernet"


def ports_and_cables(cluster: Cluster) -> tuple[float, float]:
    """Switch ports and cables per network port of a node; (0, 0) where the topology has none or is not a fat tree."""
    fabric, options = cluster.fabric, dict(cluster.fabric.options)
    endpoints = sum(g.count * g.node.nics for g in cluster.groups)
    if cluster.node_count == 1 or not endpoints:
        return 0.0, 0.0
    if fabric.topology == "single-switch":
        return 1.0, 1.0
    if fabric.topology not in ("fat-tree", "rail-optimized"):
        return 0.0, 0.0
    ratio, radix = fabric.oversubscription, _number(options.get("radix"), 64.0)
    leaves = math.ceil(endpoints / max(1.0, round(radix * ratio / (1 + ratio))))
    levels = _number(options.get("levels"), 1.0 if leaves == 1 else 2.0 if leaves <= radix else 3.0)
    up = [1.0 / ratio] if levels > 1 else []
    up += [up[0] / _number(options.get("oversubscription_spine"), 1.0)] if levels > 2 else []
    return 1.0 + 2.0 * sum(up), 1.0 + sum(up)


def _number(value: object, default: float) -> float:
    if value is None or isinstance(value, float):
        return default if value is None else value
    try:
        return parse_quantity(value, "ratio")
    except UnitError:  # told where the network is built
        return default


def power_per_port(cluster: Cluster, counted: tuple[float, float] | None = None) -> float:
    """Draw of switches and optics per network port of a node [W]; 0 where no part of that speed is known.

    ``counted``: switch ports and cables per network port of a node, where they were counted in the built network.
    """
    ports, cables = counted or ports_and_cables(cluster)
    if not ports and not cables:
        return 0.0
    parts, link = load_parts(), cluster.fabric.link
    switch, light = parts.switch(link_family(link), link.bandwidth), parts.of_speed(parts.transceivers, link.bandwidth)
    each = switch.power[0] / switch.ports if switch is not None else 0.0
    # The optics at the node's end are part of the node's rating.
    optics = sum(light.power) / 2 * (2 * cables - 1) if light is not None else 0.0
    return ports * each + optics
