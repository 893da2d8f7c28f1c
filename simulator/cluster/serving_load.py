"""A serving replica as a periodic load on the shared network: phases by mesh axis, and how slow they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator.network.detours import NoWayError
from simulator.network.flows import Way
from simulator.network.links import KINDS
from simulator.network.periodic import Phase
from simulator.serving.message_links import Away, ReplicaWays
from simulator.workload.plan import base_axis

if TYPE_CHECKING:
    from simulator.network.fabric import Fabric

__all__ = ["Level", "ReplicaLoad"]


class Level(NamedTuple):
    """What a replica sends in the mean, per second of which nothing is stretched.

    Attributes
    ----------
    number
        Equal levels have equal numbers.
    sizes
        Bytes by kind of message [B/s].
    seconds
        Seconds of undisturbed messages by axis.
    """

    number: int
    sizes: NDArray[np.float64]
    seconds: NDArray[np.float64]


class _AxisWay(NamedTuple):
    """Links of an axis; what a byte of each kind puts on the busiest; weight against other flows; most rate [B/s]."""

    way: Way
    on_busiest: dict[int, float]
    weight: float
    rate: float


class ReplicaLoad:
    """One replica on the network.

    Parameters
    ----------
    tag
        The deployment's name, for the books.
    fabric, ways
        The shared network, and where the replica's messages go.
    messages
        Those of an iteration: the kinds that sizes are given by, and in which proportion kinds of one axis are mixed.
    told
        Called with how many times longer the messages of every axis take (1 where nothing is said), at every change.
    """

    def __init__(
        self, tag: str, fabric: Fabric, ways: ReplicaWays, messages: Sequence[Away],
        told: Callable[[dict[str, float]], None],
    ) -> None:  # fmt: skip
        self.tag, self.fabric, self.phases = tag, fabric, list[Phase]()
        self._ways, self._messages, self._told = ways, messages, told
        self.axes = list(dict.fromkeys(base_axis(away.axis) for away in messages))
        self._level: Level | None = None
        self._known: dict[int, list[Phase]] = {}
        self._slow: dict[str, float] = {}
        self._by_axis = self._find_ways(None)

    @property
    def key(self) -> float:
        """See :class:`~simulator.network.periodic.Periodic`: the level."""
        return float(self._level.number if self._level is not None else -1)

    def send(self, level: Level) -> None:
        """From now on this is sent."""
        if self._level is None or level.number != self._level.number:
            self.fabric.leave(self)
            self._level = level
            self._enter()

    def stop(self) -> None:
        """Nothing is sent any more."""
        self._level = None
        self.fabric.leave(self)

    def forget(self) -> None:
        """Levels are numbered anew."""
        self._known.clear()
        if self._level is not None:
            self._level = self._level._replace(number=-1)

    def reroute(self) -> bool:
        """Links have changed: the ways are found again; ``False`` where there is none."""
        self.fabric.leave(self)
        self._known.clear()
        try:
            self._by_axis = self._find_ways(self.fabric.capacity)
        except NoWayError:
            self._by_axis, self._level, self.phases = [], None, []
            return False
        self._enter()
        return True

    def idle(self, slow: Sequence[float]) -> float:
        """See :class:`~simulator.network.periodic.Periodic`: what is computed, and the time without a request.

        It is taken to stay as it is while messages take longer; the next mean knows better.
        """
        return max(0.0, 1.0 - sum(phase.seconds for phase in self.phases))

    def settled(self, slow: Sequence[float]) -> None:
        """See :class:`~simulator.network.periodic.Periodic`."""
        mine = {phase.name: s for phase, s in zip(self.phases, slow, strict=True) if s != 1.0}
        if mine != self._slow and all(map(math.isfinite, slow)):
            self._slow = mine
            self._told(mine)

    def _enter(self) -> None:
        level = self._level
        if level is None or not self._by_axis:
            return
        if level.number not in self._known:
            self._known[level.number] = self._phases(level)
        self.phases = self._known[level.number]
        if self.phases:
            self.fabric.enter(self)

    def _phases(self, level: Level) -> list[Phase]:
        found = []
        for axis, seconds, where in zip(self.axes, level.seconds.tolist(), self._by_axis, strict=True):
            size = sum(float(level.sizes[kind]) * load for kind, load in where.on_busiest.items())
            if size > 0 and seconds > 0:
                # The mean is over replicas that lie elsewhere, too: none is faster than its own links alone.
                found.append(Phase(axis, where.way, size, max(seconds, size / where.rate), where.weight))
        return found

    def _find_ways(self, capacity: NDArray[np.float64] | None) -> list[_AxisWay]:
        port = self.fabric.topology.links.kind == KINDS.index("nic")
        found = []
        for axis in self.axes:
            each = {
                i: self._ways.loads(away.axis, away.collective, capacity)
                for i, away in enumerate(self._messages)
                if base_axis(away.axis) == axis
            }
            loads = sum((self._messages[i].size * mine for i, mine in each.items()), np.zeros(len(port)))
            links, busiest = np.flatnonzero(loads), int(np.argmax(loads))
            most = float(loads[busiest])
            # Connections compete, and every port has as many: what counts for fairness is the rate through a port.
            through_ports = float(loads[port].max(initial=0.0))
            on_busiest = {i: float(mine[busiest]) for i, mine in each.items()}
            way = Way(links, loads[links] / most)
            rate = float((self.fabric.topology.links.capacity[links] / way.shares).min())
            found.append(_AxisWay(way, on_busiest, most / (through_ports or most), rate))
        return found
