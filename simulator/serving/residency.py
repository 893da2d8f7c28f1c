"""How requests of a replica come by KV blocks and lose them: admission, growth, preemption, swapping and pausing."""

from __future__ import annotations

from collections import deque

from simulator.serving.decode_group import DecodeGroup
from simulator.serving.holdings import Holdings
from simulator.strategies.protocols import BatchPlan, Moves, RequestState

__all__ = ["Residency", "by_arrival"]


class Residency(Holdings):
    """The part of a replica that says who comes in, who grows and who steps out."""

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
