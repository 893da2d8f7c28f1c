"""The seams: what a pass, a schedule, a policy and a planner must offer.

Mechanisms (``training/``, ``serving/``, ``cluster/``) call strategies only through these protocols; concrete
strategies live in the family folders beside this file, one registered class each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from simulator.strategies.serving_protocols import (
    AdmissionPolicy,
    BatchPlan,
    BatchPolicy,
    BatchShape,
    CacheTier,
    IterationCost,
    KVCachePolicy,
    Moves,
    PipelinedIterationCost,
    ReplicaView,
    RequestState,
    Router,
    Segment,
)

if TYPE_CHECKING:
    from simulator.results.estimate import Estimate
    from simulator.workload.framework import Framework
    from simulator.workload.model import ModelSpec
    from simulator.workload.ops import Block
    from simulator.workload.plan import Plan

__all__ = [
    "Action", "ActionKind", "AdmissionPolicy", "BatchPlan", "BatchPolicy", "BatchShape", "CacheTier",
    "Communicating", "CommunicationTraits", "IterationCost", "KVCachePolicy", "Moves", "Noted", "Pass", "PassStage",
    "PipelineSchedule", "PipelinedIterationCost", "Planner", "ReplicaView", "RequestState", "Router",
    "ScheduleTraits", "Segment",
]  # fmt: skip


# -- passes ------------------------------------------------------------------------------------------------------


class PassStage(IntEnum):
    """Fixed order of the passes; inside a stage they commute."""

    MODEL = -1
    PARTITION = 0
    PRECISION = 1
    STATE = 2
    RECOMPUTE = 3
    OFFLOAD = 4
    COMMUNICATION = 5


@dataclass(frozen=True)
class CommunicationTraits:
    """How gradients leave a rank; the plain values are those of a framework that overlaps per layer.

    Attributes
    ----------
    bucket
        Bytes that are bundled before they leave, and largest message [B]; 0 = one message per block.
    cuts
        Whether a parameter larger than a bucket travels in several messages.
    piece
        Size of the pieces each block's gradients are cut into [B]; 0 = whole.
    first_needed_first
        What the next forward needs first overtakes the rest, at the borders of pieces.
    crosses_steps
        The next forward starts when its own parameters are there, not when all gradients are.
    exchanges_first
        All-to-alls of the backward go before pieces of reductions on their link; otherwise both share it.
    deferred_layers
        Layers whose weight gradients run after all input gradients (out-of-order backpropagation).
    fused_pieces
        Pieces in which reduction and update are pipelined in one kernel; 0 = the update waits for all reductions.
    overlaps
        Whether reductions run beside the backward: None = as the framework does.
    pipeline_split
        Whether tensor-parallel ranks send slices of a pipeline message and join them: None = as the framework does.
    pipeline_volume
        Bytes of a gradient sent between stages over those of the plain tensor.
    straggling
        Time until the slowest replica that is waited for is done, over that of the one that is priced.
    """

    bucket: float = 0.0
    cuts: bool = True
    piece: float = 0.0
    first_needed_first: bool = False
    crosses_steps: bool = False
    exchanges_first: bool = False
    deferred_layers: int = 0
    fused_pieces: int = 0
    overlaps: bool | None = None
    pipeline_split: bool | None = None
    pipeline_volume: float = 1.0
    straggling: float = 1.0


@runtime_checkable
class Communicating(Protocol):
    """A communication pass that also says how gradients leave a rank."""

    def traits(self, plan: Plan) -> CommunicationTraits:
        """Facts for the link queue."""


@runtime_checkable
class Noted(Protocol):
    """A strategy that costs something the three currencies do not show: quality, staleness, extra machines."""

    def notes(self, plan: Plan) -> tuple[str, ...]:
        """Sentences for :attr:`Estimate.warnings`."""


class Pass(Protocol):
    """A rewriting of one block's Ops: ``(ops, plan) → ops``."""

    name: str
    stage: PassStage

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """Empty, or why the plan does not work for this model and what would."""

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """The rewritten block."""


