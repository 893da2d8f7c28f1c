"""The seams: what a pass, a schedule, a policy and a planner must offer.

Mechanisms (``training/``, ``serving/``, ``cluster/``) call strategies only through these protocols; concrete
strategies live in the family folders beside this file, one registered class each.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
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
    "Action", "ActionKind", "BatchPlan", "BatchPolicy", "BatchShape", "Communicating", "CommunicationTraits", "IterationCost", "KVCachePolicy", "Noted", "Pass",
    "PassStage", "PipelineSchedule", "PipelinedIterationCost", "Planner", "ReplicaView", "RequestState", "Router",
    "ScheduleTraits", "Segment",
]


# -- passes ------------------------------------------------------------------------------------------------------


class PassStage(IntEnum):
    """Fixed order of the passes; inside a stage they commute."""

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
    first_needed_first
        What the next forward needs first overtakes the rest, at the borders of buckets.
    crosses_steps
        The next forward starts when its own parameters are there, not when all gradients are.
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
    """

    bucket: float = 0.0
    first_needed_first: bool = False
    crosses_steps: bool = False
    deferred_layers: int = 0
    fused_pieces: int = 0
    overlaps: bool | None = None
    pipeline_split: bool | None = None
    pipeline_volume: float = 1.0


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
        ``(rank, ranks) → versions`` of its weights a rank keeps for an asynchronous schedule (1 = synchronous; a
        fraction where only some chunks are kept twice).
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
    weight_versions: Callable[[int, int], float] = lambda rank, ranks: 1
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
        """Duration of one iteration [s]; with pipeline stages, the way through all of them."""

    def decode_segment(self, batch: BatchShape) -> Segment:
        """Durations while only ``batch``'s decodes run and each context grows by one per iteration."""


@runtime_checkable
class PipelinedIterationCost(IterationCost, Protocol):
    """A cost that also knows what each pipeline stage takes; without it stages share ``iteration`` equally."""

    def stage_times(self, batch: BatchShape) -> Sequence[float]:
        """Time each stage is occupied by ``batch``, with its send to the next [s], one entry per stage."""


class RequestState:
    """A request as policies see it (mutable; owned by the replica).

    While it decodes, its progress is kept for the whole batch at once and ``produced`` is that of the moment it
    joined; :meth:`ReplicaView.produced` is up to date.
    """

    __slots__ = (
        "arrival", "blocks", "client", "computed_tokens", "finish_at", "first_token", "index", "input_tokens",
        "last_token", "offset", "output_tokens", "preemptions", "priority", "produced", "replica", "scheduled",
        "session",
    )

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
        """Tokens whose keys and values are in the cache, while it prefills."""
        self.produced = 0
        """Output tokens when it last joined or left a decode batch."""
        self.blocks = 0
        """KV blocks taken at admission; 0 while it waits."""
        self.finish_at = 0
        """Iteration count of its decode batch at which it ends."""
        self.offset = 0
        """Its context minus the iteration count of its decode batch."""
        self.preemptions = 0
        self.replica = -1
        self.scheduled = -1.0
        """First time in a batch [s], negative before."""
        self.first_token = -1.0
        self.last_token = -1.0

    @property
    def prefill_target(self) -> int:
        """Tokens to compute before the next output token: the prompt, and after a preemption what had been produced."""
        return self.input_tokens + self.produced

    @property
    def remaining_prefill(self) -> int:
        """Prompt tokens still to compute."""
        return max(0, self.prefill_target - self.computed_tokens)


class ReplicaView(Protocol):
    """What policies may see of a replica, and the one thing a batch policy may ask of it."""

    index: int
    block_size: int
    max_num_batched_tokens: int
    max_num_seqs: int
    max_model_len: int
    max_batch_seqs: int
    """Sequences in one micro-batch: ``max_num_seqs`` over the pipeline stages."""
    watermark_blocks: int
    """Blocks an admission must leave free."""
    waiting: deque[RequestState]
    """First come first; preempted requests at the front."""
    prefilling: list[RequestState]
    """Admitted, prompt not complete, not in flight."""
    running: int
    """Requests that hold KV blocks."""

    @property
    def decodes(self) -> int:
        """Decoding requests that are not in flight."""

    @property
    def outstanding(self) -> int:
        """Requests that wait or run."""

    @property
    def free_blocks(self) -> int:
        """KV blocks nobody holds."""

    def blocks_for(self, request: RequestState) -> int:
        """KV blocks that admitting ``request`` takes."""

    def produced(self, request: RequestState) -> int:
        """Output tokens of ``request`` so far."""

    def secure_decodes(self) -> int:
        """Give every decoding request the block of its next token, preempting the latest arrivals if need be.

        Returns the number of requests that can decode now.
        """


class BatchPlan(NamedTuple):
    """What the next iteration computes.

    Attributes
    ----------
    prefill
        ``(request, tokens)``: chunks of admitted requests and of waiting ones, which are thereby admitted.
    decode
        Whether all decoding requests take part.
    horizon
        Iterations for which the answer stays the same if nothing arrives, finishes or runs out of blocks.
    padded
        Whether prompts are padded to the longest of the batch.
    wake
        Where there is nothing to do: ask again at this time [s].
    """

    prefill: Sequence[tuple[RequestState, int]] = ()
    decode: bool = True
    horizon: int = 1 << 60
    padded: bool = False
    wake: float = math.inf


class BatchPolicy(Protocol):
    """Chooses what the next iteration computes."""

    name: str
    release_together: bool
    """Whether requests that are prefilled together also end together (batches without early exit)."""
    kv_policy: str
    """Registered KV cache policy it is used with unless the deployment names another."""

    def schedule(self, replica: ReplicaView, now: float) -> BatchPlan:
        """The next iteration; may be asked again with unchanged state."""

    def arrival_matters(self, replica: ReplicaView) -> bool:
        """Whether the request just appended to ``replica.waiting`` could change the running plan."""

    def longest_prefill(self, replica: ReplicaView) -> int:
        """Longest prompt that can ever be scheduled [tokens]; longer ones are rejected."""


class KVCachePolicy(Protocol):
    """Decides how many blocks a request holds."""

    name: str
    grows: bool
    """Whether decoding requests take further blocks one by one."""

    def reserved_tokens(self, request: RequestState, max_model_len: int) -> int:
        """Tokens to hold blocks for from admission on."""


class Router(Protocol):
    """Chooses the replica of an arriving request."""

    name: str

    def route(self, request: RequestState, replicas: Sequence[ReplicaView], now: float) -> int:
        """Index of the replica."""


# -- planners ----------------------------------------------------------------------------------------------------


class Planner(Protocol):
    """Searches plans; ``evaluate`` is handed in from above."""

    name: str

    def search(self, problem: object, evaluate: Callable[[Plan], Estimate]) -> list[tuple[Plan, Estimate]]:
        """Plans with their estimates, best first."""
