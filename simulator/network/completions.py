"""When flows will have sent everything: one alarm on the clock, for the next of them."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from simulator.engine.clock import Clock
from simulator.network.flows import Flow

if TYPE_CHECKING:
    from simulator.engine._environment import Scheduled

__all__ = ["SAME_TIME", "Completions"]

SAME_TIME = 1e-12
"""Completions closer together than this, relative to the time, count as simultaneous."""


class Divided(Protocol):
    """Flows that are divided together and keep the times at which they end."""

    @property
    def next_end(self) -> float:
        """When the first of them will have sent everything [s]."""

    def due(self, until: float) -> list[Flow]:
        """Those that have sent everything by then [s]."""


class Completions:
    """Flows by the time they end; entries of rates that no longer hold are passed over.

    Parameters
    ----------
    clock
        Of the simulation.
    flows
        Those under way, by number.
    divided
        Those that are divided together, which keep their own times.
    told
        Called with the flows that end at one instant, in the order of their numbers.
    """

    def __init__(
        self, clock: Clock, flows: Mapping[int, Flow], divided: Divided, told: Callable[[list[Flow]], None]
    ) -> None:
        self._clock, self._flows, self._divided, self._told = clock, flows, divided, told
        self._next: list[tuple[float, int, int]] = []
        self._alarm: Scheduled | None = None

    def add(self, flow: Flow) -> None:
        """A flow has a new rate, and ends at ``flow.finish`` [s] if that is ever."""
        if flow.finish < math.inf:
            heapq.heappush(self._next, (flow.finish, flow.number, flow.version))

    def arm(self) -> None:
        """Set the alarm to the next completion."""
        while self._next and self._stale(self._next[0]):
            heapq.heappop(self._next)
        if self._alarm is not None:
            self._clock.cancel(self._alarm)
            self._alarm = None
        first = min(self._next[0][0] if self._next else math.inf, self._divided.next_end)
        if first < math.inf:
            self._alarm = self._clock.at(max(first, self._clock.now), self._ring)

    def _stale(self, entry: tuple[float, int, int]) -> bool:
        flow = self._flows.get(entry[1])
        return flow is None or flow.version != entry[2]

    def _ring(self) -> None:
        self._alarm = None
        last = self._clock.now * (1 + SAME_TIME)
        done = self._divided.due(last)
        while self._next and (self._next[0][0] <= last or self._stale(self._next[0])):
            entry = heapq.heappop(self._next)
            if not self._stale(entry):
                done.append(self._flows[entry[1]])
        self._told(sorted(done, key=lambda flow: flow.number))
