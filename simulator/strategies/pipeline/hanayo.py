"""Hanayo: the model folded into waves."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.registry import register
from simulator.strategies.pipeline.checks import even, positive
from simulator.strategies.pipeline.orders import v_placement
from simulator.strategies.protocols import Action, ActionKind, ScheduleTraits

__all__ = ["Hanayo"]


@register(
    "hanayo",
    kind="schedule",
    area="training",
    family="pipeline",
    cites=("Liu et al., Hanayo: Harnessing Wave-like Pipeline Parallelism, SC 2023, arXiv 2308.15762",),
    catalogue=("Hanayo",),
    validated_by="closed_form",
)
class Hanayo:
    """W waves: the stages run down the ranks and back W times, so bubbles shrink without a second copy.

    One wave is a Chimera of 2p ranks folded in half: a micro-batch that came down goes on up on the same ranks.
    """

    name = "hanayo"

    def traits(self) -> ScheduleTraits:
        """2W chunks per rank, folded; the turning points need no transfer."""
        return ScheduleTraits(virtual_stage=v_placement)

    def check(self, ranks: int, microbatches: int, chunks: int) -> str:
        """An even number of chunks: two per wave."""
        return positive(ranks, microbatches, chunks) or even(self.name, "virtual_stages (two per wave)", chunks)

    def order(self, ranks: int, microbatches: int, chunks: int) -> Sequence[Sequence[Action]]:
        """Tasks of every rank, by the slot they have when forward and backward take one slot each.

        In a unit of p micro-batches stage v of micro-batch j runs forward in slot v + 2j and backward in slot
        2V − 1 − v + 2j, V = p·chunks stages. Even and odd chunks use slots of different parity, and the next unit
        starts 2V slots later, so no two tasks of a rank meet.
        """
        stages, orders = ranks * chunks, []
        for rank in range(ranks):
            timed = []
            for chunk in range(chunks):
                stage = v_placement(rank, chunk, ranks, chunks)
                for m in range(microbatches):
                    slot = m // ranks * 2 * stages + 2 * (m % ranks)
                    timed.append((slot + stage, Action(ActionKind.FORWARD, m, chunk)))
                    timed.append((slot + 2 * stages - 1 - stage, Action(ActionKind.BACKWARD, m, chunk)))
            orders.append([action for _, action in sorted(timed)])
        return orders
