"""One replica of a deployment: queues, KV blocks and the iteration loop, as a plain state machine.

The machine is driven by whoever owns the clock: :meth:`Replica.submit` brings a request, :attr:`Replica.next_time` says
when it wants to be woken, :meth:`Replica.wake` ends what is in flight and starts the next iteration.

While only decodes run, many iterations are done in one jump: their durations are affine in the iteration number
(:class:`~simulator.strategies.protocols.Segment`), so the end of every one of them is known in closed form. A jump ends
at the first finish, where the KV cache would run out, where the policy's horizon or the segment ends, and at the
iteration boundary after an arrival that could change the plan. ``stride=1`` asks the policy before every iteration
instead and sums iteration by iteration; it takes the same decisions.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Mapping, Sequence

from simulator.serving.decode_group import DecodeGroup
from simulator.serving.flight import Flight, StageLine, Watcher
from simulator.serving.limits import EngineLimits
from simulator.serving.prefix_cache import TierStore
from simulator.serving.residency import Residency, by_arrival
from simulator.serving.token_gaps import record_gaps
from simulator.serving.usage import Progress
from simulator.strategies.protocols import (
    BatchPlan,
    BatchPolicy,
    BatchShape,
    IterationCost,
    KVCachePolicy,
    RequestState,
)
from simulator.strategies.serving_protocols import DraftingIterationCost

__all__ = ["EngineLimits", "Replica"]

DECODE = BatchPlan()


class Replica(Residency):
    """A model replica with its engine.

    Parameters
    ----------
    index
        Its number in the deployment.
    limits, cost, policy, kv_policy
        Sizes, iteration times, batching and cache policy.
    on_finish
        Called with every finished request and the time [s].
    stride
        1: one iteration at a time; ``None``: jumps.
    tiers
        Stores of cached prefixes beyond the accelerators' memory.
    """

    def __init__(
        self, index: int, limits: EngineLimits, cost: IterationCost, policy: BatchPolicy, kv_policy: KVCachePolicy,
        on_finish: Callable[[RequestState, float], None], stride: int | None = None,
        tiers: tuple[TierStore, ...] = (),
    ) -> None:  # fmt: skip
        super().__init__(index, limits, cost, kv_policy, tiers)
        self.policy = policy
        self.gaps = array("d")
        """Gaps between tokens, as of :mod:`simulator.serving.token_gaps`."""
        self.next_time = math.inf
        """When it wants to be woken [s]."""
        self.version = 0
        """Changes whenever ``next_time`` does."""
        self.watcher: Watcher | None = None
        """Told of every launch, and when nothing is in flight any more."""
        self._on_finish = on_finish
        # Swapped-out requests come back between decodes of others, which a jump cannot foresee.
        self._single = stride == 1 or limits.pipeline_stages > 1 or limits.preemption == "swap"
        self._together = policy.release_together
        self._spare = [DecodeGroup(limits.block_size, self._grows) for _ in range(limits.pipeline_stages)]
        self._pipeline = StageLine(cost, limits.pipeline_stages)
        alone = limits.pipeline_stages == 1 and not self._together
        drafts = cost if alone and isinstance(cost, DraftingIterationCost) else None
        self._drafts = drafts if drafts is not None and drafts.yielded != 1.0 else None
        self._spare_tokens = 0.0

    @property
    def iterations(self) -> int:
        """Iterations that have ended."""
        return self.usage.iterations

    # -- events --------------------------------------------------------------------------------------------------

    def submit(self, request: RequestState, now: float) -> None:
        """A request arrives; it takes part from the next iteration boundary on."""
        usage = self.usage
        elapsed = now - usage.until
        if elapsed > 0.0:
            usage.until = now
            if self._flights:
                usage.busy_time += elapsed
            usage.waiting_time += elapsed * (len(self.waiting) + len(self.swapped))
            usage.running_time += elapsed * self.running
            usage.kv_block_time += elapsed * self.pool.used
        request.replica = self.index
        request.queued = request.input_tokens
        if self.cache is not None:
            request.queued -= self.cached_prefix(request, now)
        self.queued_tokens += request.queued
        self.waiting.append(request)
        flights = self._flights
        if len(flights) < self.stages:
            self._set_next(now)
        elif not self._single and self.policy.arrival_matters(self):
            self.truncate(now)

    def truncate(self, now: float) -> None:
        """End a jump at the first iteration boundary at or after ``now``, because something changed."""
        if self._single or not self._flights:
            return
        flight = self._flights[0]
        if flight.iterations > 1:
            count = flight.boundary_after(now)
            if count < flight.iterations:
                flight.iterations = count
                flight.end = flight.boundary(count)
                self._set_next(flight.end)

    def wake(self, now: float, until: float = 0.0) -> None:
        """End what is due and start what can be started; go on alone while that comes before ``until`` [s]."""
        flights, usage, pool, stages = self._flights, self.usage, self.pool, self.stages
        policy = self.policy
        idles = policy.decodes_when_idle
        while True:
            elapsed = now - usage.until
            if elapsed > 0.0:
                usage.until = now
                if flights:
                    usage.busy_time += elapsed
                usage.waiting_time += elapsed * (len(self.waiting) + len(self.swapped))
                usage.running_time += elapsed * self.running
                usage.kv_block_time += elapsed * pool.used
            while flights and flights[0].end <= now:
                self._complete(flights.popleft())
            timer = math.inf
            while len(flights) < stages:
                if self.swapped and not policy.moves_requests:
                    self._swap_back()
                idle = idles and not self.waiting and not self.prefilling
                plan = DECODE if idle else policy.schedule(self, now)
                if not self._launch(plan, now):
                    timer = plan.wake
                    break
            time = flights[0].end if flights else timer
            if timer < time:
                time = timer
            usage.seen += 1
            if usage.seen >= usage.every:
                usage.sample(now, len(self.waiting) + len(self.swapped), self.running, pool.used)
            if not now < time < until:
                break
            now = time
        if time != self.next_time:
            self.next_time = time
            self.version += 1
        if self.watcher is not None and not flights:
            self.watcher.idle(now)

    def close_books(self, now: float) -> None:
        """Bring the usage up to date, for a report at ``now``."""
        self.usage.integrate(
            now, len(self.waiting) + len(self.swapped), self.running, self.pool.used, len(self._flights)
        )
        self.usage.kv_blocks_peak = self.pool.peak
        self.usage.kv_blocks_total = self.pool.total

    def progress(self, now: float) -> Progress:
        """By ``now``, with the part of what is in flight; nothing changes."""
        found, later = self.usage.progress, max(0.0, now - self.usage.until)
        busy, iterations, prefill, decode, held = found
        for flight in self._flights:
            part = min(1.0, (now - flight.start) / (flight.end - flight.start)) if flight.end > flight.start else 1.0
            iterations += part * flight.iterations
            prefill += part * sum(size for _, size in flight.prefill or ())
            decode += part * flight.iterations * (flight.group.count if flight.group is not None else 0)
        busy += later if self._flights else 0.0
        return Progress(busy, iterations, prefill, decode, held + later * self.pool.used)

    def _set_next(self, time: float) -> None:
        if time != self.next_time:
            self.next_time = time
            self.version += 1

    def _launch(self, plan: BatchPlan, now: float) -> bool:
        """Start what ``plan`` says; ``False`` where that is nothing."""
        group: DecodeGroup | None = self._decoding
        horizon = plan.horizon
        if plan.moves is not None:
            self._apply(plan.moves)
            if plan.moves.swap_out or plan.moves.preempt:
                # What came free is there to be given out.
                return self._launch(self.policy.schedule(self, now), now)
        if group is None or not plan.decode or not group.count:
            group = None
        elif group.secured != group.clock and self._grows:
            before = self.usage.preemptions
            remaining = self.secure_decodes()
            if self.usage.preemptions > before:
                # The victims wait now: the policy has not seen them yet.
                horizon = 1
                if not remaining or plan.prefill:
                    return self._launch(self.policy.schedule(self, now), now)
        if group is not None and self.stages > 1:
            group = self._take_group()
        chunks: tuple[tuple[int, int], ...] = ()
        if plan.prefill:
            chunks = self._admit(plan, now)
        elif group is None:
            return False
        iterations, slope, tokens = 1, 0.0, 1
        if group is None or chunks or self._single or self._stall or self._beside:
            shape = BatchShape(chunks, 0, 0) if group is None else group.shape(chunks)
            base = (
                self._copies(self.cost.iteration(shape)) if self._stall or self._beside else self.cost.iteration(shape)
            )
            if chunks and group is not None and self._drafts is not None:
                base, tokens = base + self._drafts.ahead(shape), self._tokens_beside(group, self._drafts.yielded)
            end = now + base if self.stages == 1 else self._pipeline.leave(shape, base, now)
        else:
            shape = group.shape()
            base, slope, iterations = self.cost.decode_segment(shape)
            left = group.next_finish
            if left < iterations:
                iterations = left
            if horizon < iterations:
                iterations = horizon
            if self._grows and iterations > 1:
                iterations = group.iterations_within(self.pool.total - self.pool.used - 1, iterations)
            end = now + (base * iterations + slope * (iterations * (iterations - 1) // 2))
        flight = Flight(now, end, plan.prefill, group, iterations, base, slope, tokens)
        self._flights.append(flight)
        if iterations > 1 and end > plan.until:
            flight.iterations = flight.boundary_after(plan.until)
            flight.end = flight.boundary(flight.iterations)
        if self.watcher is not None:
            self.watcher.launched(shape, flight)
        return True

    def _tokens_beside(self, group: DecodeGroup, yielded: float) -> int:
        """Whole tokens that every decode gets beside prompts; parts of one are kept for the next time. Their blocks are
        taken at once."""
        self._spare_tokens += yielded - 1.0
        tokens = min(1 + int(self._spare_tokens), group.next_finish)
        if self._grows and tokens > 1:
            tokens = group.iterations_within(self.pool.total - self.pool.used - 1, tokens)
            self.pool.allocate(group.growth(tokens)[0])
        self._spare_tokens = min(self._spare_tokens - (tokens - 1), yielded)
        return tokens

    def _complete(self, flight: Flight) -> None:
        now, usage, group, iterations = flight.end, self.usage, flight.group, flight.iterations
        usage.iterations += iterations
        finished: list[RequestState] = []
        if group is not None:
            usage.decode_tokens += group.count * iterations * flight.tokens
            record_gaps(self.gaps, flight, group, self._together)
            if iterations > 1 and self._grows:
                blocks, ramp, triangle = group.growth(iterations)
                if blocks:
                    self.pool.allocate(blocks)
                    # Each block counts from the start of its own iteration.
                    usage.kv_block_time += blocks * (now - flight.start) - flight.base * ramp - flight.slope * triangle
            group.advance(iterations * flight.tokens)
            if group.next_finish <= 0:
                finished = group.pop_finished()
                for request in finished:
                    request.produced = request.output_tokens
            if group is not self._decoding:
                self._return_group(group)
        if flight.prefill:
            self._complete_prefill(flight.prefill, now, finished)
        for request in finished:
            self._finish(request, now)

    def _complete_prefill(
        self, prefill: Sequence[tuple[RequestState, int]], now: float, finished: list[RequestState]
    ) -> None:
        usage = self.usage
        longest = max(r.output_tokens for r, _ in prefill) - 1 if self._together else None
        for request, tokens in prefill:
            usage.prefill_tokens += tokens
            request.computed_tokens += tokens
            if request.computed_tokens < request.input_tokens + request.produced:
                self.prefilling.append(request)
                continue
            request.produced += 1
            usage.prefills += 1
            self.queued_tokens -= request.queued
            if self.cache is not None and self.cache.tiers:
                self.cache.store(request)
            if request.first_token < 0.0:
                request.first_token = now
            else:
                self.gaps.extend((now - request.last_token, 0.0, 1, 1))
            left = request.output_tokens - request.produced if longest is None else longest
            if left == 0:
                finished.append(request)
            else:
                self._decoding.join(request, now, left)
        if len(self.prefilling) > 1:
            self.prefilling.sort(key=by_arrival)

    def _finish(self, request: RequestState, now: float) -> None:
        held = request.blocks
        if self._grows:
            held = max(held, -(-(request.input_tokens + request.output_tokens - 1) // self.block_size))
        if self.cache is None:
            self.pool.release(held)
        else:
            self.cache.give_back(request, held)
        self.running -= 1
        self._on_finish(request, now)

    # -- pipelines -----------------------------------------------------------------------------------------------

    def _take_group(self) -> DecodeGroup:
        """The idle decodes as one micro-batch, the earliest arrivals of them if they are too many."""
        group, spare = self._decoding, self._spare.pop()
        self._decoding = spare
        if group.count > self.max_batch_seqs:
            late = sorted(group.members, key=by_arrival)[self.max_batch_seqs :]
            secured = sum((r.offset + group.clock - 1) % self.block_size == 0 for r in late) if self._grows else 0
            self.pool.release(secured)
            group.remove(set(late))
            for request in late:
                spare.join(request, request.last_token)
        return group

    def _return_group(self, group: DecodeGroup) -> None:
        """The members of a micro-batch that has ended are idle again."""
        idle = self._decoding
        if idle.count > group.count:
            idle.absorb(group)
            self._spare.append(group)
        else:
            group.absorb(idle)
            self._decoding = group
            self._spare.append(idle)

    # -- leaving -------------------------------------------------------------------------------------------------

    def unload(self, now: float) -> dict[RequestState, int]:
        """Stop for good at ``now`` [s] and take all requests out, in order of arrival.

        Iterations that have ended count, the one in flight is lost.

        Returns
        -------
        Tokens of each whose keys and values are complete.
        """
        for flight in list(self._flights):
            done = flight.boundary_after(now)
            done -= flight.boundary(done) > now
            if done:
                flight.iterations, flight.end = done, flight.boundary(done)
                self._flights.remove(flight)
                self._complete(flight)
        self.close_books(now)
        groups = dict.fromkeys([self._decoding, *(f.group for f in self._flights if f.group is not None)])
        decoding = dict.fromkeys(request for group in groups for request in group.settle())
        starting = [request for flight in self._flights for request, _ in flight.prefill]
        waiting = [*self.waiting, *self.swapped]
        self._flights.clear()
        if self.watcher is not None:
            self.watcher.idle(now)
        return {
            request: (request.input_tokens + request.produced - 1 if request in decoding else request.computed_tokens)
            for request in sorted(
                dict.fromkeys([*decoding, *starting, *self.prefilling, *self.paused, *waiting]), key=by_arrival
            )
        }

    def forget(self, requests: Mapping[RequestState, int]) -> None:
        """Drop the keys and values of requests that were taken out.

        What a request had produced stays with whoever reads it; it prefills its prompt and its output so far again
        wherever it goes on, as after a preemption by recomputation.
        """
        for request, known in requests.items():
            if request.blocks:
                self.usage.recomputed_tokens += known
                request.preemptions += 1
            request.computed_tokens = request.blocks = request.finish_at = request.registered = 0
            request.holds, request.matched, request.data = (), None, None
