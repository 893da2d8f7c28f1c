"""BPipe: 1F1B whose early ranks keep part of their activations on late ranks."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.registry import Claim, register
from simulator.strategies.pipeline.checks import only_one_chunk, positive
from simulator.strategies.pipeline.one_f_one_b import one_f_one_b_order
from simulator.strategies.pipeline.orders import loop_placement
from simulator.strategies.protocols import Action, ActionKind, ScheduleTraits

__all__ = ["BPipe", "balanced_residency"]


def balanced_residency(ranks: int) -> int:
    """Micro-batches any rank keeps at most: ⌈(p+2)/2⌉."""
    return (ranks + 3) // 2


@register(
    "bpipe",
    kind="schedule",
    area="training",
    family="pipeline",
    cites=("Kim et al., BPipe: Memory-Balanced Pipeline Parallelism, ICML 2023",),
    catalogue=("MixPipe, BPipe",),
    claims=(Claim("at most ⌈(p+2)/2⌉ micro-batches resident on any rank", "reference catalogue 2a [chimf]"),),
    validated_by="closed_form",
)
class BPipe:
    """1F1B; rank i lends the activations it cannot keep to rank p−1−i and fetches them before their backward."""

    name = "bpipe"

    def traits(self) -> ScheduleTraits:
        """1F1B with partners at the other end of the pipeline."""
        return ScheduleTraits(virtual_stage=loop_placement, partner=lambda rank, ranks: ranks - 1 - rank)

    def check(self, ranks: int, microbatches: int, chunks: int) -> str:
        """Any number of ranks and micro-batches; one chunk."""
        return positive(ranks, microbatches, chunks) or only_one_chunk(self.name, chunks, "interleaved-1f1b")

    def order(self, ranks: int, microbatches: int, chunks: int) -> Sequence[Sequence[Action]]:
        """Tasks of every rank, with the evictions and loads of the early ones."""
        limit = balanced_residency(ranks)
        return [_with_swaps(tasks, limit) for tasks in one_f_one_b_order(ranks, microbatches)]


def _with_swaps(tasks: Sequence[Action], limit: int) -> Sequence[Action]:
    """Evict the newest before a forward that would not fit; fetch the oldest back as soon as there is room.

    The newest is needed last, so what was evicted comes back as early as ``limit`` − 1 backwards ahead.
    """
    here: list[int] = []
    away: list[int] = []
    out: list[Action] = []
    for task in tasks:
        if task.kind == ActionKind.FORWARD:
            if len(here) == limit:
                away.append(here.pop())
                out.append(Action(ActionKind.EVICT, away[-1]))
            out.append(task)
            here.append(task.microbatch)
            continue
        out.append(task)
        here.remove(task.microbatch)
        if away:
            oldest = away.pop(0)
            here.append(oldest)
            here.sort()
            out.append(Action(ActionKind.LOAD, oldest))
    return out
