"""SimPy's environment with exact absolute times, counted events and entries that can be withdrawn.

Apart from :mod:`simulator.engine.clock` because it needs ``simpy`` at import time, and the clock does not.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

import simpy

__all__ = ["LATE", "NORMAL", "Environment", "Scheduled"]

NORMAL = 1
"""SimPy's priority of ordinary events."""
LATE = 2
"""After every ordinary event of the same instant."""

_COMPACT_ABOVE = 256


class Scheduled(simpy.Event):
    """A callback at a point in time; withdrawn while :attr:`action` is ``None``."""

    action: Callable[[], object] | None

    def __init__(self, env: Environment, action: Callable[[], object]) -> None:
        super().__init__(env)
        self.action = action
        self._ok = True
        self._value = None
        self.callbacks = [_fire]


def _fire(event: simpy.Event) -> None:
    assert isinstance(event, Scheduled)
    action, event.action = event.action, None
    if action is not None:
        action()


class Environment(simpy.Environment):
    """Counts the events it processes and drops withdrawn ones without moving the time."""

    def __init__(self, start: float) -> None:
        super().__init__(start)
        self.events = 0
        self._withdrawn = 0

    def schedule_at(self, event: simpy.Event, time: float, priority: int) -> None:
        """Enter ``event`` at exactly ``time`` (``now + (time − now)`` would round)."""
        heapq.heappush(self._queue, (time, priority, next(self._eid), event))  # type: ignore[misc]

    def withdraw(self, event: Scheduled) -> bool:
        """Take ``event`` back; ``False`` when it has already fired or been withdrawn."""
        if event.action is None:
            return False
        event.action = None
        self._withdrawn += 1
        if self._withdrawn > _COMPACT_ABOVE and 2 * self._withdrawn > len(self._queue):
            self._queue = [entry for entry in self._queue if not _is_withdrawn(entry[3])]
            heapq.heapify(self._queue)
            self._withdrawn = 0
        return True

    def _drop_withdrawn(self) -> None:
        queue = self._queue
        while queue and _is_withdrawn(queue[0][3]):
            heapq.heappop(queue)
            self._withdrawn -= 1

    def peek(self) -> float:
        """Time of the next event [s], infinity when there is none."""
        self._drop_withdrawn()
        return super().peek()

    def step(self) -> None:
        """Process the next event."""
        self._drop_withdrawn()
        super().step()
        self.events += 1


def _is_withdrawn(event: simpy.Event) -> bool:
    return type(event) is Scheduled and event.action is None
