"""Background traffic as a tenant of the cluster: a steady rate that shares links with everything else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from simulator.cluster.contention import contention_table
from simulator.cluster.tenants import ClusterScenario, Commons
from simulator.network.connections import way_of_all
from simulator.network.periodic import Phase
from simulator.results.tables import Columns
from simulator.units import format_quantity
from simulator.workload.background import BackgroundTraffic

if TYPE_CHECKING:
    import simpy

    from simulator.network.fabric import Fabric

__all__ = ["BackgroundTenant"]

_SECOND = 1.0
"""Length of its period [s]; the rate does not depend on it."""


class BackgroundTenant:
    """Never idle: one phase that lasts as long as its period, and longer where it does not get its rate."""

    key = 1.0

    def __init__(self, traffic: BackgroundTraffic, scenario: ClusterScenario) -> None:
        self.traffic, self.scenario, self.tag = traffic, scenario, traffic.name
        self.phases: Sequence[Phase] = ()
        self._fabric: Fabric | None = None
        self._worst = 1.0

    @property
    def warnings(self) -> tuple[str, ...]:
        """That it got less than it wanted."""
        if self._worst == 1.0:
            return ()
        least, wanted = (format_quantity(r, "bandwidth") for r in (self.traffic.rate / self._worst, self.traffic.rate))
        return (f"{self.tag}: at times {least} of the {wanted} that it wants, the links are shared",)

    def start(self, commons: Commons) -> simpy.Event | None:
        """Send from its start on; nobody waits for its end."""
        clock, self._fabric = commons.clock, commons.fabric
        clock.at(self.traffic.start, self._begin)
        if math.isfinite(self.traffic.until):
            clock.at(self.traffic.until, self._end)
        self._fabric.watchers.append(self._reroute)
        return None

    def tables(self) -> tuple[Mapping[str, Columns], dict[str, Any]]:
        """Links that were in its way."""
        found = contention_table(self._fabric, self.tag) if self._fabric is not None else {}
        return ({"contention": found} if found.get("link") else {}), {}

    def idle(self, slow: Sequence[float]) -> float:
        """See :class:`~simulator.network.periodic.Periodic`."""
        return 0.0

    def settled(self, slow: Sequence[float]) -> None:
        """See :class:`~simulator.network.periodic.Periodic`."""
        self._worst = max(self._worst, slow[0])

    def _begin(self) -> None:
        fabric = self._fabric
        assert fabric is not None
        ends = self._ends(self.traffic.source, fabric), self._ends(self.traffic.to, fabric)
        count = max(map(len, ends))
        pairs = [(ends[0][i % len(ends[0])], ends[1][i % len(ends[1])]) for i in range(count)]
        way = way_of_all(fabric, pairs)
        busiest = float(way.shares.max())
        load = Phase("background", type(way)(way.links, way.shares / busiest), self.traffic.rate * busiest * _SECOND,
                     _SECOND, weight=busiest * count)  # fmt: skip
        self.phases = (load,)
        fabric.enter(self)

    def _end(self) -> None:
        if self._fabric is not None and self.phases:
            self._fabric.leave(self)
            self.phases = ()

    def _reroute(self) -> None:
        if self.phases:
            self._end()
            self._begin()

    def _ends(self, place: str | int, fabric: Fabric) -> list[int]:
        top = fabric.topology
        if isinstance(place, int):
            return [top.host(place)]
        if place in (s.name for s in self.scenario.cluster.storage):
            return [top.storage(place)]
        return [top.host(node) for node in self.scenario.nodes_of(place)]
