"""Power limits of a scenario put on its cluster, now that it is known which nodes work."""

from __future__ import annotations

import math
from collections.abc import Iterable

from simulator.hardware.limits import PowerLimits, limited
from simulator.hardware.types import Cluster
from simulator.scenario.spec_power import PowerSpec
from simulator.scenario.types import Placement

__all__ = ["under_limits"]


def under_limits(
    cluster: Cluster, spec: PowerSpec, placements: Iterable[Placement], least: int = 0
) -> tuple[Cluster, list[str], list[tuple[tuple[str, ...], str]]]:
    """The cluster at the clocks that are left, notes, and problems as (path below ``cluster.power``, message).

    ``least`` nodes work in any case: functions may start on all that others leave.
    """
    if spec.rack_cap is not None and not cluster.rack.nodes:
        message = "needs the number of nodes in a rack beside it: cluster.rack: {nodes: 4}"
        return cluster, [], [(("rack_cap",), message)]
    caps = (spec.device_cap, spec.node_cap, spec.rack_cap, spec.cap)
    device, node, rack, whole = (math.inf if cap is None else cap for cap in caps)
    limits = PowerLimits(device, node, rack, whole, spec.oversubscription)
    working = {node for p in placements for node in range(p.first_node, p.first_node + p.nodes)}
    cluster, notes, problems = limited(cluster, limits, max(len(working), least))
    return cluster, notes, [((key,), message) for key, message in problems]
