"""Power draw of accelerators, nodes and clusters, and the clocks that a power limit leaves.

P = P_idle + (P_peak − P_idle) · u · d(s), where u is the share of the dynamic power that the work asks for: a part that
is there as soon as anything runs, one in proportion to the FLOP/s and one in proportion to the bytes/s of memory
(:mod:`simulator.hardware.power_profile`), together at most 1.

A limit is kept by lowering the clock of the compute units to a share s. Dynamic power falls with frequency times
voltage squared: d(s) = s³ while the voltage follows the frequency, and in proportion to s below
:data:`VOLTAGE_FLOOR`, where the voltage falls no further. Memory has a clock of its own, so that work bound by memory
keeps its speed.
"""

from __future__ import annotations

from simulator.hardware.types import Cluster, Node, PowerProfile

__all__ = [
    "DEEPEST_MEASURED", "VOLTAGE_FLOOR", "accelerator_power", "clock_under", "cluster_power", "dynamic_share",
    "node_power", "utilisation",
]  # fmt: skip

VOLTAGE_FLOOR = 0.915
"""Clock share below which voltage no longer falls: benchmarks/fits/power_cap.py, on prefill rates of an RTX 3090 under
limits of 350 to 200 W (https://llmgarage.ai/power-limit-tokens-per-second-benchmark, February 2026). One source."""

DEEPEST_MEASURED = 0.57
"""Limit over peak power down to which the relation was compared with readings; deeper limits cost more than it says."""


def utilisation(profile: PowerProfile, compute: float, memory: float) -> float:
    """Share of the dynamic power that work draws, 0..1, from the shares of peak FLOP/s and of bandwidth it uses."""
    active, per_compute, per_memory = profile.shares
    return min(1.0, active + per_compute * max(0.0, compute) + per_memory * max(0.0, memory))


def dynamic_share(clock: float) -> float:
    """Dynamic power at a clock share of 0..1 over that at the full clock."""
    if clock >= VOLTAGE_FLOOR:
        return clock**3
    return VOLTAGE_FLOOR**2 * clock


def clock_under(profile: PowerProfile, limit: float) -> float:
    """Clock share at which compute-bound work draws no more than ``limit`` [W]; 0 when idling alone draws as much."""
    dynamic = profile.peak - profile.idle
    if limit >= profile.peak or dynamic <= 0:
        return 1.0
    share = max(0.0, (limit - profile.idle) / dynamic)
    if share >= VOLTAGE_FLOOR**3:
        return float(share ** (1 / 3))
    return share / VOLTAGE_FLOOR**2


def accelerator_power(profile: PowerProfile, utilisation: float, clock: float = 1.0) -> float:
    """Draw of one accelerator [W] at a share of 0..1 (clipped) of the dynamic power it has at this clock share."""
    used = min(1.0, max(0.0, utilisation))
    return profile.idle + (profile.peak - profile.idle) * used * dynamic_share(clock)


def node_power(node: Node, utilisation: float, active: int | None = None) -> float:
    """Draw of a node [W]: ``active`` accelerators at ``utilisation``, the others idle, plus ``power_overhead``.

    The overhead (processors, memory, switches, NICs, fans) is taken as constant; the node's rating bounds the sum.

    Parameters
    ----------
    node
        The server.
    utilisation
        Of the dynamic power of the active accelerators, 0..1.
    active
        How many accelerators are in use; all by default.
    """
    busy = node.accelerators if active is None else min(active, node.accelerators)
    power = node.accelerator.power
    total = node.power_overhead + busy * accelerator_power(power, utilisation, node.accelerator.clock)
    total += (node.accelerators - busy) * power.idle
    return min(total, node.power_peak) if node.power_peak else total


def cluster_power(cluster: Cluster, utilisation: float) -> float:
    """Draw of all nodes of a cluster [W] at the wall: node power times the site's power usage effectiveness."""
    return cluster.site.pue * sum(g.count * node_power(g.node, utilisation) for g in cluster.groups)
