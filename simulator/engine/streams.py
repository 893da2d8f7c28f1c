"""The stream executor: operations in program order on in-order streams, with dependencies between them.

An operation starts when its predecessor on the same stream and everything it waits for have ended (CUDA stream
semantics). What overlaps is not assumed: it is read off the schedule, and so is what remains exposed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["DeadlockError", "StreamSchedule", "run_streams", "run_streams_with_interference"]

Stream = Hashable


class DeadlockError(ValueError):
    """Operations that wait for each other in a circle.

    Attributes
    ----------
    cycle
        Indices of the operations; each waits for the next, the last for the first.
    """

    def __init__(self, cycle: Sequence[int], names: Sequence[str] | None) -> None:
        self.cycle = tuple(cycle)
        shown = [f"'{names[i]}'" if names else f"op {i}" for i in (*self.cycle[:8], self.cycle[0])]
        if len(self.cycle) > 8:
            shown.insert(-1, "...")
        super().__init__(
            f"deadlock: {' waits for '.join(shown)}; change the order on a stream or drop one of these dependencies"
        )


@dataclass(frozen=True, eq=False)
class StreamSchedule:
    """When every operation ran.

    Attributes
    ----------
    start, end
        [operations], [s].
    stream
        The stream of each operation.
    cause
        [operations]: the operation whose end let this one start, −1 for those that start at 0.
    """

    start: NDArray[np.float64]
    end: NDArray[np.float64]
    stream: tuple[Stream, ...]
    cause: tuple[int, ...]

    @property
    def makespan(self) -> float:
        """End of the last operation [s]; 0 when there is none."""
        return float(self.end.max()) if len(self.end) else 0.0

    @cached_property
    def busy(self) -> dict[Stream, float]:
        """Stream → time [s] during which it runs something."""
        total: dict[Stream, float] = {}
        for name, length in zip(self.stream, (self.end - self.start).tolist(), strict=True):
            total[name] = total.get(name, 0.0) + length
        return total

    @cached_property
    def critical_path(self) -> tuple[int, ...]:
        """Operations that set the makespan, first to last: each starts when the one before it ends."""
        if not self.stream:
            return ()
        path = [int(self.end.argmax())]
        while self.cause[path[-1]] >= 0:
            path.append(self.cause[path[-1]])
        return tuple(reversed(path))

    @cached_property
    def critical_time(self) -> dict[Stream, float]:
        """Stream → time [s] of the critical path spent on it; sums to the makespan."""
        total: dict[Stream, float] = {}
        for i in self.critical_path:
            total[self.stream[i]] = total.get(self.stream[i], 0.0) + float(self.end[i] - self.start[i])
        return total

    def exposed(self, stream: Stream, other: Stream = "compute") -> float:
        """Time [s] during which ``stream`` is busy while ``other`` is idle."""
        mine, theirs = self._intervals(stream), self._intervals(other)
        overlap, j = 0.0, 0
        for begin, end in mine:
            while j < len(theirs) and theirs[j][1] <= begin:
                j += 1
            k = j
            while k < len(theirs) and theirs[k][0] < end:
                overlap += min(end, theirs[k][1]) - max(begin, theirs[k][0])
                k += 1
        return max(0.0, sum(end - begin for begin, end in mine) - overlap)

    def _intervals(self, stream: Stream) -> list[tuple[float, float]]:
        return self._by_stream.get(stream, [])

    @cached_property
    def _by_stream(self) -> dict[Stream, list[tuple[float, float]]]:
        """Busy intervals by stream; in program order, hence in order of time."""
        found: dict[Stream, list[tuple[float, float]]] = {}
        for name, begin, end in zip(self.stream, self.start.tolist(), self.end.tolist(), strict=True):
            if end > begin:
                found.setdefault(name, []).append((begin, end))
        return found


def run_streams(
    duration: Sequence[float] | NDArray[np.float64],
    stream: Sequence[Stream],
    after: Sequence[Sequence[int]],
    names: Sequence[str] | None = None,
) -> StreamSchedule:
    """Run operations on in-order streams, each at its own full speed.

    Parameters
    ----------
    duration
        [operations], [s], at least 0.
    stream
        [operations]: name or number of the stream. The order of the indices is the program order of a stream.
    after
        [operations]: indices that must have ended before. They may point forward to another stream.
    names
        For error messages.

    Raises
    ------
    DeadlockError
        If operations wait for each other in a circle.
    ValueError
        If the lengths differ, a duration is negative or not finite, or an index does not exist.

    Notes
    -----
    Longest path in a directed acyclic graph, O(operations + dependencies).
    """
    times, where = _checked(duration, stream, after)
    n = len(times)
    done = _relax(range(n), times, where, after)
    if done is None:
        done = _relax(_topological_order(where, after, names), times, where, after)
        assert done is not None
    return StreamSchedule(np.array(done[0]), np.array(done[1]), tuple(where), tuple(done[2]))


def run_streams_with_interference(
    duration: Sequence[float] | NDArray[np.float64],
    stream: Sequence[Stream],
    after: Sequence[Sequence[int]],
    slowdown: Mapping[tuple[Stream, Stream], float],
    names: Sequence[str] | None = None,
) -> StreamSchedule:
    """Run operations on in-order streams that slow each other down while they overlap.

    Parameters
    ----------
    duration, stream, after, names
        As for :func:`run_streams`; durations are those without interference.
    slowdown
        ``(victim, other)`` → factor of at least 1: work on ``victim`` takes that many times longer while ``other``
        is busy. The factors of several busy streams multiply.

    Raises
    ------
    DeadlockError, ValueError
        As for :func:`run_streams`; also if a factor is below 1 or not finite.

    Notes
    -----
    Event driven and exact: rates are piecewise constant between starts and ends. Without any factor the answer is
    bit for bit that of :func:`run_streams`.
    """
    if bad := {pair: f for pair, f in slowdown.items() if not 1.0 <= f < float("inf")}:
        raise ValueError(f"a slow-down factor is at least 1 and finite, not {bad}")
    times, where = _checked(duration, stream, after)
    n, streams = len(times), list(dict.fromkeys(where))
    _topological_order(where, after, names)  # raises on a deadlock, which the loop below could not name
    start, end, cause = [0.0] * n, [0.0] * n, [-1] * n
    previous = _stream_predecessors(where)
    waiting = [len(after[i]) + (previous[i] >= 0) for i in range(n)]
    followers = _followers(previous, after)
    factors = {s: [(o, slowdown[s, o]) for o in streams if (s, o) in slowdown and o != s] for s in streams}
    # Stream → [operation, work left at `since`, since, factor, expected end].
    active: dict[Stream, list[Any]] = {}
    ready = deque(i for i in range(n) if not waiting[i])
    now = 0.0
    while ready or active:
        while ready:
            i = ready.popleft()
            start[i] = now
            active[where[i]] = [i, times[i], now, 1.0, now + times[i]]
        for name, run in active.items():
            factor = 1.0
            for other, slow in factors[name]:
                factor *= slow if other in active else 1.0
            if factor != run[3]:
                run[1], run[2] = max(0.0, run[1] - (now - run[2]) / run[3]), now
                run[3], run[4] = factor, now + run[1] * factor
        now = min(run[4] for run in active.values())
        for name in [name for name, run in active.items() if run[4] <= now]:
            i = active.pop(name)[0]
            end[i] = now
            for j in followers[i]:
                waiting[j] -= 1
                if not waiting[j]:
                    cause[j] = i
                    ready.append(j)
    return StreamSchedule(np.array(start), np.array(end), tuple(where), tuple(cause))


def _checked(
    duration: Sequence[float] | NDArray[np.float64], stream: Sequence[Stream], after: Sequence[Sequence[int]]
) -> tuple[list[float], list[Stream]]:
    times = duration.tolist() if isinstance(duration, np.ndarray) else list(duration)
    where: list[Stream] = stream.tolist() if isinstance(stream, np.ndarray) else list(stream)
    if not len(times) == len(where) == len(after):
        raise ValueError(
            f"{len(times)} durations, {len(where)} streams and {len(after)} dependency lists: must be equal"
        )
    if times and not (min(times) >= 0.0 and sum(times) < float("inf")):
        wrong = [i for i, t in enumerate(times) if not 0.0 <= t < float("inf")]
        raise ValueError(f"durations must be finite and at least 0 s; wrong at {wrong[:8]}")
    return times, where


def _relax(
    order: Iterable[int], times: list[float], where: list[Stream], after: Sequence[Sequence[int]]
) -> tuple[list[float], list[float], list[int]] | None:
    """Start and end times in ``order``, or ``None`` when ``order`` visits an operation before one it waits for."""
    n = len(times)
    start, end, cause = [0.0] * n, [-1.0] * n, [-1] * n
    last: dict[Stream, int] = {}
    for i in order:
        before = last.get(where[i], -1)
        begin = end[before] if before >= 0 else 0.0
        for j in after[i]:
            if not 0 <= j < n:
                raise ValueError(f"operation {i} waits for operation {j}, which does not exist")
            done = end[j]
            if done < 0.0:
                return None
            if done > begin or before < 0:
                begin, before = max(begin, done), j
        start[i], end[i], cause[i] = begin, begin + times[i], before
        last[where[i]] = i
    return start, end, cause


def _stream_predecessors(where: Sequence[Stream]) -> list[int]:
    last: dict[Stream, int] = {}
    previous = []
    for i, name in enumerate(where):
        previous.append(last.get(name, -1))
        last[name] = i
    return previous


def _followers(previous: list[int], after: Sequence[Sequence[int]]) -> list[list[int]]:
    n = len(previous)
    followers: list[list[int]] = [[] for _ in range(n)]
    for i, waits in enumerate(after):
        if previous[i] >= 0:
            followers[previous[i]].append(i)
        for j in waits:
            if not 0 <= j < n:
                raise ValueError(f"operation {i} waits for operation {j}, which does not exist")
            followers[j].append(i)
    return followers


def _topological_order(
    where: Sequence[Stream], after: Sequence[Sequence[int]], names: Sequence[str] | None
) -> list[int]:
    """Kahn's algorithm over dependencies and stream order."""
    previous = _stream_predecessors(where)
    followers = _followers(previous, after)
    waiting = [len(after[i]) + (previous[i] >= 0) for i in range(len(where))]
    order = [i for i, count in enumerate(waiting) if not count]
    for i in order:  # grows while it is walked
        for j in followers[i]:
            waiting[j] -= 1
            if not waiting[j]:
                order.append(j)
    if len(order) < len(where):
        raise DeadlockError(_find_cycle(previous, after, {i for i, count in enumerate(waiting) if count}), names)
    return order


def _find_cycle(previous: list[int], after: Sequence[Sequence[int]], stuck: set[int]) -> list[int]:
    """A circle of waits: every stuck operation waits for another stuck one, so following them must close."""
    at = min(stuck)
    seen: dict[int, int] = {}
    path: list[int] = []
    while at not in seen:
        seen[at] = len(path)
        path.append(at)
        at = next(j for j in (*after[at], previous[at]) if j in stuck)
    return path[seen[at] :]
