"""Varuna: everything is computed again, and that begins before the gradient is there."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from simulator.registry import register
from simulator.strategies.pipeline.checks import only_one_chunk, positive
from simulator.strategies.pipeline.orders import loop_placement
from simulator.strategies.protocols import Action, ActionKind, ScheduleTraits

__all__ = ["Varuna"]

_ACTION = {
    "forward": ActionKind.FORWARD, "recompute": ActionKind.RECOMPUTE, "backward": ActionKind.BACKWARD,
}  # fmt: skip


class _Stage:
    """Micro-batches that wait on one rank, in the order in which kinds are served."""

    def __init__(self) -> None:
        self.waiting: dict[str, deque[int]] = {
            kind: deque() for kind in ("weights", "backward", "recompute", "forward")
        }

    def next(self) -> tuple[str, int] | None:
        """What a free rank does, and for which micro-batch."""
        kind = next((kind for kind, queue in self.waiting.items() if queue), None)
        return None if kind is None else (kind, self.waiting[kind].popleft())


@register(
    "varuna",
    kind="schedule",
    area="training",
    family="pipeline",
    cites=(
        "Athlur et al. 2022 (Varuna), arXiv 2111.04007",
        "github.com/microsoft/varuna varuna/generate_schedule.cc (order of service)",
    ),
    catalogue=("HetPipe, FTPipe, Varuna",),
    validated_by="closed_form",
)
class Varuna:
    """Backwards before recomputations before forwards; a stage computes again while the next one still goes backward.

    The order is fixed beforehand by running it with a forward and a recomputation of one unit and a backward of two.
    A recomputation is due when the next stage has its input gradients, so it is done when they arrive, and its
    backward follows at once. The last stage does not recompute: it goes backward right after its forward. With a
    recomputation strategy of nothing the tasks take no time; ``recompute: full`` is what Varuna does, and ``none`` for
    the last of ``stages``. Morphing to other degrees after a preemption is a strategy of recovery.
    """

    name = "varuna"

    def traits(self) -> ScheduleTraits:
        """One part of the model per rank, a task of its own for recomputation."""
        return ScheduleTraits(virtual_stage=loop_placement, recomputes=True)

    def check(self, ranks: int, microbatches: int, chunks: int) -> str:
        """Any number of ranks and micro-batches; one chunk."""
        return positive(ranks, microbatches, chunks) or only_one_chunk(self.name, chunks, "interleaved-1f1b")

    def order(self, ranks: int, microbatches: int, chunks: int) -> Sequence[Sequence[Action]]:
        """Quantum by quantum: every rank serves one micro-batch, then what follows from it is queued."""
        stages = [_Stage() for _ in range(ranks)]
        stages[0].waiting["forward"].extend(range(microbatches))
        orders: list[list[Action]] = [[] for _ in range(ranks)]
        while any(served := [stage.next() for stage in stages]):
            for rank, task in enumerate(served):
                if task is None:
                    continue
                kind, microbatch = task
                if kind != "weights":
                    orders[rank].append(Action(_ACTION[kind], microbatch))
                if kind == "forward" and rank < ranks - 1:
                    stages[rank + 1].waiting["forward"].append(microbatch)
                elif kind in ("forward", "recompute"):
                    stages[rank].waiting["backward"].append(microbatch)
                elif kind == "backward":
                    stages[rank].waiting["weights"].append(microbatch)
                    if rank:
                        stages[rank - 1].waiting["recompute"].append(microbatch)
        return orders
