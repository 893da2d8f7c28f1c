"""DualPipe and its cut-in-half form: two directions, a forward and a backward overlap each other."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from simulator.registry import Claim, register
from simulator.strategies.pipeline.checks import even, exact_chunks, only_one_chunk, positive
from simulator.strategies.pipeline.orders import v_placement
from simulator.strategies.protocols import Action, ActionKind, ScheduleTraits

__all__ = ["DualPipe", "DualPipeV"]

_CITES = ("DeepSeek-AI, DeepSeek-V3 Technical Report, arXiv 2412.19437 §3.2.1", "github.com/deepseek-ai/DualPipe")
_ROW = ("DualPipe / DualPipeV",)


class _Rank:
    """Emits the tasks of one rank; phase 0 is the direction in which the rank is nearer to the model's start."""

    def __init__(self, first_microbatch: tuple[int, int], chunk: tuple[int, int]) -> None:
        self.tasks: list[Action] = []
        self.first_microbatch, self.chunk = first_microbatch, chunk
        self.forwards, self.backwards = [0, 0], [0, 0]
        self.weights: deque[Action] = deque()

    def forward(self, phase: int, with_next: bool = False) -> None:
        """The next forward of a phase."""
        microbatch = self.first_microbatch[phase] + self.forwards[phase]
        self.forwards[phase] += 1
        self.tasks.append(Action(ActionKind.FORWARD, microbatch, self.chunk[phase], with_next))

    def backward(self, phase: int, split: bool = False) -> None:
        """The next backward of a phase; split: only its input gradient, the rest queues."""
        microbatch, chunk = self.first_microbatch[phase] + self.backwards[phase], self.chunk[phase]
        self.backwards[phase] += 1
        kind = ActionKind.INPUT_GRADIENT if split else ActionKind.BACKWARD
        self.tasks.append(Action(kind, microbatch, chunk))
        if split:
            self.weights.append(Action(ActionKind.WEIGHT_GRADIENT, microbatch, chunk))

    def both(self, forward_phase: int) -> None:
        """A forward of one phase overlapped with a backward of the other."""
        self.forward(forward_phase, with_next=True)
        self.backward(1 - forward_phase)

    def weight(self) -> None:
        """The oldest queued weight gradient."""
        self.tasks.append(self.weights.popleft())


def _dual_order(rank: _Rank, half: int, depth: int, microbatches: int) -> list[Action]:
    """The eight phases of the schedule.

    Parameters
    ----------
    half
        Ranks between this one and the nearer end of the pipeline.
    depth
        Ranks of half a pipeline.
    microbatches
        Micro-batches per direction.
    """
    inner = depth - 1 - half
    for _ in range(2 * inner):
        rank.forward(0)
    for _ in range(half + 1):
        rank.forward(0)
        rank.forward(1)
    for _ in range(inner):
        rank.backward(1, split=True)
        rank.weight()
        rank.forward(1)
    for turn in range(microbatches - 2 * depth + half + 1):
        if turn == 0 and inner == 0:  # the innermost rank runs its first pair apart: the backward would wait
            rank.forward(0)
            rank.backward(1)
        else:
            rank.both(0)
        rank.both(1)
    for _ in range(inner):
        rank.backward(1)
        rank.both(1)
    split = False
    for turn in range(half + 1):  # the second half of these backwards is split
        split = split or (turn == (half + 1) // 2 and half % 2 == 1)
        rank.backward(1, split)
        split = split or (turn == (half + 1) // 2 and half % 2 == 0)
        rank.backward(0, split)
    for _ in range(inner):
        rank.weight()
        rank.backward(0, split=True)
    while rank.weights:
        rank.weight()
    return rank.tasks


@register(
    "dualpipe",
    kind="schedule",
    area="training",
    family="pipeline",
    cites=_CITES,
    catalogue=_ROW,
    claims=(
        Claim("bubble (p/2−1)(F&B+B−3W), parameters 2×, activations p+1", "github.com/deepseek-ai/DualPipe README"),
    ),
    validated_by="published",
)
class DualPipe:
    """Micro-batches enter at both ends; forward and backward of opposite directions overlap (DeepSeek-V3)."""

    name = "dualpipe"

    def traits(self) -> ScheduleTraits:
        """Chunk 0 serves the way down, chunk 1 the way up: each rank holds two stages."""

        def stage(rank: int, chunk: int, ranks: int, chunks: int) -> int:
            return rank if chunk == 0 else ranks - 1 - rank

        return ScheduleTraits(virtual_stage=stage, weight_copies=2, splits_backward=True)

    def check(self, ranks: int, microbatches: int, chunks: int) -> str:
        """Even ranks, even micro-batches, at least two per rank."""
        reasons = (
            positive(ranks, microbatches, chunks),
            only_one_chunk(self.name, chunks, "dualpipev"),
            even(self.name, "pipeline ranks", ranks),
            even(self.name, "micro-batches", microbatches),
            _enough(self.name, microbatches, 2 * ranks),
        )
        return next((reason for reason in reasons if reason), "")

    def order(self, ranks: int, microbatches: int, chunks: int) -> Sequence[Sequence[Action]]:
        """Tasks of every rank."""
        orders = []
        for rank in range(ranks):
            up = rank >= ranks // 2
            start = (microbatches // 2, 0) if up else (0, microbatches // 2)
            tasks = _Rank(start, (1, 0) if up else (0, 1))
            orders.append(_dual_order(tasks, min(rank, ranks - 1 - rank), ranks // 2, microbatches // 2))
        return orders


@register(
    "dualpipev",
    kind="schedule",
    area="training",
    family="pipeline",
    cites=(*_CITES, "Sea AI Lab, DualPipe could be better without the Dual (cut-in-half)"),
    catalogue=_ROW,
    validated_by="closed_form",
)
class DualPipeV:
    """DualPipe folded in half: V placement, no second copy of the parameters."""

    name = "dualpipev"

    def traits(self) -> ScheduleTraits:
        """Two chunks per rank, folded."""
        return ScheduleTraits(virtual_stage=v_placement, splits_backward=True)

    def check(self, ranks: int, microbatches: int, chunks: int) -> str:
        """Two chunks, at least two micro-batches per rank."""
        reasons = (
            positive(ranks, microbatches, chunks),
            exact_chunks(self.name, chunks, 2),
            _enough(self.name, microbatches, 2 * ranks),
        )
        return next((reason for reason in reasons if reason), "")

    def order(self, ranks: int, microbatches: int, chunks: int) -> Sequence[Sequence[Action]]:
        """Tasks of every rank."""
        return [_dual_order(_Rank((0, 0), (0, 1)), rank, ranks, microbatches) for rank in range(ranks)]


def _enough(name: str, microbatches: int, least: int) -> str:
    return (
        ""
        if microbatches >= least
        else f"{name} needs at least {least} micro-batches, have {microbatches}: use {least}"
    )
