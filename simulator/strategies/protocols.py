"""The seams: what a pass, a schedule, a policy and a planner must offer.

Mechanisms (``training/``, ``serving/``, ``cluster/``) call strategies only through these protocols; concrete
strategies live in the family folders beside this file, one registered class each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from simulator.results.estimate import Estimate
    from simulator.workload.framework import Framework
    from simulator.workload.model import ModelSpec
    from simulator.workload.ops import Block
    from simulator.workload.plan import Plan

__all__ = [
    "Action", "ActionKind", "BatchPolicy", "BatchShape", "IterationCost", "Pass", "PassStage", "PipelineSchedule", "Planner", "ReplicaView",
    "RequestState", "Router", "ScheduleTraits", "Segment",
]  # fmt: skip


# -- passes ------------------------------------------------------------------------------------------------------


class PassStage(IntEnum):
    """Fixed order of the passes; inside a stage they commute."""

    PARTITION = 0
    PRECISION = 1
    STATE = 2
    RECOMPUTE = 3
    OFFLOAD = 4
    COMMUNICATION = 5


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
    occupy the link, not the compute stream.
    """

    FORWARD = "F"
    BACKWARD = "BW"
    INPUT_GRADIENT = "B"
    WEIGHT_GRADIENT = "W"
    EVICT = "E"
    LOAD = "L"


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
        Copies of the parameters a rank keeps (2 for bidirectional schedules).
    weight_versions
        ``(rank, ranks) → versions`` of the weights kept by asynchronous schedules (1 = synchronous).
    flush
        Whether a step ends with a pipeline flush.
    splits_backward
        Uses INPUT_GRADIENT and WEIGHT_GRADIENT.
    items_per_microbatch
        Pieces a micro-batch is cut into along its tokens (TeraPipe); actions number the pieces.
    partner
        ``(rank, ranks) → rank`` that keeps evicted activations, where EVICT and LOAD are used.
    """

    virtual_stage: Callable[[int, int, int, int], int]
    weight_copies: int = 1
    weight_versions: Callable[[int, int], int] = lambda rank, ranks: 1
    flush: bool = True
    splits_backward: bool = False
    items_per_microbatch: int = 1
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


# -- serving -----------------------------------------------------------------------------------------------------


class BatchShape(NamedTuple):
    """What one serving iteration processes.

    Attributes
    ----------
    prefill
        ``(chunk, context)`` per prefilling request: new tokens, and tokens of it already in the cache.
    decodes
        Number of decoding requests (one token each).
    decode_context
        Sum of their contexts [tokens], including the token being processed.
    decode_max_context
        The longest of them, for windows.
    """

    prefill: tuple[tuple[int, int], ...]
    decodes: int
    decode_context: int
    decode_max_context: int = 0

    @property
    def tokens(self) -> int:
        """Tokens that pass through the linear layers."""
        return self.decodes + sum(chunk for chunk, _ in self.prefill)


class Segment(NamedTuple):
    """Durations of the next iterations of an unchanged decode batch: iteration i takes ``base + slope·i`` [s].

    ``valid`` iterations at least, i = 0 .. valid−1; ``valid`` >= 1.
    """

    base: float
    slope: float
    valid: int


class IterationCost(Protocol):
    """Seconds of serving iterations on one replica."""

    def iteration(self, batch: BatchShape) -> float:
        """Duration of one iteration [s]."""

    def decode_segment(self, batch: BatchShape) -> Segment:
        """Durations while only ``batch``'s decodes run and each context grows by one per iteration."""


class RequestState:
    """A request as a batch policy sees it (mutable; owned by the replica)."""

    __slots__ = (
        "arrival", "cached_tokens", "client", "computed_tokens", "finish", "first_token", "index", "input_tokens",
        "last_token", "output_tokens", "preemptions", "priority", "produced", "scheduled", "session",
    )  # fmt: skip

    def __init__(
        self,
        index: int,
        arrival: float,
        input_tokens: int,
        output_tokens: int,
        priority: int = 0,
        client: int = 0,
        session: int = -1,
    ) -> None:
        self.index = index
        self.arrival = arrival
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens
        self.priority = priority
        self.client = client
        self.session = session
        self.computed_tokens = 0
        """Tokens whose keys and values are in the cache."""
        self.cached_tokens = 0
        """Of these, taken from a prefix cache."""
        self.produced = 0
        """Output tokens so far."""
        self.preemptions = 0
        self.scheduled = -1.0
        self.first_token = -1.0
        self.last_token = -1.0
        self.finish = -1.0

    @property
    def prefill_target(self) -> int:
        """Tokens to compute before the next output token: the prompt, and after a preemption what had been produced."""
        return self.input_tokens + self.produced

    @property
    def remaining_prefill(self) -> int:
        """Prompt tokens still to compute."""
        return max(0, self.prefill_target - self.computed_tokens)


class ReplicaView(Protocol):
    """What a batch policy may ask of the replica's KV cache."""

    max_num_batched_tokens: int
    max_num_seqs: int
    max_model_len: int

    def can_allocate(self, request: RequestState, tokens: int) -> bool:
        """Whether blocks for ``tokens`` further tokens of ``request`` are free."""

    def free_tokens(self) -> int:
        """Tokens that free blocks could hold."""


class BatchPolicy(Protocol):
    """Chooses what the next iteration computes."""

    name: str

    def schedule(
        self, waiting: Sequence[RequestState], running: Sequence[RequestState], kv: ReplicaView, now: float
    ) -> Mapping[RequestState, int]:
        """Tokens to compute for each chosen request in the next iteration."""

    def horizon(
        self, waiting: Sequence[RequestState], running: Sequence[RequestState], kv: ReplicaView, now: float
    ) -> int:
        """Iterations for which ``schedule`` would answer the same if nothing arrives or finishes; 1 = ask every time."""


class Router(Protocol):
    """Chooses the replica of an arriving request."""

    name: str

    def route(self, request: RequestState, replicas: Sequence[object], now: float) -> int:
        """Index of the replica."""


# -- planners ----------------------------------------------------------------------------------------------------


class Planner(Protocol):
    """Searches plans; ``evaluate`` is handed in from above."""

    name: str

    def search(self, problem: object, evaluate: Callable[[Plan], Estimate]) -> list[tuple[Plan, Estimate]]:
        """Plans with their estimates, best first."""
