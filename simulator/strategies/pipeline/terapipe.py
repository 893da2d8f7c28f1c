"""TeraPipe: sequences cut along their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt

from simulator.registry import register
from simulator.strategies.pipeline.checks import only_one_chunk, positive
from simulator.strategies.pipeline.gpipe import forwards_then_backwards
from simulator.strategies.pipeline.orders import loop_placement
from simulator.strategies.protocols import Action, ScheduleTraits
from simulator.workload.plan import Plan

__all__ = ["TeraPipe", "balanced_slices"]


def balanced_slices(tokens: int, slices: int, linear: float, quadratic: float) -> list[int]:
    """Lengths of token slices that take equal time under causal attention.

    The first x tokens take ``linear``·x + ``quadratic``·x²/2: each token attends to all before it, so late slices
    must be shorter.

    Parameters
    ----------
    tokens, slices
        Sequence length, and pieces to cut it into (each at least one token).
    linear, quadratic
        Seconds per token of everything but attention, and per pair of tokens of attention (any unit).

    Returns
    -------
    list of int
        Lengths that sum to ``tokens``.
    """
    if not 1 <= slices <= tokens:
        raise ValueError(f"cannot cut {tokens} tokens into {slices} slices: use 1 to {tokens}")
    whole = linear * tokens + quadratic * tokens**2 / 2
    cuts = [0]
    for k in range(1, slices):
        share = whole * k / slices
        at = share / linear if quadratic == 0 else (sqrt(linear**2 + 2 * quadratic * share) - linear) / quadratic
        cuts.append(min(max(round(at), cuts[-1] + 1), tokens - (slices - k)))
    cuts.append(tokens)
    return [after - before for before, after in pairwise(cuts)]


@register(
    "terapipe",
    kind="schedule",
    area="training",
    family="pipeline",
    cites=("Li et al., TeraPipe: Token-Level Pipeline Parallelism, arXiv 2102.07988",),
    catalogue=("Terapipe / sequence pipelining",),
    validated_by="closed_form",
)
@dataclass(frozen=True)
class TeraPipe:
    """Token slices of one sequence follow each other through the stages; backward runs from the last slice.

    Attributes
    ----------
    slices
        Pieces per micro-batch; give costs as [virtual stage, slice], causal attention makes late slices dearer.
    """

    slices: int = 4
    name = "terapipe"

    @classmethod
    def for_plan(cls, plan: Plan) -> TeraPipe:
        """With the plan's ``token_slices``."""
        return cls(int(str(plan.option("token_slices", cls.slices))))

    def traits(self) -> ScheduleTraits:
        """Actions number slices: micro-batch · slices + slice."""
        return ScheduleTraits(virtual_stage=loop_placement, items_per_microbatch=self.slices)

    def check(self, ranks: int, microbatches: int, chunks: int) -> str:
        """Any number of ranks and micro-batches; one chunk."""
        if self.slices < 1:
            return f"{self.name} needs at least one slice per micro-batch, have {self.slices}"
        return positive(ranks, microbatches, chunks) or only_one_chunk(self.name, chunks, "interleaved-1f1b")

    def order(self, ranks: int, microbatches: int, chunks: int) -> Sequence[Sequence[Action]]:
        """Tasks of every rank."""
        return forwards_then_backwards(ranks, microbatches * self.slices, 1)
