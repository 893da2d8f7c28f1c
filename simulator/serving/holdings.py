"""Which requests of a replica wait, run and hold KV blocks, as policies see it."""

from __future__ import annotations

from collections import deque

from simulator.serving.decode_group import DecodeGroup
from simulator.serving.flight import Flight
from simulator.serving.kv_cache import BlockPool
from simulator.serving.limits import EngineLimits
from simulator.serving.prefix_cache import PrefixPool, TierStore
from simulator.serving.usage import ReplicaUsage
from simulator.strategies.protocols import BatchShape, IterationCost, KVCachePolicy, RequestState

__all__ = ["Holdings"]


class Holdings:
    """The part of a replica that knows who is where, and what policies may ask of it.

    Parameters
    ----------
    index
        Number of the replica in its deployment.
    limits, cost, kv_policy
        Sizes, iteration times, cache policy.
    tiers
        Stores of cached prefixes beyond the accelerators' memory.
    """

    def __init__(
        self, index: int, limits: EngineLimits, cost: IterationCost, kv_policy: KVCachePolicy,
        tiers: tuple[TierStore, ...] = (),
    ) -> None:  # fmt: skip
        self.index = index
        self.cost = cost
        self.kv_policy = kv_policy
        self.block_size = limits.block_size
        self.max_num_batched_tokens = limits.max_num_batched_tokens
        self.max_num_seqs = limits.max_num_seqs
        self.max_model_len = limits.max_model_len
        self.stages = limits.pipeline_stages
        self.max_batch_seqs = max(1, limits.max_num_seqs // limits.pipeline_stages)
        self.cache: PrefixPool | None = None
        if kv_policy.prefix_caching:
            self.cache = PrefixPool(
                limits.kv_blocks, limits.block_size, limits.watermark, modular=kv_policy.modular, tiers=tiers
            )
        self.pool: BlockPool = self.cache or BlockPool(limits.kv_blocks, limits.block_size, limits.watermark)
        self.kv_blocks = limits.kv_blocks
        self.watermark_blocks = self.pool.watermark_blocks
        self.waiting: deque[RequestState] = deque()
        self.prefilling: list[RequestState] = []
        self.paused: list[RequestState] = []
        self.swapped: deque[RequestState] = deque()
        self.running = 0
        self.queued_tokens = 0
        self.usage = ReplicaUsage(index)
        self.host_free_blocks = limits.host_blocks
        self._swaps = limits.preemption == "swap"
        self._host_block_time = limits.host_block_seconds
        self._on_host: dict[int, int] = {}
        self._stall = 0.0
        """Copies the next iteration has to wait for [s]."""
        self._beside = 0.0
        """Copies that run beside the next iteration [s]."""
        self._grows = kv_policy.grows
        self._decoding = DecodeGroup(limits.block_size, self._grows)
        self._flights: deque[Flight] = deque()

    # -- what policies see ---------------------------------------------------------------------------------------

    @property
    def decodes(self) -> int:
        """Decoding requests that are not in flight."""
        return self._decoding.count

    @property
    def decoding(self) -> list[RequestState]:
        """Requests that decode and are not in flight, in no particular order."""
        return self._decoding.members

    @property
    def outstanding(self) -> int:
        """Requests that wait or run."""
        return len(self.waiting) + self.running + len(self.swapped)

    @property
    def free_blocks(self) -> int:
        """KV blocks nobody holds."""
        return self.pool.total - self.pool.used

    def kv_blocks_at(self, now: float) -> int:
        """KV blocks held, those of the iterations of a running jump included."""
        return self.pool.used + self._grown(now)

    def _grown(self, now: float) -> int:
        """Blocks a running jump has opened that are not yet booked."""
        if not self._grows or not self._flights:
            return 0
        flight = self._flights[0]
        if flight.iterations == 1 or flight.group is None:
            return 0
        return flight.group.growth(flight.boundary_after(now))[0]

    def predict(self, batch: BatchShape) -> float:
        """Duration of one iteration [s]."""
        return self.cost.iteration(batch)

    def look_up(self, request: RequestState) -> int:
        """Prompt tokens that the prefix cache holds of a waiting request; its ``computed_tokens`` is set to them."""
        cache = self.cache
        if cache is not None and request.prefix is not None:
            found = cache.match(request)
            tokens = cache.usable(request, found)
            runs = cache.stored(request, found)
            if runs:
                end = request.prefix[1][runs[-1][2] - 1]
                tokens = min(end, request.prefill_target - 1) // self.block_size * self.block_size
            request.matched = (found, runs)
            request.computed_tokens = tokens
        return request.computed_tokens

    def cached_prefix(self, request: RequestState, now: float) -> int:
        """Prompt tokens the prefix cache holds of any request, for routers; changes nothing."""
        cache = self.cache
        if cache is None or request.prefix is None:
            return 0
        more = self._grown(now)
        if more:
            cache.trim(more)
        return cache.usable(request, cache.match(request))

    def blocks_for(self, request: RequestState) -> int:
        """KV blocks that admitting ``request`` takes; looks its prompt up in the prefix cache."""
        if self._grows:
            blocks = -(-(request.input_tokens + request.produced) // self.block_size)
        else:
            blocks = -(-self.kv_policy.reserved_tokens(request, self.max_model_len) // self.block_size)
        self.look_up(request)
        if request.matched:
            blocks -= sum(block.blocks for block in request.matched[0] if block.references)
        return blocks

    def produced(self, request: RequestState) -> int:
        """Output tokens of ``request`` so far."""
        return self._decoding.produced(request) if request.finish_at > self._decoding.clock else request.produced

    def held(self, request: RequestState) -> int:
        """KV blocks ``request`` holds before that of its next token, or held when it was swapped out."""
        if request.index in self._on_host:
            return self._on_host[request.index]
        if request.blocks == 0 or not self._grows or request.computed_tokens < request.input_tokens:
            return request.blocks
        group = self._decoding
        context = request.offset + group.clock if request.finish_at > group.clock else request.prefill_target
        return max(request.blocks, -(-(context - 1) // self.block_size))
