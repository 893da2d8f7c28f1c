"""Zero-bubble schedules: the backward split into input gradient (B) and weight gradient (W), W fills the bubbles.

The handcrafted orders assume F = B = W; the automatic ones follow the heuristic of the paper for any times and
memory limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from simulator.registry import Claim, register
from simulator.strategies.pipeline.checks import only_one_chunk, positive
from simulator.strategies.pipeline.orders import loop_placement
from simulator.strategies.pipeline.zero_bubble_search import StageTimes, search
from simulator.strategies.protocols import Action, ActionKind, ScheduleTraits

__all__ = ["ZBH1", "ZBH2", "ZB1p", "ZB2p", "handcrafted_order"]

_PAPER = "Qi et al., Zero Bubble Pipeline Parallelism, arXiv 2401.10241"
_ROW = ("Zero Bubble ZB1P/ZB2P/ZBV",)


def handcrafted_order(warmup: int, delay: int, microbatches: int) -> list[Action]:
    """``warmup`` forwards, then F B W in turn, W running ``delay`` micro-batches behind B.

    Between them the delay keeps warm-up + delay micro-batches in memory, the same on every rank.
    """
    tasks = [Action(ActionKind.FORWARD, m) for m in range(min(warmup, microbatches))]
    for m in range(microbatches):
        if m + warmup < microbatches:
            tasks.append(Action(ActionKind.FORWARD, m + warmup))
        tasks.append(Action(ActionKind.INPUT_GRADIENT, m))
        if m >= delay:
            tasks.append(Action(ActionKind.WEIGHT_GRADIENT, m - delay))
    left = range(max(0, microbatches - delay), microbatches)
    return tasks + [Action(ActionKind.WEIGHT_GRADIENT, m) for m in left]


class _OneChunk:
    """What all schedules of this file share."""

    name: str

    def traits(self) -> ScheduleTraits:
        """One chunk per rank, backward split."""
        return ScheduleTraits(virtual_stage=loop_placement, splits_backward=True)

    def check(self, ranks: int, microbatches: int, chunks: int) -> str:
        """Any number of ranks and micro-batches; one chunk."""
        return positive(ranks, microbatches, chunks) or only_one_chunk(self.name, chunks, "zb-v")


@register(
    "zb-h1",
    kind="schedule",
    area="training",
    family="pipeline",
    cites=(_PAPER,),
    catalogue=_ROW,
    claims=(Claim("bubble (p−1)(T_F+T_B−T_W), activations (p−i)·M_B + i·M_W on rank i", "arXiv 2401.10241 table 2"),),
    validated_by="published",
)
class ZBH1(_OneChunk):
    """1F1B with the weight gradients of rank i delayed by i micro-batches: a third of the bubble, same memory."""

    name = "zb-h1"

    def order(self, ranks: int, microbatches: int, chunks: int) -> Sequence[Sequence[Action]]:
        """Tasks of every rank."""
        return [handcrafted_order(ranks - 1 - rank, rank, microbatches) for rank in range(ranks)]


@register(
    "zb-h2",
    kind="schedule",
    area="training",
    family="pipeline",
    cites=(_PAPER,),
    catalogue=_ROW,
    claims=(Claim("bubble (p−1)(T_F+T_B−2T_W), activations (2p−1)·M_B on the first rank", "arXiv 2401.10241 table 2"),),
    validated_by="published",
)
class ZBH2(_OneChunk):
    """Twice the warm-up: no bubble at F = B = W where the step has no barrier, for twice the activations."""

    name = "zb-h2"

    def order(self, ranks: int, microbatches: int, chunks: int) -> Sequence[Sequence[Action]]:
        """Tasks of every rank."""
        return [handcrafted_order(2 * (ranks - 1 - rank), 2 * rank, microbatches) for rank in range(ranks)]


@dataclass(frozen=True)
class _Automatic(_OneChunk):
    """An order searched for given times within a memory limit.

    Attributes
    ----------
    forward, input_gradient, weight_gradient
        Seconds of every rank, or one number for all; only their ratios matter.
    p2p
        Seconds of a transfer, in the same unit.
    weight_gradient_share
        Activation memory that W still needs over what B needs: M_W / M_B.
    """

    forward: float | tuple[float, ...] = 1.0
    input_gradient: float | tuple[float, ...] = 1.0
    weight_gradient: float | tuple[float, ...] = 1.0
    p2p: float = 0.0
    weight_gradient_share: float = 1.0

    def tuned(
        self,
        forward: float | tuple[float, ...],
        input_gradient: float | tuple[float, ...],
        weight_gradient: float | tuple[float, ...],
        p2p: float = 0.0,
        weight_gradient_share: float = 1.0,
    ) -> _Automatic:
        """The same schedule searched for these times."""
        return replace(
            self,
            forward=forward,
            input_gradient=input_gradient,
            weight_gradient=weight_gradient,
            p2p=p2p,
            weight_gradient_share=weight_gradient_share,
        )

    def _search(self, ranks: int, microbatches: int, limit: int) -> Sequence[Sequence[Action]]:
        def per_rank(values: float | tuple[float, ...]) -> tuple[float, ...]:
            return values if isinstance(values, tuple) else (values,) * ranks

        times = StageTimes(
            per_rank(self.forward), per_rank(self.input_gradient), per_rank(self.weight_gradient), self.p2p,
            self.weight_gradient_share,
        )  # fmt: skip
        return search(times, microbatches, limit)


@register(
    "zb-1p",
    kind="schedule",
    area="training",
    family="pipeline",
    cites=(_PAPER,),
    catalogue=_ROW,
    claims=(Claim("bubble rates of table 5, profiled times of table 9", "arXiv 2401.10241 tables 5, 9"),),
    validated_by="published",
)
class ZB1p(_Automatic):
    """Searched order with the activation memory of 1F1B, p micro-batches."""

    name = "zb-1p"

    def order(self, ranks: int, microbatches: int, chunks: int) -> Sequence[Sequence[Action]]:
        """Tasks of every rank."""
        return self._search(ranks, microbatches, ranks)


@register(
    "zb-2p",
    kind="schedule",
    area="training",
    family="pipeline",
    cites=(_PAPER,),
    catalogue=_ROW,
    claims=(Claim("bubble rates of table 5, profiled times of table 9", "arXiv 2401.10241 tables 5, 9"),),
    validated_by="published",
)
class ZB2p(_Automatic):
    """Searched order with twice the activation memory of 1F1B: next to no bubble."""

    name = "zb-2p"

    def order(self, ranks: int, microbatches: int, chunks: int) -> Sequence[Sequence[Action]]:
        """Tasks of every rank."""
        return self._search(ranks, microbatches, 2 * ranks)
