"""The heuristic scheduler of the zero-bubble paper (arXiv 2401.10241, section 3.1): own implementation.

Micro-batch after micro-batch, one F and one B per rank; W goes where a rank would wait, or where memory is full.
Three yes/no choices are tried in all combinations and the order with the shortest longest rank wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from simulator.strategies.protocols import Action, ActionKind

__all__ = ["StageTimes", "search"]

_SLACK = 1e-9


@dataclass(frozen=True)
class StageTimes:
    """Times of every rank (any unit), of a transfer, and M_W / M_B."""

    forward: tuple[float, ...]
    input_gradient: tuple[float, ...]
    weight_gradient: tuple[float, ...]
    p2p: float
    weight_gradient_share: float


def search(times: StageTimes, microbatches: int, limit: float) -> Sequence[Sequence[Action]]:
    """The best order found with at most ``limit`` micro-batches' activations on any rank."""
    actions = _Actions.of(microbatches)
    made, warmups = list[_Builder](), list[list[int]]()
    for extra_forward in (True, False):
        left = list(product((True, False), repeat=2))
        while left:
            skip_forward, fill_small = left.pop(0)
            built = _Builder(times, microbatches, limit, actions)
            warmup = built.begin(extra_forward)
            if warmup in warmups:
                break  # every order that follows is there already
            built.build(warmup, skip_forward, fill_small)
            made.append(built)
            # A choice that never came up leaves the order as it is without it.
            left = [
                (skip, fill) for skip, fill in left
                if (skip != skip_forward and built.skipped) or (fill != fill_small and built.filled)
            ]  # fmt: skip
        warmups.append(warmup)
    return min(made, key=lambda built: built.cost()).tasks


class _Actions(NamedTuple):
    """The tasks of every micro-batch, which all ranks and tries share."""

    forward: list[Action]
    input_gradient: list[Action]
    weight_gradient: list[Action]

    @classmethod
    def of(cls, microbatches: int) -> _Actions:
        kinds = ActionKind.FORWARD, ActionKind.INPUT_GRADIENT, ActionKind.WEIGHT_GRADIENT
        return cls(*([Action(kind, number) for number in range(microbatches)] for kind in kinds))


