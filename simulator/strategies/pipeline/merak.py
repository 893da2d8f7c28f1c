"""Merak's schedule: the critical path leaves the last stage, and computing again hides behind gradients to come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from simulator.registry import register
from simulator.strategies.pipeline.checks import only_one_chunk, positive
from simulator.strategies.pipeline.one_f_one_b import one_f_one_b_order
from simulator.strategies.pipeline.orders import loop_placement
from simulator.strategies.protocols import Action, ActionKind, ScheduleTraits

__all__ = ["ShiftedCriticalPath"]


@register(
    "shifted-critical-path",
    kind="schedule",
    area="training",
    family="pipeline",
    cites=(
        "Lai et al. 2022 (Merak), arXiv 2206.04959",
        "github.com/HPDL-Group/Merak Merak/core/pipeline/schedule.py (FullCriticalPathTrainSchedule)",
    ),
    catalogue=("Merak",),
    validated_by="closed_form",
)
class ShiftedCriticalPath:
    """1F1B in which the last stage keeps its activations, so that the last but one is the longest and never waits.

    A stage computes again while it waits for the gradient, and the last but one does its third forward before its
    first backward: it holds three micro-batches instead of two. What the last stage keeps is said by the plan:
    ``recompute: none`` for the last of ``stages``, or a 0 at the end of ``recomputed_layers``.
    """

    name = "shifted-critical-path"

    def traits(self) -> ScheduleTraits:
        """One part of the model per rank, a task of its own for recomputation."""
        return ScheduleTraits(virtual_stage=loop_placement, recomputes=True)

    def check(self, ranks: int, microbatches: int, chunks: int) -> str:
        """Any number of ranks and micro-batches; one chunk."""
        return positive(ranks, microbatches, chunks) or only_one_chunk(self.name, chunks, "interleaved-1f1b")

    def order(self, ranks: int, microbatches: int, chunks: int) -> Sequence[Sequence[Action]]:
        """1F1B's tasks; before every backward what it needs is computed again."""
        orders = [list(tasks) for tasks in one_f_one_b_order(ranks, microbatches)]
        if ranks > 1 and microbatches > 2:
            second = orders[-2]  # F0 F1 B0 F2 …
            second[2], second[3] = second[3], second[2]
        return [list(_with_recomputation(tasks)) for tasks in orders]


def _with_recomputation(tasks: Sequence[Action]) -> Iterator[Action]:
    for task in tasks:
        if task.kind is not ActionKind.FORWARD:
            yield Action(ActionKind.RECOMPUTE, task.microbatch)
        yield task
