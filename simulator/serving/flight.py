"""An iteration in flight, or a jump over several whose ends are known in closed form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from simulator.serving.decode_group import DecodeGroup
from simulator.strategies.protocols import BatchShape, IterationCost, PipelinedIterationCost, RequestState

__all__ = ["Flight", "StageLine", "Watcher"]


class Flight:
    """An iteration, or a jump over several, that has been started; each brings every decode ``tokens`` further."""

    __slots__ = ("base", "end", "group", "iterations", "prefill", "slope", "start", "tokens")

    def __init__(
        self, start: float, end: float, prefill: Sequence[tuple[RequestState, int]], group: DecodeGroup | None,
        iterations: int, base: float, slope: float, tokens: int = 1,
    ) -> None:  # fmt: skip
        self.start = start
        self.end = end
        self.prefill = prefill
        self.group = group
        self.iterations = iterations
        self.base = base
        self.slope = slope
        self.tokens = tokens

    def boundary(self, iteration: int) -> float:
        """End of the first ``iteration`` iterations [s]."""
        return self.start + (self.base * iteration + self.slope * (iteration * (iteration - 1) // 2))

    def boundary_after(self, now: float) -> int:
        """Fewest iterations, at least one, that end at ``now`` or later."""
        elapsed = now - self.start
        half = self.base - 0.5 * self.slope
        if self.slope > 0.0:
            guess = (math.sqrt(max(half * half + 2.0 * self.slope * elapsed, 0.0)) - half) / self.slope
        else:
            guess = elapsed / self.base if self.base > 0.0 else 1.0
        count = min(max(int(guess), 1), self.iterations)
        while count > 1 and self.boundary(count - 1) >= now:
            count -= 1
        while count < self.iterations and self.boundary(count) < now:
            count += 1
        return count


class Watcher(Protocol):
    """Somebody who is told what a replica does."""

    def launched(self, shape: BatchShape, flight: Flight) -> None:
        """An iteration, or a jump over several, has been started; ``shape`` is the batch of the first."""

    def idle(self, now: float) -> None:
        """Nothing is in flight from ``now`` on [s]."""


class StageLine:
    """The pipeline stages of a replica; a stage takes the next micro-batch as soon as it is free.

    Parameters
    ----------
    cost
        Gives the time of every stage; a cost that knows only whole iterations is split evenly.
    stages
        How many.
    """

    __slots__ = ("_free", "_stage_times")

    def __init__(self, cost: IterationCost, stages: int) -> None:
        self._free = [0.0] * stages
        self._stage_times = cost.stage_times if isinstance(cost, PipelinedIterationCost) else None

    def leave(self, shape: BatchShape, latency: float, now: float) -> float:
        """When a micro-batch formed ``now`` leaves the last stage [s]; ``latency`` is that through empty stages."""
        free = self._free
        times = [latency / len(free)] * len(free) if self._stage_times is None else self._stage_times(shape)
        for stage, time in enumerate(times):
            now = max(now, free[stage]) + time
            free[stage] = now
        return now
