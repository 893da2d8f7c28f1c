"""What the iterations of a replica send between scale-up domains, over which links, and how long those take for it.

Alone, a message takes what its network profile says, or longer where a link of the replica's placement is narrower; on
the clock all messages of a mesh axis take as many times longer as others leave them less of their links.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator.hardware.types import Cluster
from simulator.network.built import never_blocks, topology_of
from simulator.network.collectives import add_group_loads
from simulator.network.detours import NoWayError
from simulator.network.links import KINDS
from simulator.network.topology import Topology
from simulator.strategies.rank_layout import RankLayout
from simulator.workload.plan import base_axis

__all__ = ["ALONE", "Away", "MessageLinks", "ReplicaWays", "links_of_place", "together"]

Floats = NDArray[np.float64]


class Away(NamedTuple):
    """Messages of an iteration that leave a scale-up domain.

    Attributes
    ----------
    axis, collective
        Mesh axis and what it is; ``send_recv`` along ``pp`` goes to the next stage.
    size
        In the sense of the collective, of one group [B].
    seconds
        How long a rank is busy with them behind switches that never block [s].
    """

    axis: str
    collective: str
    size: float
    seconds: float


def together(messages: Iterable[Away]) -> tuple[Away, ...]:
    """One entry per axis and collective."""
    found: dict[tuple[str, str], Away] = {}
    for away in messages:
        known = found.get((away.axis, away.collective))
        if known is not None:
            away = away._replace(size=known.size + away.size, seconds=known.seconds + away.seconds)
        found[away.axis, away.collective] = away
    return tuple(found.values())


class ReplicaWays:
    """The links between domains that the messages of a replica load.

    Parameters
    ----------
    topology
        Of the whole cluster.
    layout, stages
        Where its ranks sit, and its pipeline stages.
    first
        Accelerator of its first rank; the others follow it.
    """

    def __init__(self, topology: Topology, layout: RankLayout, stages: int, first: int) -> None:
        self.topology, self.layout, self.stages, self.first = topology, layout, stages, first
        self._seconds: dict[tuple[str, str], float] = {}
        self._outside = topology.links.kind != KINDS.index("scale_up")

    def loads(self, axis: str, collective: str, capacity: Floats | None = None) -> Floats:
        """Bytes on every link [links] when each group of the replica's ranks sends one byte.

        Parameters
        ----------
        capacity
            [links], [B/s], where links are degraded or lost.

        Raises
        ------
        NoWayError
            If links that are lost cannot be gone round.
        """
        topology, layout = self.topology, self.layout
        ranks = (self.first + np.arange(layout.plan.accelerators)).reshape(self.stages, -1)
        found = np.zeros(len(topology.links))
        if axis == "pp":
            source, sink = ranks[:-1].ravel(), ranks[1:].ravel()
            topology.add_loads(found, source, sink, np.ones(len(source)), capacity)
        else:
            size, stride = layout.group(axis).ranks, layout.strides[axis]
            groups = ranks.reshape(-1, size, stride).transpose(0, 2, 1).reshape(-1, size)
            add_group_loads(topology, found, collective, 1.0, groups, capacity)
        found *= self._outside
        if capacity is not None and len(dead := np.flatnonzero((found > 0) & (capacity <= 0))):
            raise NoWayError(f"{topology.links.name(int(dead[0]))} is lost, and nothing leads round it")
        return found

    def seconds_per_byte(self, axis: str, collective: str) -> float:
        """Time of one byte of every group on the link that is the narrowest for it [s/B]."""
        known = self._seconds.get((axis, collective))
        if known is None:
            loads = self.loads(axis, collective)
            known = self._seconds[axis, collective] = float((loads / self.topology.links.capacity).max(initial=0.0))
        return known

    def narrowest(self, axis: str, collective: str) -> str:
        """Name of that link."""
        loads, links = self.loads(axis, collective), self.topology.links
        return links.name(int(np.argmax(loads / links.capacity)))


@dataclass(frozen=True, eq=False)
class MessageLinks:
    """What the messages of a replica meet between domains.

    Attributes
    ----------
    ways
        The links of its placement, where they can be narrower than its ports.
    slow
        How many times longer messages take, by mesh axis; 1 where nothing is said.
    """

    ways: ReplicaWays | None = None
    slow: Mapping[str, float] = field(default_factory=dict)

    def alone(self, away: Away) -> float:
        """How long messages take when nobody else is on their links [s]."""
        if self.ways is None:
            return away.seconds
        return max(away.seconds, away.size * self.ways.seconds_per_byte(away.axis, away.collective))

    def added(self, messages: Iterable[Away]) -> float:
        """How much longer messages take than behind switches that never block [s]; 0 for most."""
        if self.ways is None and not self.slow:
            return 0.0
        slow = self.slow
        return sum(slow.get(base_axis(a.axis), 1.0) * self.alone(a) - a.seconds for a in messages)


ALONE = MessageLinks()
"""Behind switches that never block, with nobody else."""


def links_of_place(layout: RankLayout, stages: int, cluster: Cluster) -> MessageLinks:
    """What a replica on ``cluster`` meets when it is alone there."""
    place = cluster.place
    whole, first_node = (place.whole, place.first_node) if place is not None else (cluster, 0)
    if layout.plan.accelerators <= layout.node.scale_up.domain or never_blocks(whole):
        return ALONE
    topology = topology_of(whole)
    first = int(np.searchsorted(topology.nodes.node_of[: topology.accelerator_count], first_node))
    if first + layout.plan.accelerators > topology.accelerator_count:  # an estimate of more than there is
        return ALONE
    return MessageLinks(ReplicaWays(topology, layout, stages, first))
