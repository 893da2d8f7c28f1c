"""AvgPipe: several pipelines of the same model on the same ranks, joined by elastic averaging."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from simulator.registry import register
from simulator.strategies.pipeline.checks import only_one_chunk, positive
from simulator.strategies.pipeline.one_f_one_b import one_f_one_b_order
from simulator.strategies.protocols import Action, ScheduleTraits
from simulator.workload.plan import Plan

__all__ = ["AvgPipe"]


def _same_stage(rank: int, chunk: int, ranks: int, chunks: int) -> int:
    """Every copy of the model is cut alike."""
    return rank


@register(
    "avgpipe",
    kind="schedule",
    area="training",
    family="pipeline",
    cites=("Chen et al. 2023 (AvgPipe: Elastic Averaging for Efficient Pipelined DNN Training), PPoPP'23",),
    catalogue=("AvgPipe, vPipe",),
    validated_by="closed_form",
)
@dataclass(frozen=True)
class AvgPipe:
    """``pipelines`` (2) copies of the model take turns on every rank: one computes while the other's messages travel.

    Each copy runs 1F1B over its share of the micro-batches and updates itself; a reference copy of the weights ties
    them by elastic averaging. With one pipeline it is 1F1B with a second copy of the weights.
    """

    pipelines: int = 2
    name = "avgpipe"

    @classmethod
    def for_plan(cls, plan: Plan) -> AvgPipe:
        """With the plan's ``pipelines``."""
        return cls(int(str(plan.option("pipelines", cls.pipelines))))

    def traits(self) -> ScheduleTraits:
        """As many copies of all states as pipelines, and the reference weights."""
        copies = self.pipelines
        return ScheduleTraits(
            virtual_stage=_same_stage, weight_copies=copies, replicas=copies,
            weight_versions=lambda rank, ranks: (copies + 1) / copies, updates=lambda microbatches: copies,
            reductions=lambda microbatches: copies,
        )  # fmt: skip

    def check(self, ranks: int, microbatches: int, chunks: int) -> str:
        """Micro-batches that the pipelines share equally; one chunk."""
        if self.pipelines < 1:
            return f"{self.name} needs at least one pipeline, have {self.pipelines}"
        if reason := positive(ranks, microbatches, chunks) or only_one_chunk(self.name, chunks, "interleaved-1f1b"):
            return reason
        if microbatches % self.pipelines:
            low = microbatches // self.pipelines * self.pipelines
            near = " or ".join(str(n) for n in (low, low + self.pipelines) if n)
            return f"{self.name} shares {microbatches} micro-batches among {self.pipelines} pipelines: use {near}"
        return ""

    def order(self, ranks: int, microbatches: int, chunks: int) -> Sequence[Sequence[Action]]:
        """The pipelines' tasks in turn."""
        share = microbatches // self.pipelines
        one = one_f_one_b_order(ranks, share)
        return [
            list(chain.from_iterable((_of_copy(a, c, share) for c in range(self.pipelines)) for a in one[rank]))
            for rank in range(ranks)
        ]

    def notes(self, plan: Plan) -> tuple[str, ...]:
        """Copies that differ between averages cost quality."""
        return (
            f"{self.name}: {self.pipelines} copies of the model step on 1/{self.pipelines} of the batch each and are "
            "averaged elastically; tokens to a target loss are those of synchronous training unless goal.extra_tokens "
            "says otherwise",
        )


def _of_copy(action: Action, copy: int, share: int) -> Action:
    """The action of another copy: its own micro-batches, its own slot on the rank."""
    return action._replace(microbatch=action.microbatch + copy * share, chunk=copy)
