"""FTPipe's mixed pipe: ranks hold parts of the model that need not be neighbours, without a flush."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from simulator.registry import register
from simulator.strategies.pipeline.asynchronous import Asynchronous
from simulator.strategies.pipeline.checks import positive
from simulator.strategies.pipeline.dispatch import Dispatcher
from simulator.strategies.pipeline.orders import F, loop_placement
from simulator.strategies.protocols import Action, ScheduleTraits
from simulator.workload.plan import Plan

__all__ = ["MixedPipe"]


@register(
    "mixed-pipe",
    kind="schedule",
    area="training",
    family="pipeline",
    cites=(
        "Eliad et al. 2021 (FTPipe), USENIX ATC 21",
        "github.com/saareliad/FTPipe pipe/pipeline/work_schedulers (forwards in flight of a virtual stage)",
    ),
    catalogue=("HetPipe, FTPipe, Varuna",),
    validated_by="closed_form",
)
@dataclass(frozen=True)
class MixedPipe(Asynchronous):
    """More parts of the model than ranks, each part on any rank: loads even out where layers are coarse or uneven.

    A part with k parts behind it may have k + 1 micro-batches in flight; a free rank prefers backwards, and among them
    the part nearest to the end, as if layers took the same time and backwards twice that of forwards. Which rank holds
    which part comes from the ``places`` of the plan's stages; without them the parts go round the ranks. Weights are
    not stashed: a backward meets newer weights than its forward.
    """

    places: tuple[tuple[int, ...], ...] = ()
    layers: tuple[int, ...] = ()
    name = "mixed-pipe"
    takes_places = True
    staleness = "a part of the model with k parts behind it meets weights up to k micro-batches old, nothing is stashed"

    @classmethod
    def for_plan(cls, plan: Plan) -> MixedPipe:
        """With the places of the plan's stages."""
        if not any(stage.places for stage in plan.stages):
            return cls()
        sizes = {p: n for stage in plan.stages for p, n in zip(stage.places, stage.layers, strict=True)}
        return cls(tuple(stage.places for stage in plan.stages), tuple(sizes[p] for p in sorted(sizes)))

    def versions(self, rank: int, ranks: int) -> float:
        """Only the newest."""
        return 1

    def traits(self) -> ScheduleTraits:
        """No flush; parts where the plan puts them."""
        if not self.places:
            return super().traits()
        places = self.places

        def place(rank: int, chunk: int, ranks: int, chunks: int) -> int:
            mine = places[rank]
            return mine[min(chunk, len(mine) - 1)]

        return replace(super().traits(), virtual_stage=place, stages=sum(map(len, places)))

    def check(self, ranks: int, microbatches: int, chunks: int) -> str:
        """Any sizes."""
        if self.places and len(self.places) != ranks:
            return f"{self.name} has places of {len(self.places)} ranks for {ranks}"
        return positive(ranks, microbatches, chunks)

    def steps_order(self, ranks: int, microbatches: int, chunks: int, steps: int) -> Sequence[Sequence[Action]]:
        """Tasks of ``steps`` updates."""
        held = [len(mine) for mine in self.places] or [chunks] * ranks
        place = self.traits().virtual_stage if self.places else loop_placement
        last = sum(held) - 1

        def preference(state: Dispatcher, kind: int, rank: int, chunk: int, microbatch: int) -> tuple[bool, int, int]:
            return kind == F, -state.stage[rank][chunk], microbatch

        def admit(state: Dispatcher, rank: int, chunk: int, microbatch: int) -> bool:
            return state.live(rank, chunk) <= last - state.stage[rank][chunk]

        dispatcher = Dispatcher(ranks, held, microbatches * steps, place, (1, 2, 0), preference, admit, self.layers)
        return dispatcher.run()
