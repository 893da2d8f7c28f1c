"""Orders found by running: whenever a rank is free it starts the task it prefers among those that are ready."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from heapq import heappop, heappush

from simulator.strategies.pipeline.orders import BW, KINDS, B, F, W
from simulator.strategies.protocols import Action

__all__ = ["Dispatcher"]

Preference = Callable[["Dispatcher", int, int, int, int], object]
Admit = Callable[["Dispatcher", int, int, int], bool]


class Dispatcher:
    """List scheduling of one pipeline step.

    Parameters
    ----------
    ranks, chunks, microbatches
        Sizes; chunks of every rank, or of each of them.
    placement
        ``(rank, chunk, ranks, chunks) → virtual stage``.
    times
        Integer durations of forward, backward (or input gradient) and weight gradient; weight gradient 0: the
        backward is not split.
    preference
        ``(state, kind, rank, chunk, microbatch) → key``; the ready task with the smallest key starts.
    admit
        ``(state, rank, chunk, microbatch) → may this forward start``: keeps memory bounded.

    weights
        Times the durations of each virtual stage; empty: all are alike.

    Attributes
    ----------
    forwards, backwards
        Tasks started so far [rank][chunk].
    held
        Chunks whose activations a rank holds: from F until the end of W, or of a whole backward.
    """

    def __init__(
        self,
        ranks: int,
        chunks: int | Sequence[int],
        microbatches: int,
        placement: Callable[[int, int, int, int], int],
        times: tuple[int, int, int],
        preference: Preference,
        admit: Admit,
        weights: Sequence[int] = (),
    ) -> None:
        held = [chunks] * ranks if isinstance(chunks, int) else list(chunks)
        self.ranks, self.chunks, self.microbatches, self.times = ranks, max(held), microbatches, times
        self.preference, self.admit = preference, admit
        self.stage = [[placement(r, c, ranks, self.chunks) for c in range(held[r])] for r in range(ranks)]
        self.owner = {stage: r for r, mine in enumerate(self.stage) for stage in mine}
        self.stages = sum(held)
        self.weights = list(weights) or [1] * self.stages
        self.forwards = [[0] * count for count in held]
        self.backwards = [[0] * count for count in held]
        self.held = [0] * ranks
        self._forward_end: list[list[int]] = [[] for _ in range(self.stages)]
        self._backward_end: list[list[int]] = [[] for _ in range(self.stages)]
        self._weights: list[deque[tuple[int, int]]] = [deque() for _ in range(ranks)]
        self._free, self._tasks = [0] * ranks, [list[Action]() for _ in range(ranks)]

    def run(self) -> Sequence[Sequence[Action]]:
        """The order of every rank.

        Raises
        ------
        RuntimeError
            If ``admit`` leaves forwards that never start.
        """
        events = [(0, rank) for rank in range(self.ranks)]
        releases: list[tuple[int, int]] = []
        while events:
            now = events[0][0]
            woken = set()
            while events and events[0][0] == now:
                woken.add(heappop(events)[1])
            while releases and releases[0][0] <= now:
                self.held[heappop(releases)[1]] -= 1
            for rank in sorted(woken):
                if self._free[rank] <= now and (started := self._start(rank, now, releases)):
                    for other in started:
                        heappush(events, (self._free[rank], other))
        missing = sum(self.microbatches - done for per_rank in self.backwards for done in per_rank)
        if missing:
            raise RuntimeError(f"{missing} backwards never became possible: the memory bound is too tight")
        return self._tasks

    def live(self, rank: int, chunk: int) -> int:
        """Micro-batches of a chunk between their forward and their backward."""
        return self.forwards[rank][chunk] - self.backwards[rank][chunk]

    def _start(self, rank: int, now: int, releases: list[tuple[int, int]]) -> set[int]:
        """Start the preferred ready task; the ranks to wake at its end."""
        ready = [(self.preference(self, kind, rank, c, m), kind, c, m) for kind, c, m in self._ready(rank, now)]
        split = self.times[2] > 0
        if not ready:
            if not self._weights[rank]:
                return set()
            chunk, microbatch = self._weights[rank].popleft()
            return self._append(rank, W, chunk, microbatch, now, releases)
        _, kind, chunk, microbatch = min(ready)
        stage = self.stage[rank][chunk]
        if kind == F:
            self.forwards[rank][chunk] += 1
            self.held[rank] += 1
            self._forward_end[stage].append(now + self.weights[stage] * self.times[0])
        else:
            self.backwards[rank][chunk] += 1
            self._backward_end[stage].append(now + self.weights[stage] * self.times[1])
            if split:
                self._weights[rank].append((chunk, microbatch))
        woken = self._append(rank, BW if kind == B and not split else kind, chunk, microbatch, now, releases)
        neighbour = stage + (1 if kind == F else -1)
        return woken | ({self.owner[neighbour]} if neighbour in self.owner else set())

    def _append(
        self, rank: int, kind: int, chunk: int, microbatch: int, now: int, releases: list[tuple[int, int]]
    ) -> set[int]:
        time = self.times[0] if kind == F else self.times[2] if kind == W else self.times[1]
        self._free[rank] = now + self.weights[self.stage[rank][chunk]] * time
        if kind in (BW, W):
            heappush(releases, (self._free[rank], rank))
        self._tasks[rank].append(Action(KINDS[kind], microbatch, chunk))
        return {rank}

    def _ready(self, rank: int, now: int) -> list[tuple[int, int, int]]:
        """(kind, chunk, micro-batch) whose input is there."""
        found = []
        for chunk, stage in enumerate(self.stage[rank]):
            m = self.backwards[rank][chunk]
            if m < self.forwards[rank][chunk]:
                before = self._forward_end[stage] if stage == self.stages - 1 else self._backward_end[stage + 1]
                if m < len(before) and before[m] <= now:
                    found.append((B, chunk, m))
            m = self.forwards[rank][chunk]
            if m < self.microbatches:
                arrived = stage == 0 or (
                    m < len(self._forward_end[stage - 1]) and self._forward_end[stage - 1][m] <= now
                )
                if arrived and self.admit(self, rank, chunk, m):
                    found.append((F, chunk, m))
        return found