# -- pipeline schedules ------------------------------------------------------------------------------------------


class ActionKind(StrEnum):
    """One task of a pipeline rank: forward, whole backward, input gradient only, weight gradient only.

    ``EVICT`` and ``LOAD`` send the activations of a micro-batch to the partner rank and fetch them back; they
    occupy the link, not the compute stream. ``RECOMPUTE`` runs the forward of a micro-batch again by itself, before its
    gradient arrives; its backward is then without it.
    """

    FORWARD = "F"
    BACKWARD = "BW"
    INPUT_GRADIENT = "B"
    WEIGHT_GRADIENT = "W"
    EVICT = "E"
    LOAD = "L"
    RECOMPUTE = "R"


class Action(NamedTuple):
    """``kind`` of micro-batch ``microbatch`` on model chunk ``chunk`` (0 .. chunks−1 of this rank).

    ``with_next``: a forward that runs mutually overlapped with the backward that follows it in the order.
    """

    kind: ActionKind
    microbatch: int
    chunk: int = 0
    with_next: bool = False


@dataclass(frozen=True)
class ScheduleTraits:
    """Facts of a schedule the executor and the memory timeline need.

    Attributes
    ----------
    virtual_stage
        ``(rank, chunk, ranks, chunks) → position in the model``: which part of the model a chunk holds.
        Interleaved: chunk·ranks + rank. V-shaped schedules fold back.
    weight_copies
        Copies of the model that share the ranks (2 for bidirectional schedules).
    replicas
        Copies of all states of its stage that a rank keeps, each with an optimizer of its own.
    weight_versions
        ``(rank, ranks) → versions`` of its weights a rank keeps for an asynchronous schedule (1 = synchronous; a
        fraction where only some chunks are kept twice).
    flush
        Whether a step ends with a pipeline flush.
    updates, reductions
        ``micro-batches → how often`` a rank updates its weights in a step, and its replicas exchange gradients.
    splits_backward
        Uses INPUT_GRADIENT and WEIGHT_GRADIENT.
    recomputes
        Uses RECOMPUTE.
    items_per_microbatch
        Pieces a micro-batch is cut into along its tokens (TeraPipe); actions number the pieces.
    second_order
        K-FAC work fills the bubbles.
    stages
        Virtual stages of the model where ranks hold unlike numbers of them; 0: as many on each.
    partner
        ``(rank, ranks) → rank`` that keeps evicted activations, where EVICT and LOAD are used.
    """

    virtual_stage: Callable[[int, int, int, int], int]
    weight_copies: int = 1
    replicas: int = 1
    weight_versions: Callable[[int, int], float] = lambda rank, ranks: 1
    flush: bool = True
    updates: Callable[[int], int] = lambda microbatches: 1
    reductions: Callable[[int], int] = lambda microbatches: 1
    splits_backward: bool = False
    recomputes: bool = False
    items_per_microbatch: int = 1
    second_order: bool = False
    stages: int = 0
    partner: Callable[[int, int], int] | None = None


@runtime_checkable
class PipelineSchedule(Protocol):
    """Order of tasks on every pipeline rank; one executor runs every order."""

    name: str

    def traits(self) -> ScheduleTraits:
        """Facts of the schedule."""

    def check(self, ranks: int, microbatches: int, chunks: int) -> str:
        """Empty, or why these sizes do not work and which near ones do."""

    def order(self, ranks: int, microbatches: int, chunks: int) -> Sequence[Sequence[Action]]:
        """Actions of every rank in the order it executes them."""


# -- planners ----------------------------------------------------------------------------------------------------


class Planner(Protocol):
    """Searches plans; ``evaluate`` is handed in from above."""

    name: str

    def search(self, problem: object, evaluate: Callable[[Plan], Estimate]) -> list[tuple[Plan, Estimate]]:
        """Plans with their estimates, best first."""
