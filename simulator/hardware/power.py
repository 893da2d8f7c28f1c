"""Power draw of accelerators, nodes and clusters.

P = P_idle + (P_peak − P_idle) · u^a: steep at first, because clocks and memory are up as soon as anything runs.
With a between 0.6 and 0.8 it follows readings on A100 (fractions of 400 W): generation at 0.43 to 0.79, prefill
at 1.0 to 1.06 (Splitwise simulator, data/perf_model.csv). For utilisation take the larger of the compute share and
:data:`MEMORY_WEIGHT` times the memory-bandwidth share.
"""

from __future__ import annotations

from simulator.hardware.types import Cluster, Node, PowerProfile

__all__ = ["MEMORY_WEIGHT", "accelerator_power", "cluster_power", "node_power", "utilisation"]

MEMORY_WEIGHT = 0.6
"""Share of peak power at full memory bandwidth and idle tensor cores, relative to full compute: 0.5 to 0.7."""


def utilisation(compute: float, memory: float) -> float:
    """Utilisation for the power curve from the shares of peak FLOP/s and of peak bandwidth in use, all 0..1."""
    return min(1.0, max(compute, MEMORY_WEIGHT * memory, 0.0))


def accelerator_power(profile: PowerProfile, utilisation: float) -> float:
    """Draw of one accelerator [W] at a utilisation of 0..1 (clipped)."""
    used = min(1.0, max(0.0, utilisation))
    return profile.idle + (profile.peak - profile.idle) * float(used**profile.exponent)


def node_power(node: Node, utilisation: float, active: int | None = None) -> float:
    """Draw of a node [W]: ``active`` accelerators at ``utilisation``, the others idle, plus ``power_overhead``.

    The overhead (processors, memory, switches, NICs, fans) is taken as constant; the node's rating bounds the sum.

    Parameters
    ----------
    node
        The server.
    utilisation
        Of the active accelerators, 0..1.
    active
        How many accelerators are in use; all by default.
    """
    busy = node.accelerators if active is None else min(active, node.accelerators)
    power = node.accelerator.power
    total = node.power_overhead + busy * accelerator_power(power, utilisation)
    total += (node.accelerators - busy) * power.idle
    return min(total, node.power_peak) if node.power_peak else total


def cluster_power(cluster: Cluster, utilisation: float) -> float:
    """Draw of all nodes of a cluster [W] at the wall: node power times the site's power usage effectiveness."""
    return cluster.site.pue * sum(g.count * node_power(g.node, utilisation) for g in cluster.groups)
