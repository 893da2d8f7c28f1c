"""Iteration times of a replica whose clock changes while it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from simulator.strategies.protocols import BatchShape, IterationCost, PipelinedIterationCost, Segment
from simulator.strategies.serving_protocols import DraftingIterationCost

__all__ = ["ClockedCost"]


class ClockedCost:
    """The cost of a replica at the clock it has now.

    Parameters
    ----------
    base
        At the rated clock.
    slower
        Level in percent of that clock → the cost there; asked once per level and change.
    """

    def __init__(self, base: IterationCost, slower: Callable[[int], IterationCost]) -> None:
        self._base, self._slower, self._now = base, slower, base
        self.level = 100

    def follow(self, level: int) -> bool:
        """Run at ``level`` percent of the rated clock from the next iteration on; whether that is a change."""
        if level == self.level:
            return False
        self.level, self._now = level, self._base if level == 100 else self._slower(level)
        return True

    def iteration(self, batch: BatchShape) -> float:
        """See :class:`~simulator.strategies.serving_protocols.IterationCost`."""
        return self._now.iteration(batch)

    def decode_segment(self, batch: BatchShape) -> Segment:
        """See :class:`~simulator.strategies.serving_protocols.IterationCost`."""
        return self._now.decode_segment(batch)

    @property
    def yielded(self) -> float:
        """Tokens per sequence of an iteration of the engine."""
        return self._base.yielded if isinstance(self._base, DraftingIterationCost) else 1.0

    def ahead(self, batch: BatchShape) -> float:
        """What an iteration of the engine lasts longer for the tokens beyond the first [s]."""
        return self._now.ahead(batch) if isinstance(self._now, DraftingIterationCost) else 0.0

    def stage_times(self, batch: BatchShape) -> Sequence[float]:
        """Seconds each stage is occupied by ``batch``."""
        assert isinstance(self._now, PipelinedIterationCost)
        return self._now.stage_times(batch)
