"""The network of a scenario, looked at before anything runs: wiring, faults, background traffic."""

from __future__ import annotations

import math
from collections.abc import Iterator

from simulator.errors import ConfigError, did_you_mean
from simulator.hardware.types import Cluster
from simulator.scenario.spec import ScenarioSpec
from simulator.workload.background import BackgroundTraffic

__all__ = ["background_of", "fabric_problems"]

Loc = tuple[str | int, ...]
_FABRIC: Loc = ("cluster", "fabric")


def fabric_problems(spec: ScenarioSpec, cluster: Cluster) -> Iterator[tuple[Loc, str]]:
    """What is wrong with the fabric that is written: place in the document and message.

    A fabric without options and faults cannot be wrong in itself, and is not built here.
    """
    from simulator.network.topology import build

    fabric = spec.cluster.fabric
    if fabric is None or not (fabric.options or fabric.faults):
        return
    try:
        topology = build(cluster)
    except ConfigError as error:
        for issue in error.issues:
            key = issue.path.removeprefix("cluster.fabric").lstrip(".").partition("[")[0].partition(".")[0]
            loc: Loc = (*_FABRIC, "options", key) if key in fabric.options else (*_FABRIC, key) if key else _FABRIC
            yield loc, issue.message
        return
    for number, fault in enumerate(fabric.faults):
        try:
            topology.links.matching(fault.of)
        except ConfigError as error:
            yield (*_FABRIC, "faults", number, "of"), str(error)


def background_of(spec: ScenarioSpec, cluster: Cluster) -> Iterator[BackgroundTraffic | tuple[Loc, str]]:
    """Background traffic, or what is wrong with it."""
    workloads = [str(getattr(w, "training", None) or getattr(w, "serving", "")) for w in spec.workloads]
    known = [*(s.name for s in cluster.storage), *workloads]
    for number, asked in enumerate(spec.background):
        loc: Loc = ("background", number)
        wrong = False
        for key in ("source", "to"):
            place = getattr(asked, key)
            if isinstance(place, int) and not 0 <= place < cluster.node_count:
                wrong = True
                yield (*loc, key), f"there is no node {place}: they are numbered 0 to {cluster.node_count - 1}"
            elif isinstance(place, str) and place not in known:
                hint = did_you_mean(place, known) or f"known: {', '.join(known)}"
                wrong = True
                yield (*loc, key), f"no storage and no workload is called '{place}', {hint}"
        if asked.until is not None and asked.until <= asked.start:
            wrong = True
            yield (*loc, "until"), f"{asked.until:g} s is not after its start at {asked.start:g} s"
        if not wrong:
            until = math.inf if asked.until is None else asked.until
            yield BackgroundTraffic(asked.background, asked.source, asked.to, asked.rate, asked.start, until)