class _Builder:
    """Appends tasks to ranks and keeps their clocks, memory and idle time."""

    def __init__(self, times: StageTimes, microbatches: int, limit: float, actions: _Actions) -> None:
        ranks = len(times.forward)
        self.actions = actions
        self.skipped = self.filled = False
        """Whether the choices to skip forwards and to fill small waits have changed anything."""
        self.times, self.microbatches, self.limit, self.ranks = times, microbatches, limit, ranks
        self.tasks: list[list[Action]] = [[] for _ in range(ranks)]
        self.clock, self.memory, self.idle = [0.0] * ranks, [0.0] * ranks, [0.0] * ranks
        self.begun: list[float | None] = [None] * ranks
        self.forwards, self.backwards, self.weights = [0] * ranks, [0] * ranks, [0] * ranks
        self.forward_end: list[list[float]] = [[] for _ in range(ranks)]
        self.backward_end: list[list[float]] = [[] for _ in range(ranks)]

    def cost(self) -> float:
        """The longest rank, from its first start to its last end."""
        return max(stop - (begin or 0.0) for begin, stop in zip(self.begun, self.clock, strict=True))

    def begin(self, extra_forward: bool) -> list[int]:
        """One forward on every rank; how many more each adds before its first B."""
        for rank in range(self.ranks):
            self._forward(rank)
        return self._warmup(extra_forward)

    def build(self, warmup: Sequence[int], skip_forward: bool, fill_small: bool) -> None:
        """Make the rest of the order."""
        for rank, count in enumerate(warmup):
            for _ in range(count):
                self._forward(rank)
        for rank in reversed(range(self.ranks)):
            self._backward(rank)
        for _ in range(1, self.microbatches):
            wanted = self._wanted_forwards(skip_forward)
            for rank in range(self.ranks):
                if wanted[rank]:
                    self._make_room(rank)
                    self._fill(rank, self._forward_ready(rank), fill_small)
                    self._forward(rank)
            for rank in reversed(range(self.ranks)):
                self._fill(rank, self._backward_ready(rank), fill_small)
                if rank == 0 and self.forwards[0] == self.microbatches:
                    self._weight_all(rank)  # nothing waits for the first rank's B
                self._backward(rank)
        for rank in range(self.ranks):
            self._weight_all(rank)

    def _warmup(self, extra: bool) -> list[int]:
        """Forwards each rank adds before its first B: as many as fit in memory and in the wait for that B."""
        counts, last = [0] * self.ranks, self.ranks - 1
        first_backward = self.clock[last] + self.times.input_gradient[last]
        for rank in range(last - 1, -1, -1):
            clock, arrival = self.clock[rank], first_backward + self.times.p2p
            step = self.times.forward[rank]
            while self.forwards[rank] + counts[rank] < self.microbatches:
                fits = self.memory[rank] + counts[rank] + 1 <= self.limit + _SLACK
                waits = clock < arrival - _SLACK if extra else clock + step <= arrival + _SLACK
                if not (fits and waits):
                    break
                counts[rank] += 1
                clock += step
            first_backward = max(clock, arrival) + self.times.input_gradient[rank]
        for rank in range(1, self.ranks):  # rank i stays at least one forward ahead of rank i+1
            counts[rank] = max(0, min(counts[rank], counts[rank - 1] - 1)) if counts[rank] else 0
        return counts

    def _wanted_forwards(self, skip: bool) -> list[bool]:
        wanted = [count < self.microbatches for count in self.forwards]
        for rank in range(self.ranks - 1):
            ahead = self.forwards[rank] - self.forwards[rank + 1]
            if skip and wanted[rank] and ahead >= 2 and self.forwards[rank + 1] < self.microbatches:
                wanted[rank] = not self._may_skip(rank)
                self.skipped = self.skipped or not wanted[rank]
        for rank in range(self.ranks - 2, -1, -1):  # a rank that skips makes those before it skip
            if self.forwards[rank] < self.microbatches:
                wanted[rank] = wanted[rank] and (wanted[rank + 1] or self.forwards[rank + 1] >= self.microbatches)
        return wanted

    def _may_skip(self, rank: int) -> bool:
        """Whether rank + 1 has a forward in hand for so long that another now would only delay this rank's B."""
        after = rank + 1
        needed = self.clock[after] + self.times.forward[after] + self.times.input_gradient[after] + self.times.p2p
        if self.clock[rank] >= needed - _SLACK:
            return True
        pending, seconds = self.backwards[rank] - self.weights[rank], self.times.forward[rank]
        held = self.memory[rank] + 1
        while held > self.limit + _SLACK and pending and self.times.weight_gradient_share > 0:
            held, pending, seconds = (
                held - self.times.weight_gradient_share,
                pending - 1,
                seconds + self.times.weight_gradient[rank],
            )
        if self.clock[rank] + seconds <= needed + _SLACK:
            return False
        return needed - self.clock[rank] <= max(self.idle) - self.idle[rank] + _SLACK

    def _fill(self, rank: int, ready: float, fill_small: bool) -> None:
        """Weight gradients into the wait until ``ready``."""
        if not self._pending(rank):
            return
        step = self.times.weight_gradient[rank]
        while self._pending(rank) and self.clock[rank] + step <= ready + _SLACK:
            self._weight(rank)
        wait = ready - self.clock[rank]
        if self._pending(rank) and wait > _SLACK:
            grows = wait > max(self.idle) - self.idle[rank] + _SLACK
            self.filled = self.filled or not grows
            if grows or fill_small:
                self._weight(rank)

    def _make_room(self, rank: int) -> None:
        while self.memory[rank] + 1 > self.limit + _SLACK and self._pending(rank):
            self._weight(rank)

    def _pending(self, rank: int) -> bool:
        return self.weights[rank] < self.backwards[rank]

    def _forward_ready(self, rank: int) -> float:
        return self.forward_end[rank - 1][self.forwards[rank]] + self.times.p2p if rank else 0.0

    def _backward_ready(self, rank: int) -> float:
        if rank == self.ranks - 1:
            return self.forward_end[rank][self.backwards[rank]]
        return self.backward_end[rank + 1][self.backwards[rank]] + self.times.p2p

    def _run(self, rank: int, action: Action, ready: float, seconds: float) -> float:
        start = max(self.clock[rank], ready)
        if self.begun[rank] is None:
            self.begun[rank] = start
        else:
            self.idle[rank] += start - self.clock[rank]
        self.clock[rank] = start + seconds
        self.tasks[rank].append(action)
        return self.clock[rank]

    def _forward(self, rank: int) -> None:
        task = self.actions.forward[self.forwards[rank]]
        self.forward_end[rank].append(self._run(rank, task, self._forward_ready(rank), self.times.forward[rank]))
        self.forwards[rank] += 1
        self.memory[rank] += 1

    def _backward(self, rank: int) -> None:
        task = self.actions.input_gradient[self.backwards[rank]]
        end = self._run(rank, task, self._backward_ready(rank), self.times.input_gradient[rank])
        self.backward_end[rank].append(end)
        self.backwards[rank] += 1
        self.memory[rank] -= 1 - self.times.weight_gradient_share

    def _weight(self, rank: int) -> None:
        task = self.actions.weight_gradient[self.weights[rank]]
        self._run(rank, task, 0.0, self.times.weight_gradient[rank])
        self.weights[rank] += 1
        self.memory[rank] -= self.times.weight_gradient_share

    def _weight_all(self, rank: int) -> None:
        while self._pending(rank):
            self._weight(rank)
