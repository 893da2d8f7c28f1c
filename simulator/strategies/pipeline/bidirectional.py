"""Two copies of the model in opposite directions: GEMS and Chimera."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.registry import Claim, register
from simulator.strategies.pipeline.checks import even, only_one_chunk, positive
from simulator.strategies.protocols import Action, ActionKind, ScheduleTraits

__all__ = ["GEMS", "Chimera"]


def _both_ways(rank: int, chunk: int, ranks: int, chunks: int) -> int:
    """Chunk 0 is the copy that runs down the ranks, chunk 1 the copy that runs up."""
    return rank if chunk == 0 else ranks - 1 - rank


class _Bidirectional:
    """What schedules with a down and an up copy share."""

    name: str

    def traits(self) -> ScheduleTraits:
        """Each rank holds a stage of either copy; their gradients are reduced between the two."""
        return ScheduleTraits(virtual_stage=_both_ways, weight_copies=2)


@register(
    "gems",
    kind="schedule",
    area="training",
    family="pipeline",
    cites=("Jain et al., GEMS: GPU-Enabled Memory-Aware Model-Parallelism System, SC 2020",),
    catalogue=("GEMS",),
    validated_by="closed_form",
)
class GEMS(_Bidirectional):
    """The forward of one copy follows the backward of the other: at most two active micro-batches, least memory."""

    name = "gems"

    def check(self, ranks: int, microbatches: int, chunks: int) -> str:
        """Any number of ranks and micro-batches; one chunk."""
        return positive(ranks, microbatches, chunks) or only_one_chunk(self.name, chunks, "hanayo")

    def order(self, ranks: int, microbatches: int, chunks: int) -> Sequence[Sequence[Action]]:
        """Tasks of every rank: all ranks run micro-batch after micro-batch, directions alternate."""
        kinds = (ActionKind.FORWARD, ActionKind.BACKWARD)
        tasks = [Action(kind, m, m % 2) for m in range(microbatches) for kind in kinds]
        return [tasks for _ in range(ranks)]


@register(
    "chimera",
    kind="schedule",
    area="training",
    family="pipeline",
    cites=("Li and Hoefler, Chimera, arXiv 2107.06925",),
    catalogue=("Chimera",),
    claims=(
        Claim(
            "bubble share (p−2)/(2m+p−2) at forward = backward; p/2+1 … p micro-batches resident",
            "reference catalogue 2a [chimf]",
        ),
    ),
    validated_by="closed_form",
)
class Chimera(_Bidirectional):
    """Merges 1F1B pipelines of two copies in opposite directions: half the bubbles for twice the weights."""

    name = "chimera"

    def check(self, ranks: int, microbatches: int, chunks: int) -> str:
        """Even ranks and micro-batches."""
        reasons = (
            positive(ranks, microbatches, chunks),
            only_one_chunk(self.name, chunks, "hanayo"),
            even(self.name, "pipeline ranks", ranks),
            even(self.name, "micro-batches", microbatches),
        )
        return next((reason for reason in reasons if reason), "")

    def order(self, ranks: int, microbatches: int, chunks: int) -> Sequence[Sequence[Action]]:
        """Tasks of every rank, by the slot they have when forward and backward take one slot each.

        In a unit of p micro-batches, half go either way; in its direction stage s of micro-batch j runs forward in
        slot s + 2j and backward in slot 2p − 1 − s + 2j. The two directions and the next unit, 2p slots later, never
        meet.
        """
        orders = []
        for rank in range(ranks):
            timed = []
            for unit in range(0, microbatches, ranks):
                half = min(ranks, microbatches - unit) // 2
                for chunk, stage in ((0, rank), (1, ranks - 1 - rank)):
                    for j in range(half):
                        m, slot = unit + chunk * half + j, 2 * unit + 2 * j
                        timed.append((slot + stage, Action(ActionKind.FORWARD, m, chunk)))
                        timed.append((slot + 2 * ranks - 1 - stage, Action(ActionKind.BACKWARD, m, chunk)))
            orders.append([action for _, action in sorted(timed)])
        return orders
