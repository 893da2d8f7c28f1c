"""When requests reach a deployment: by their own times, after other requests, or a fixed number at a time."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace
from heapq import heappop, heappush
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.serving.compiled.choose import front_end_pays
from simulator.serving.front_end import FrontEnd, InTurns
from simulator.workload.requests.table import RequestTable

__all__ = ["ArrivalStream", "ColumnWindow", "leave_times"]


_CHUNK = 8192


class ColumnWindow:
    """Numbers of a column that is read mostly in order, as Python numbers, a stretch of it at a time."""

    __slots__ = ("_column", "_first", "_last", "_values")

    def __init__(self, column: NDArray[Any]) -> None:
        self._column = column
        self._first = self._last = 0
        self._values: list[Any] = []

    def __getitem__(self, row: int) -> Any:
        if not self._first <= row < self._last:
            self._first = row - row % _CHUNK
            self._values = self._column[self._first : self._first + _CHUNK].tolist()
            self._last = self._first + len(self._values)
        return self._values[row - self._first]


def leave_times(front_end: FrontEnd, table: RequestTable) -> NDArray[np.float64]:
    """When the requests of an open loop leave a front end that is theirs alone [s].

    Nothing behind it holds it up, so it is known beforehand: every request is worked off once, by the compiled loop
    where that pays; the numbers are the same to the bit.
    """
    if front_end_pays(len(table)) and type(front_end) in (FrontEnd, InTurns):
        from simulator.serving.compiled.front_end import compiled_leave_times

        return compiled_leave_times(front_end, table)
    own, left = replace(front_end), np.empty(len(table))
    done = 0
    for first in range(0, len(table), _CHUNK):
        part = slice(first, first + _CHUNK)
        for came, tokens in zip(table.arrival[part].tolist(), table.input_tokens[part].tolist(), strict=True):
            own.enter(came, tokens)
        found = own.take_left()
        left[done : done + len(found)] = found
        done += len(found)
    left[done:] = own.take_all((), ())
    return left


class ArrivalStream:
    """Requests in order of release.

    Open loop: at their arrival times. Closed loop (``closed_loop_concurrency``): the next one when one ends. A request
    with a ``parent`` is released ``think_time`` after the parent ends, or by its arrival time if that is later and it
    has no think time.

    Parameters
    ----------
    table
        The requests.
    fed
        No request comes by itself: somebody else calls :meth:`release`.
    front_end
        What requests pass before they are here.

    Attributes
    ----------
    next_time
        When the next request that is already released is here [s], infinity when there is none.
    came
        Release of the request that was popped last [s].
    left
        When the requests of an open loop leave the front end [s].
    """

    def __init__(self, table: RequestTable, fed: bool = False, front_end: FrontEnd | None = None) -> None:
        self.fed = fed
        """Whether there may be more requests that :meth:`release` brings."""
        self._tokens = ColumnWindow(table.input_tokens)
        self._released: list[tuple[float, int]] = []
        self._inside: deque[tuple[float, int]] = deque()
        """Requests in the front end, and when they came [s]."""
        self._children: dict[int, list[int]] = {}
        self._think: list[float] | None = None if table.think_time is None else table.think_time.tolist()
        self._roots: list[int] | None = None
        if table.parent is not None:
            for row, parent in enumerate(table.parent.tolist()):
                if parent >= 0:
                    self._children.setdefault(parent, []).append(row)
            self._roots = [row for row in range(len(table)) if table.parent[row] < 0]
        self._size = 0 if fed else len(table) if self._roots is None else len(self._roots)
        self._place = self._followed = 0
        self._closed = table.closed_loop_concurrency is not None
        self.open_loop = not self._closed and not self._children and not fed
        """Whether no request waits for the end of another."""
        self._times = self._came = ColumnWindow(table.arrival)
        if table.closed_loop_concurrency is not None:
            for _ in range(min(table.closed_loop_concurrency, self._size)):
                row = self._next_row()
                heappush(self._released, (self._times[row], row))
        self.next_time = self._release = math.inf
        self.came = 0.0
        self.left: NDArray[np.float64] | None = None
        self.front_end: FrontEnd | None = None
        if front_end is not None and self.open_loop:
            self.left = leave_times(front_end, table)
            self._came, self._times = self._times, ColumnWindow(self.left)
        elif front_end is not None:
            self.front_end = replace(front_end)  # with books of its own
        self._find_next()

    def _next_row(self) -> int:
        """The next request in the table's order, which is taken."""
        place = self._place
        self._place = place + 1
        return place if self._roots is None else self._roots[place]

    def _next_release(self) -> float:
        time = self._released[0][0] if self._released else math.inf
        if not self._closed and self._place < self._size:
            root = self._place if self._roots is None else self._roots[self._place]
            time = min(time, self._times[root])
        return time

    def _take_released(self) -> int:
        """Row of the request that was released next."""
        if self._released and self._released[0][0] <= self._release:
            return heappop(self._released)[1]
        return self._next_row()

    def _find_next(self) -> None:
        self._release = self.next_time = self._next_release()
        if self.front_end is None:
            return
        # Who comes before the next one leaves may hold it up. A later release for an earlier time, which only loops
        # with think times know, then enters behind those that are inside.
        while self._release < math.inf and self._release <= self.front_end.next_leave:
            row = self._take_released()
            self.front_end.enter(self._release, self._tokens[row])
            self._inside.append((self._release, row))
            self._release = self._next_release()
        self.next_time = self.front_end.next_leave

    @property
    def popped(self) -> int:
        """Requests that are through so far."""
        return self._place + self._followed - len(self._released) - len(self._inside)

    def skip_to(self, row: int) -> None:
        """Requests before ``row`` have arrived; for open loops."""
        self._place = row
        self._find_next()

    def pop(self) -> int:
        """Row of the request that is here at :attr:`next_time`."""
        if self.front_end is None:
            self.came, row = self._release, self._take_released()
            if self.left is not None:
                self.came = self._came[row]
        else:
            self.came, row = self._inside.popleft()
            self.front_end.leave()
        self._find_next()
        return row

    def release(self, row: int, time: float) -> None:
        """Request ``row`` comes at ``time`` [s]."""
        heappush(self._released, (time, row))
        self._followed += 1
        self._find_next()

    def ended(self, row: int, now: float) -> None:
        """Request ``row`` has ended or was rejected at ``now``; releases those that wait for it."""
        if self._closed and self._place < self._size:
            heappush(self._released, (now, self._next_row()))
            self._find_next()
        if row in self._children:
            for child in self._children.pop(row):
                think = math.nan if self._think is None else self._think[child]
                time = max(now, self._times[child]) if math.isnan(think) else now + think
                heappush(self._released, (time, child))
                self._followed += 1
            self._find_next()
