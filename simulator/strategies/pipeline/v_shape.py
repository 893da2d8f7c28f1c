"""V-shaped zero-bubble schedules with a chosen activation memory: one building block, repeated every 6 slots.

A rank holds two chunks; the model runs down the ranks and back up. A micro-batch takes six slots of a rank (two
each of F, B, W). The slots of its four F and B fix how long activations live, and with that the memory: all ranks
hold the same. W fills the slots that are left.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from simulator.registry import Claim, register
from simulator.strategies.pipeline.checks import exact_chunks, positive
from simulator.strategies.pipeline.dispatch import Dispatcher
from simulator.strategies.pipeline.orders import KINDS, B, F, W, v_placement
from simulator.strategies.protocols import Action, ScheduleTraits

__all__ = ["ZBV", "VHalf", "VMin", "block_slots"]

_CONTROLLABLE = "Qi et al., Pipeline Parallelism with Controllable Memory, arXiv 2405.15362"
_ROW = ("Zero Bubble ZB1P/ZB2P/ZBV",)
_INTERVAL = 6


def block_slots(ranks: int, down: int, up: int, gap: int) -> list[tuple[int, int, int, int]]:
    """Slots of F on chunk 0, F on chunk 1, B on chunk 1 and B on chunk 0 of the first micro-batch, on every rank.

    Parameters
    ----------
    down, up
        Slots between neighbours on the way down and on the way back up.
    gap
        Extra slots before the backward so that no two passes of different micro-batches meet.
    """
    turn = down * (ranks - 1) + 1
    middle = turn + up * (ranks - 1) + 1 + gap
    return [
        (
            down * rank,
            turn + up * (ranks - 1 - rank),
            middle + down * rank,
            middle + turn + up * (ranks - 1 - rank),
        )
        for rank in range(ranks)
    ]


@cache
def _order(ranks: int, microbatches: int, down: int, up: int, gap: int) -> Sequence[Sequence[Action]]:
    """The block repeated for every micro-batch, then squeezed.

    Passes keep the block's order of preference but start as soon as they can, in the fill and the drain too, as long
    as the rank holds no more than in the block's steady state and has room for what its other chunk will hold.
    """
    slots = block_slots(ranks, down, up, gap)
    limit = max(steady_chunks(block) for block in slots)
    first = [{F: {0: f0, 1: f1}, B: {1: b1, 0: b0}} for f0, f1, b1, b0 in slots]

    def slot(state: Dispatcher, kind: int, rank: int, chunk: int, microbatch: int) -> int:
        return first[rank][kind][chunk] + _INTERVAL * microbatch

    def admit(state: Dispatcher, rank: int, chunk: int, microbatch: int) -> bool:
        own, other = slot(state, F, rank, chunk, microbatch), 1 - chunk
        waiting = state.forwards[rank][other]
        before = -(-(own - slot(state, F, rank, other, waiting)) // _INTERVAL)
        lifetime = first[rank][B][other] - first[rank][F][other]
        reserve = min(
            max(0, before), microbatches - waiting, max(0, -(-lifetime // _INTERVAL) - state.live(rank, other))
        )
        return state.held[rank] + 1 + reserve <= limit

    placed = Dispatcher(ranks, 2, microbatches, v_placement, times=(1, 1, 1), preference=slot, admit=admit)
    return placed.run()


def steady_chunks(block: tuple[int, int, int, int]) -> int:
    """Chunks' activations a rank holds at most when the block repeats, each from its F until its W is done.

    Every 6 slots hold two F, two B and two free ones, in which W follows the B that finished first.
    """
    taken = {slot % _INTERVAL for slot in block}
    pending = held = peak = 0
    for now in range(max(block) + 2 * _INTERVAL):
        if now % _INTERVAL in taken:
            held += sum(slot <= now and (now - slot) % _INTERVAL == 0 for slot in block[:2])
            pending += sum(slot <= now and (now - slot) % _INTERVAL == 0 for slot in block[2:])
        elif pending:
            pending -= 1
            held -= 1
        peak = max(peak, held)
    return peak


def _zbv_rank(rank: int, ranks: int, microbatches: int) -> list[Action]:
    """ZB-V by hand: the warm-up fills memory with 2p chunks, then every F is paid for by a B and its W."""
    next_of = {(kind, chunk): 0 for kind in (F, B, W) for chunk in (0, 1)}
    tasks: list[Action] = []

    def add(*passes: tuple[int, int]) -> None:
        for kind, chunk in passes:
            tasks.append(Action(KINDS[kind], next_of[kind, chunk], chunk))
            next_of[kind, chunk] += 1

    add(*[(F, 0)] * (2 * (ranks - rank) - 1))
    add(*[(F, 1), (F, 0)] * rank)
    add(*[(F, 1), (B, 1), (W, 1)] * (ranks - rank))
    while next_of[F, 1] < microbatches:
        if next_of[F, 0] < microbatches:
            add((F, 0))
        add((B, 0), (W, 0), (F, 1), (B, 1), (W, 1))
    add(*[(B, 0), (B, 1)] * rank)
    add(*[(B, 0), (W, 0)] * (ranks - rank))
    add(*[(W, 1)] * (microbatches - next_of[W, 1]), *[(W, 0)] * (microbatches - next_of[W, 0]))
    return tasks


class _VShape:
    """What the V-shaped schedules share."""

    name: str

    def traits(self) -> ScheduleTraits:
        """Two chunks per rank, folded; backward split."""
        return ScheduleTraits(virtual_stage=v_placement, splits_backward=True)

    def check(self, ranks: int, microbatches: int, chunks: int) -> str:
        """Two chunks; any number of ranks and micro-batches."""
        return positive(ranks, microbatches, chunks) or exact_chunks(self.name, chunks, 2)


@register(
    "zb-v",
    kind="schedule",
    area="training",
    family="pipeline",
    cites=("Qi et al., Zero Bubble Pipeline Parallelism, arXiv 2401.10241 §6", _CONTROLLABLE),
    catalogue=_ROW,
    claims=(
        Claim(
            "no bubble at F = B = W, the activation memory of 1F1B",
            "github.com/sail-sg/zero-bubble-pipeline-parallelism README",
        ),
    ),
    validated_by="closed_form",
)
class ZBV(_VShape):
    """V placement without a bubble at F = B = W and with the activation memory of 1F1B on every rank."""

    name = "zb-v"

    def check(self, ranks: int, microbatches: int, chunks: int) -> str:
        """Two chunks; enough micro-batches to fill the warm-up."""
        least = 2 * ranks - 1
        if reason := super().check(ranks, microbatches, chunks):
            return reason
        if microbatches < least:
            return f"{self.name} needs at least 2·pipeline_parallel − 1 = {least} micro-batches, have {microbatches}"
        return ""

    def order(self, ranks: int, microbatches: int, chunks: int) -> Sequence[Sequence[Action]]:
        """Tasks of every rank."""
        return [_zbv_rank(rank, ranks, microbatches) for rank in range(ranks)]


@register(
    "v-half",
    kind="schedule",
    area="training",
    family="pipeline",
    cites=(_CONTROLLABLE,),
    catalogue=_ROW,
    claims=(Claim("half the activation memory of 1F1B", "github.com/sail-sg/zero-bubble-pipeline-parallelism README"),),
    validated_by="closed_form",
)
class VHalf(_VShape):
    """V placement with half the activation memory of 1F1B.

    The steady state is the paper's; fill and drain come from a greedy squeeze, so their bubble may exceed the paper's.
    """

    name = "v-half"

    def order(self, ranks: int, microbatches: int, chunks: int) -> Sequence[Sequence[Action]]:
        """Tasks of every rank."""
        return _order(ranks, microbatches, 2, 1, 3 if ranks % 2 == 0 else 0)


@register(
    "v-min",
    kind="schedule",
    area="training",
    family="pipeline",
    cites=(_CONTROLLABLE,),
    catalogue=_ROW,
    claims=(
        Claim("a third of the activation memory of 1F1B", "github.com/sail-sg/zero-bubble-pipeline-parallelism README"),
    ),
    validated_by="closed_form",
)
class VMin(_VShape):
    """V placement with a third of the activation memory of 1F1B.

    The steady state is the paper's; fill and drain come from a greedy squeeze, so their bubble may exceed the paper's.
    """

    name = "v-min"

    def order(self, ranks: int, microbatches: int, chunks: int) -> Sequence[Sequence[Action]]:
        """Tasks of every rank."""
        return _order(ranks, microbatches, 1, 1, 2 if ranks % 3 == 0 else 0)
