"""All forwards, then all backwards: GPipe, and breadth-first over model chunks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simulator.registry import register
from simulator.strategies.pipeline.checks import only_one_chunk, positive
from simulator.strategies.pipeline.orders import BW, F, TaskOrder, loop_placement
from simulator.strategies.protocols import Action, ScheduleTraits

__all__ = ["BreadthFirst", "GPipe", "forwards_then_backwards"]


def forwards_then_backwards(ranks: int, microbatches: int, chunks: int) -> TaskOrder:
    """Chunk after chunk, all micro-batches of a chunk together; the backward runs in exactly the reverse order."""
    k = np.arange(microbatches * chunks)
    microbatch, chunk = k % microbatches, k // microbatches
    kind = np.repeat([F, BW], k.size)
    columns = (kind, np.concatenate([microbatch, microbatch[::-1]]), np.concatenate([chunk, chunk[::-1]]))
    return TaskOrder.grid(*(np.tile(column, (ranks, 1)) for column in columns))


@register(
    "gpipe",
    kind="schedule",
    area="training",
    family="pipeline",
    cites=("Huang et al., GPipe, arXiv 1811.06965",),
    catalogue=("GPipe",),
    validated_by="closed_form",
)
class GPipe:
    """All forwards, then all backwards in reverse, then a flush."""

    name = "gpipe"

    def traits(self) -> ScheduleTraits:
        """One chunk per rank, flushed at every step."""
        return ScheduleTraits(virtual_stage=loop_placement)

    def check(self, ranks: int, microbatches: int, chunks: int) -> str:
        """Any number of ranks and micro-batches; one chunk."""
        return positive(ranks, microbatches, chunks) or only_one_chunk(self.name, chunks, "breadth-first")

    def order(self, ranks: int, microbatches: int, chunks: int) -> Sequence[Sequence[Action]]:
        """Tasks of every rank."""
        return forwards_then_backwards(ranks, microbatches, 1)


@register(
    "breadth-first",
    kind="schedule",
    area="training",
    family="pipeline",
    cites=("Lamy-Poirier, Breadth-First Pipeline Parallelism, arXiv 2211.05953",),
    catalogue=("Breadth-First PP",),
    validated_by="closed_form",
)
class BreadthFirst:
    """Looped placement; all micro-batches of a chunk before the next chunk, so its gradients are ready early."""

    name = "breadth-first"

    def traits(self) -> ScheduleTraits:
        """Chunks loop over the ranks."""
        return ScheduleTraits(virtual_stage=loop_placement)

    def check(self, ranks: int, microbatches: int, chunks: int) -> str:
        """Needs m >= p where there are chunks: a chunk must keep the ranks busy until its first output returns."""
        if reason := positive(ranks, microbatches, chunks):
            return reason
        if chunks > 1 and microbatches < ranks:
            return f"{self.name} needs micro-batches >= pipeline_parallel = {ranks}, have {microbatches}: use {ranks}"
        return ""

    def order(self, ranks: int, microbatches: int, chunks: int) -> Sequence[Sequence[Action]]:
        """Tasks of every rank."""
        return forwards_then_backwards(ranks, microbatches, chunks)
