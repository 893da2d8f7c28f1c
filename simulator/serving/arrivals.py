"""When requests reach a deployment: by their own times, after other requests, or a fixed number at a time."""

from __future__ import annotations

import math
from heapq import heappop, heappush

from simulator.workload.requests.table import RequestTable

__all__ = ["ArrivalStream"]


class ArrivalStream:
    """Requests in order of release.

    Open loop: at their arrival times. Closed loop (``closed_loop_concurrency``): the next one when one ends. A request
    with a ``parent`` is released ``think_time`` after the parent ends, or by its arrival time if that is later and it
    has no think time.

    Attributes
    ----------
    next_time
        Time of the next release that is already known [s], infinity when there is none.
    """

    def __init__(self, table: RequestTable) -> None:
        self._times: list[float] = table.arrival.tolist()
        self._released: list[tuple[float, int]] = []
        self._children: dict[int, list[int]] = {}
        self._think: list[float] | None = None if table.think_time is None else table.think_time.tolist()
        rows = list(range(len(table)))
        if table.parent is not None:
            for row, parent in enumerate(table.parent.tolist()):
                if parent >= 0:
                    self._children.setdefault(parent, []).append(row)
            rows = [row for row in rows if table.parent[row] < 0]
        # Last first, so that the next one is popped off the end.
        self._queue = rows[::-1]
        self._closed = table.closed_loop_concurrency is not None
        if table.closed_loop_concurrency is not None:
            for row in rows[: table.closed_loop_concurrency]:
                heappush(self._released, (self._times[row], row))
            del self._queue[len(self._queue) - min(table.closed_loop_concurrency, len(rows)) :]
        self.next_time = math.inf
        self.open_loop = not self._closed and not self._children
        """Whether no request waits for the end of another."""
        self._find_next()

    def _find_next(self) -> None:
        time = self._released[0][0] if self._released else math.inf
        if not self._closed and self._queue:
            time = min(time, self._times[self._queue[-1]])
        self.next_time = time

    def pop(self) -> int:
        """Row of the request released at :attr:`next_time`."""
        if self._released and self._released[0][0] <= self.next_time:
            row = heappop(self._released)[1]
        else:
            row = self._queue.pop()
        self._find_next()
        return row

    def ended(self, row: int, now: float) -> None:
        """Request ``row`` has ended or was rejected at ``now``; releases those that wait for it."""
        if self._closed and self._queue:
            heappush(self._released, (now, self._queue.pop()))
            self._find_next()
        if row in self._children:
            for child in self._children.pop(row):
                think = math.nan if self._think is None else self._think[child]
                time = max(now, self._times[child]) if math.isnan(think) else now + think
                heappush(self._released, (time, child))
            self._find_next()
