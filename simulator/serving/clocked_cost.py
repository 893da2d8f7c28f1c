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
        self._base, self._slower = base, slower
        self.yielded = base.yielded if isinstance(base, DraftingIterationCost) else 1.0
        """Tokens per sequence of an iteration of the engine."""
        self.level = 100
        self._take(base)

    def _take(self, cost: IterationCost) -> None:
        # Protocols are looked into at a change, not in every iteration.
        self._now = cost
        self._drafts = cost if isinstance(cost, DraftingIterationCost) else None
        self._stages = cost if isinstance(cost, PipelinedIterationCost) else None

    def follow(self, level: int) -> bool:
        """Run at ``level`` percent of the rated clock from the next iteration on; whether that is a change."""
        if level == self.level:
            return False
        self.level = level
        self._take(self._base if level == 100 else self._slower(level))
        return True

    def iteration(self, batch: BatchShape) -> float:
        """See :class:`~simulator.strategies.serving_protocols.IterationCost`."""
        return self._now.iteration(batch)

    def decode_segment(self, batch: BatchShape) -> Segment:
        """See :class:`~simulator.strategies.serving_protocols.IterationCost`."""
        return self._now.decode_segment(batch)

    def ahead(self, batch: BatchShape) -> float:
        """What an iteration of the engine lasts longer for the tokens beyond the first [s]."""
        return self._drafts.ahead(batch) if self._drafts is not None else 0.0

    def stage_times(self, batch: BatchShape) -> Sequence[float]:
        """Seconds each stage is occupied by ``batch``."""
        assert self._stages is not None
        return self._stages.stage_times(batch)
