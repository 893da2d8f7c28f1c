"""The seams of serving: what iterations cost, and what batching, cache, routing and admission policies must offer."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

__all__ = [
    "FOREVER", "AdmissionPolicy", "BatchPlan", "BatchPolicy", "BatchShape", "CacheTier", "IterationCost",
    "KVCachePolicy", "Moves", "PipelinedIterationCost", "ReplicaView", "RequestState", "Router", "Segment",
]  # fmt: skip


FOREVER: Final = 1 << 60
"""Iterations of a segment, or sequences of a limit, that never end."""


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


@runtime_checkable
class DraftingIterationCost(IterationCost, Protocol):
    """A cost whose iterations yield one token per sequence, a share of an engine's, which yields more."""

    @property
    def yielded(self) -> float:
        """Tokens per sequence of an iteration of the engine, on average."""

    def ahead(self, batch: BatchShape) -> float:
        """What an iteration of the engine lasts longer than ``iteration`` says, for the tokens beyond the first [s]."""


class RequestState:
    """A request as policies see it (mutable; owned by the replica).

    While it decodes, its progress is kept for the whole batch at once and ``produced`` is that of the moment it
    joined; :meth:`ReplicaView.produced` is up to date.
    """

    __slots__ = (
        "arrival", "blocks", "cached_tokens", "client", "computed_tokens", "data", "finish_at", "first_token", "holds",
        "index", "input_tokens", "last_token", "matched", "offset", "output_tokens", "preemptions", "prefix",
        "priority", "produced", "queued", "registered", "replica", "scheduled", "session",
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
        self.data: Any = None
        """Whatever the batching policy keeps of it."""
        self.prefix: tuple[list[int], list[int]] | None = None
        """Ids of its prompt's blocks and the tokens up to the end of each, where prefixes are cached."""
        self.cached_tokens = 0
        """Prompt tokens found in the prefix cache, over all its admissions."""
        self.matched: tuple[Any, Any] | None = None
        """What the last look-up found: cached blocks, and runs of blocks in slower tiers."""
        self.holds: Sequence[Any] = ()
        """Cached blocks it holds."""
        self.registered = 0
        """Blocks of its prompt up to which it has entered them in the cache."""
        self.queued = 0
        """Prompt tokens it counts for in the replica's ``queued_tokens``."""

    @property
    def prefill_target(self) -> int:
        """Tokens to compute before the next output token: the prompt, and after a preemption what had been produced."""
        return self.input_tokens + self.produced

    @property
    def remaining_prefill(self) -> int:
        """Prompt tokens still to compute."""
        left = self.input_tokens + self.produced - self.computed_tokens
        return left if left > 0 else 0


class ReplicaView(Protocol):
    """What policies may see of a replica, and the one thing a batch policy may ask of it."""

    index: int
    block_size: int
    max_num_batched_tokens: int
    max_num_seqs: int
    max_model_len: int
    max_batch_seqs: int
    """Sequences in one micro-batch: ``max_num_seqs`` over the pipeline stages."""
    kv_blocks: int
    """KV blocks there are."""
    watermark_blocks: int
    """Blocks an admission must leave free."""
    waiting: deque[RequestState]
    """First come first; preempted requests at the front."""
    prefilling: list[RequestState]
    """Admitted, prompt not complete, not in flight."""
    running: int
    """Requests that hold KV blocks."""
    paused: list[RequestState]
    """Requests that hold KV blocks but sit out the decoding, by a policy's wish."""
    swapped: deque[RequestState]
    """Requests whose keys and values are in host memory."""
    host_free_blocks: int
    """KV blocks host memory has room for; 0 where nothing is swapped."""
    queued_tokens: int
    """Prompt tokens of requests whose prefill is not complete, less what the cache held when they came."""

    @property
    def iterations(self) -> int:
        """Iterations that have ended."""

    @property
    def decoding(self) -> list[RequestState]:
        """Requests that decode and are not in flight, in no particular order."""

    def predict(self, batch: BatchShape) -> float:
        """Duration of one iteration [s]."""

    def look_up(self, request: RequestState) -> int:
        """Prompt tokens that the prefix cache holds of a waiting request; its ``computed_tokens`` is set to them."""

    def cached_prefix(self, request: RequestState, now: float) -> int:
        """Prompt tokens the prefix cache holds of any request, for routers; changes nothing."""

    def kv_blocks_at(self, now: float) -> int:
        """KV blocks held, those of the iterations of a running jump included."""

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
        """KV blocks that admitting ``request`` takes; looks its prompt up in the prefix cache."""

    def held(self, request: RequestState) -> int:
        """KV blocks ``request`` holds, or held when it was swapped out."""

    def frees(self, request: RequestState) -> int:
        """KV blocks that come free when ``request`` loses its own; shared ones do not."""

    def produced(self, request: RequestState) -> int:
        """Output tokens of ``request`` so far."""

    def secure_decodes(self) -> int:
        """Give every decoding request the block of its next token, preempting the latest arrivals if need be.

        Returns the number of requests that can decode now.
        """


class Moves(NamedTuple):
    """Changes of who decodes, made before an iteration starts.

    Where requests are swapped out or preempted the policy is asked again afterwards, with their blocks free, and the
    rest of the plan is not used.

    Attributes
    ----------
    pause
        Decoding requests that sit out from now on and keep their blocks.
    resume
        Paused or swapped requests that decode again; the keys and values of swapped ones are copied back first.
    swap_out
        Decoding or paused requests whose keys and values go to host memory.
    preempt
        Requests that lose their blocks, to start over with what they had produced as part of the prompt.
    """

    pause: Sequence[RequestState] = ()
    resume: Sequence[RequestState] = ()
    swap_out: Sequence[RequestState] = ()
    preempt: Sequence[RequestState] = ()


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
    until
        Ask again at the first iteration boundary at or after this time [s].
    moves
        Requests to pause, resume, swap or preempt first.
    """

    prefill: Sequence[tuple[RequestState, int]] = ()
    decode: bool = True
    horizon: int = 1 << 60
    padded: bool = False
    wake: float = math.inf
    until: float = math.inf
    moves: Moves | None = None


class BatchPolicy(Protocol):
    """Chooses what the next iteration computes."""

    name: str
    release_together: bool
    """Whether requests that are prefilled together also end together (batches without early exit)."""
    kv_policy: str
    """Registered KV cache policy it is used with unless the deployment names another."""
    decodes_when_idle: bool
    """Whether its plan is ``BatchPlan()`` whenever nobody waits or prefills; it is then not asked."""
    moves_requests: bool
    """Whether it says itself who is paused and swapped; otherwise swapped requests come back first come first."""

    def schedule(self, replica: ReplicaView, now: float) -> BatchPlan:
        """The next iteration; may be asked again with unchanged state."""

    def arrival_matters(self, replica: ReplicaView) -> bool:
        """Whether the request just appended to ``replica.waiting`` could change the running plan."""

    def longest_prefill(self, replica: ReplicaView) -> int:
        """Longest prompt that can ever be scheduled [tokens]; longer ones are rejected."""


@dataclass(frozen=True)
class CacheTier:
    """A slower home of cached prefixes.

    Attributes
    ----------
    name
        ``host``, ``nvme``, ``remote`` ...
    capacity
        [B]; per replica, or of all together where ``shared``.
    bandwidth
        Into the accelerators of a replica [B/s].
    latency
        Of one load [s].
    shared
        Whether all replicas use the same store (Mooncake's pool, an LMCache server).
    """

    name: str
    capacity: float
    bandwidth: float
    latency: float = 0.0
    shared: bool = False


class KVCachePolicy(Protocol):
    """Decides how many blocks a request holds, and what of finished ones is kept for others."""

    name: str
    grows: bool
    """Whether a request holds the blocks of its prompt from admission on and takes further ones one by one; then
    :meth:`reserved_tokens` is its ``prefill_target``."""
    prefix_caching: bool
    """Whether blocks of prompts stay for later requests with the same beginning."""
    modular: bool
    """Whether a cached block serves wherever the prompt has it, not only in an unbroken run from its start."""
    tiers: Sequence[CacheTier]
    """Where cached prefixes also are, nearest first."""
    layerwise: bool
    """Whether loads from tiers run beside the computation, layer by layer."""

    def reserved_tokens(self, request: RequestState, max_model_len: int) -> int:
        """Tokens to hold blocks for from admission on."""


class AdmissionPolicy(Protocol):
    """Refuses requests that had better not be served at all."""

    name: str

    def refuse(self, request: RequestState, replica: ReplicaView, now: float) -> str:
        """Empty, or why ``request``, about to join ``replica``, is refused."""


class Router(Protocol):
    """Chooses the replica of an arriving request."""

    name: str

    def route(self, request: RequestState, replicas: Sequence[ReplicaView], now: float) -> int:
        """Index of the replica."""
