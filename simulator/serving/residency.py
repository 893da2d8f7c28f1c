"""Which requests of a replica hold KV blocks: admission, growth, preemption, swapping and pausing."""

from __future__ import annotations

from collections import deque

from simulator.serving.decode_group import DecodeGroup
from simulator.serving.flight import Flight
from simulator.serving.kv_cache import BlockPool
from simulator.serving.limits import EngineLimits
from simulator.serving.prefix_cache import PrefixPool, TierStore
from simulator.serving.usage import ReplicaUsage
from simulator.strategies.protocols import BatchPlan, BatchShape, IterationCost, KVCachePolicy, Moves, RequestState

__all__ = ["Residency", "by_arrival"]


class Residency:
    """The part of a replica that knows who is where.

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

    # -- admission -----------------------------------------------------------------------------------------------

    def _admit(self, plan: BatchPlan, now: float) -> tuple[tuple[int, int], ...]:
        """Give waiting requests of ``plan`` their blocks; returns ``(chunk, context)`` of all prefills."""
        waiting, pool = self.waiting, self.pool
        chunks = []
        if self.cache is not None:
            self._share(plan)
        for request, tokens in plan.prefill:
            if request.blocks == 0:
                if waiting[0] is request:
                    waiting.popleft()
                else:
                    waiting.remove(request)
                if self._grows:
                    blocks = -(-(request.input_tokens + request.produced) // self.block_size)
                else:
                    blocks = -(-self.kv_policy.reserved_tokens(request, self.max_model_len) // self.block_size)
                request.blocks = blocks
                pool.allocate(blocks - sum([b.blocks for b in request.holds]) if request.holds else blocks)
                self.running += 1
                if request.scheduled < 0.0:
                    request.scheduled = now
            chunks.append((tokens, request.computed_tokens))
        if self.cache is not None:
            self._make_known(plan)
        if self.prefilling:
            chosen = {request.index for request, _ in plan.prefill}
            self.prefilling = [r for r in self.prefilling if r.index not in chosen]
        if plan.padded:
            longest = max(tokens for tokens, _ in chunks)
            return ((longest, 0),) * len(chunks)
        return tuple(chunks)

    def _share(self, plan: BatchPlan) -> None:
        """Newly admitted requests take hold of what is cached of them, before any room is made for others."""
        cache = self.cache
        assert cache is not None
        for request, _ in plan.prefill:
            if request.blocks == 0 and request.matched is not None:
                found = cache.still_known(request.matched[0])
                if len(found) < len(request.matched[0]):
                    # Running requests needed the room since the look-up; the chunk is the same, more follow it.
                    request.matched = (found, [])
                    request.computed_tokens = cache.usable(request, found)
                cache.hold(request, found)
                request.cached_tokens += request.computed_tokens
                self.usage.cached_tokens += request.computed_tokens

    def _make_known(self, plan: BatchPlan) -> None:
        """Blocks of this iteration's chunks can be shared from now on, and loads from tiers begin."""
        cache = self.cache
        assert cache is not None
        for request, tokens in plan.prefill:
            if request.matched is not None and request.prefix is not None:
                ids, ends = request.prefix
                for store, first, last in request.matched[1]:
                    size = ends[last - 1] - (ends[first - 1] if first else 0)
                    seconds = store.latency + size * store.seconds_per_token
                    self.usage.loaded_tokens += size
                    store.put(ids[:last], [e - b for e, b in zip(ends[:last], [0, *ends], strict=False)])
                    if self.kv_policy.layerwise:
                        self._beside += seconds
                    else:
                        self._stall += seconds
                request.matched = None
            cache.register(request, request.computed_tokens + tokens)

    # -- growth and preemption -----------------------------------------------------------------------------------

    def secure_decodes(self) -> int:
        """Take the blocks of the next token of every decoding request, preempting the latest arrivals if need be.

        A request goes on only while a block is free, even if its last one has room: the rule of vLLM 0.x and
        Sarathi-Serve.
        """
        group = self._decoding
        if not self._grows or group.secured == group.clock or not group.count:
            return group.count
        needed = group.crossings()
        if needed >= self.pool.total - self.pool.used:
            needed = self._preempt_for_decodes(group)
        if needed:
            self.pool.allocate(needed)
        if group.count:
            group.secured = group.clock
        return group.count

    def _preempt_for_decodes(self, group: DecodeGroup) -> int:
        """Preempt all-or-nothing, latest arrival first, until the rest can go on; returns the blocks they need."""
        idle = {*self.prefilling, *self.paused}
        queue = deque(sorted([*group.members, *idle], key=by_arrival))
        free = self.free_blocks
        needed = 0
        victims: list[RequestState] = []
        while queue:
            request = queue.popleft()
            if request in idle:
                continue
            while free - needed < 1:
                victim = queue.pop() if queue else request
                free += self.frees(victim)
                victims.append(victim)
                if victim is request:
                    break
            else:
                needed += (request.offset + group.clock - 1) % self.block_size == 0
        for victim in victims:
            self._displace(victim)
        return needed

    def frees(self, request: RequestState) -> int:
        """KV blocks that come free when ``request`` loses its own; shared ones do not."""
        shared: int = sum(b.blocks for b in request.holds if b.references > 1)
        return self.held(request) - shared

    def _displace(self, request: RequestState) -> None:
        """Preempt by swapping where that is wanted and possible, else by recomputation."""
        swap = self._swaps and request not in self.prefilling and self.host_free_blocks >= self.held(request)
        if swap:
            self._swap_out(request)
        else:
            self._preempt(request)

    def _step_out(self, request: RequestState) -> int:
        """Take a request out of the decoding, paused or prefilling ones; returns the blocks it holds."""
        held = self.held(request)
        if request in self.paused:
            self.paused.remove(request)
        elif request in self.prefilling:
            self.prefilling.remove(request)
        else:
            self._decoding.remove({request})
        return held

    def _give_back(self, request: RequestState, blocks: int) -> None:
        if self.cache is None:
            self.pool.release(blocks)
        else:
            self.cache.give_back(request, blocks)
        request.blocks = 0

    def _preempt(self, request: RequestState) -> None:
        complete = request not in self.prefilling
        held = self._step_out(request)
        lost = request.input_tokens + request.produced - 1 if complete else request.computed_tokens
        self._give_back(request, held)
        if not complete:
            self.queued_tokens -= request.queued
        request.computed_tokens = 0
        request.preemptions += 1
        self.usage.preemptions += 1
        self.usage.recomputed_tokens += lost
        self.running -= 1
        request.queued = request.input_tokens + request.produced
        self.queued_tokens += request.queued
        self.waiting.appendleft(request)

    # -- host memory ---------------------------------------------------------------------------------------------

    def _swap_out(self, request: RequestState) -> None:
        held = self._step_out(request)
        self._on_host[request.index] = held
        self.host_free_blocks -= held
        self._stall += held * self._host_block_time
        self._give_back(request, held)
        request.preemptions += 1
        self.usage.preemptions += 1
        self.usage.swapped_blocks += held
        self.running -= 1
        self.swapped.append(request)
        if len(self.swapped) > 1 and by_arrival(self.swapped[-2]) > by_arrival(request):
            self.swapped = deque(sorted(self.swapped, key=by_arrival))

    def _swap_in(self, request: RequestState) -> None:
        if self.swapped[0] is request:
            self.swapped.popleft()
        else:
            self.swapped.remove(request)
        held = self._on_host.pop(request.index)
        self.host_free_blocks += held
        self.pool.allocate(held)
        request.blocks = held
        self._stall += held * self._host_block_time
        self.usage.swapped_blocks += held
        self.running += 1
        self._decoding.join(request, request.last_token)

    def _swap_back(self) -> None:
        """First come first, while there is room above the watermark for one more token each."""
        room = self.free_blocks - self.watermark_blocks
        while self.swapped and self.running < self.max_num_seqs:
            needed = self._on_host[self.swapped[0].index] + 1
            if needed > room and self.running:
                return
            room -= needed
            self._release_secured()
            self._swap_in(self.swapped[0])

    # -- moves ---------------------------------------------------------------------------------------------------

    def _release_secured(self) -> None:
        """Give back the blocks of the coming tokens: who decodes is about to change."""
        group = self._decoding
        if self._grows and group.count and group.secured == group.clock:
            self.pool.release(group.crossings())
            group.secured = -1

    def _apply(self, moves: Moves) -> None:
        """Pause, resume, swap and preempt as a policy wants."""
        self._release_secured()
        stall = self._stall
        for request in moves.preempt:
            self._preempt(request)
        for request in moves.swap_out:
            step = self._swap_out if self.host_free_blocks >= self.held(request) else self._preempt
            step(request)
        if moves.pause:
            self._decoding.remove(set(moves.pause))
            self.paused.extend(moves.pause)
        for request in moves.resume:
            if request.index in self._on_host:
                self._swap_in(request)
            else:
                self.paused.remove(request)
                self._decoding.join(request, request.last_token)
        # Copies that were not forced by a full cache are made beside the computation.
        self._beside += self._stall - stall
        self._stall = stall

    def _copies(self, base: float) -> float:
        """Duration of an iteration with the copies it has to wait for [s]."""
        base = max(base, self._beside) + self._stall
        self._stall = self._beside = 0.0
        return base


def by_arrival(request: RequestState) -> tuple[float, int]:
    """Order of arrival, ties by row."""
    return request.arrival, request.index
