"""Power limits of a scenario: those of machines put on its cluster as clocks, and feeders to be kept on the clock."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence

from simulator.errors import unknown_name
from simulator.hardware.feeders import Feeder, PowerBudgets, feeder_rating, least_draw
from simulator.hardware.limits import PowerLimits, limited
from simulator.hardware.types import Cluster
from simulator.scenario.spec_power import FeederSpec, PowerSpec
from simulator.scenario.types import Placement
from simulator.units import format_quantity

__all__ = ["budgets_of", "under_limits"]

Problem = tuple[tuple[str | int, ...], str]
"""Path below ``cluster.power``, and what is wrong."""


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


def budgets_of(
    cluster: Cluster, spec: PowerSpec, workloads: Collection[str], fixed: Sequence[str]
) -> tuple[PowerBudgets | None, list[Problem]]:
    """Feeders with the nodes of each, those with the fewest first, and what is wrong with them.

    Parameters
    ----------
    workloads
        All names, for ``urgency``.
    fixed
        What cannot be slowed, in words: calls of functions and models that share replicas are not worked off event by
        event, pipelines on instances have no fixed places.
    """
    problems: list[Problem] = [
        (("urgency",), unknown_name("workload", name, workloads)) for name in spec.urgency if name not in workloads
    ]
    problems += [
        (("feeders",), f"{what} cannot be slowed yet: use 'cap' or 'device_cap', which hold all the time")
        for what in fixed[:1]
        if spec.feeders
    ]
    found: list[Feeder] = []
    for number, level in enumerate(spec.feeders):
        feeders = list(_feeders(cluster, level))
        problems += [(("feeders", number, *path), message) for path, message in _wrong(cluster, level, feeders)]
        found += feeders
    names = [feeder.name for feeder in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        problems.append((("feeders",), f"two feeders are called '{twice[0]}': give each level a name of its own"))
    if problems or not found:
        return None, problems
    found.sort(key=lambda feeder: len(feeder.nodes))
    return PowerBudgets(tuple(found), spec.sharing, spec.interval, dict(spec.urgency)), problems


def _feeders(cluster: Cluster, level: FeederSpec) -> Iterator[Feeder]:
    total = cluster.node_count
    size = min(level.nodes or total, total)
    for number, first in enumerate(range(0, total, size)):
        nodes = range(first, min(first + size, total))
        name = level.name if size == total else f"{level.name}{number}"
        over = feeder_rating(cluster, nodes) / (level.oversubscription or 1.0)
        yield Feeder(name, nodes, level.limit if level.limit is not None else over)


def _wrong(cluster: Cluster, level: FeederSpec, feeders: list[Feeder]) -> Iterator[Problem]:
    if (level.limit is None) == (level.oversubscription is None):
        yield (), "needs either 'limit', in watts per feeder, or 'oversubscription', of the nodes' ratings"
        return
    if level.nodes is not None and level.nodes > cluster.node_count:
        yield ("nodes",), f"{level.nodes} nodes behind each, but the cluster has {cluster.node_count}"
    key = "limit" if level.limit is not None else "oversubscription"
    for feeder in feeders:
        least = least_draw(cluster, feeder.nodes)
        if feeder.limit <= least:
            has, needs = format_quantity(feeder.limit, "power"), format_quantity(least, "power")
            yield (key,), f"{feeder.name} brings {has}, but its {len(feeder.nodes)} nodes draw {needs} without any work"
            return
