"""Disaggregated serving: prompts and tokens on replicas of different pools, keys and values sent between them.

Replicas, batching and cache policies are those of any deployment. A request is held in the memory of both sides while
its keys and values travel; until the decoding side has room they stay where they were computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import copy, deepcopy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from simulator.errors import ConfigError
from simulator.registry import lookup
from simulator.serving.arrivals import ArrivalStream
from simulator.serving.books import ServingBooks
from simulator.serving.front_end import FrontEnd
from simulator.serving.limits import EngineLimits, one_each
from simulator.serving.pools_replica import PoolReplica
from simulator.serving.pools_run import PoolsRun
from simulator.serving.pools_transfer import KVLink, TransferBooks
from simulator.serving.prefix_cache import TierStore
from simulator.serving.summary import SummaryRows
from simulator.strategies.disaggregation.base import DisaggregationPolicy
from simulator.strategies.serving_protocols import BatchPolicy, IterationCost, KVCachePolicy, RequestState
from simulator.workload.jobs import ServiceLevel
from simulator.workload.requests.table import RequestTable

if TYPE_CHECKING:
    import simpy

    from simulator.engine.clock import Clock

_STRETCH = 8192
"""Arrivals from one entry of gaps into their sketch to the next."""

__all__ = ["Pool", "PooledDeployment", "simulate_pools"]


@dataclass(frozen=True)
class Pool:
    """Replicas of one kind.

    Attributes
    ----------
    cost, limits
        Iteration times (one for all replicas, or one each) and engine sizes of its plan on its hardware.
    replicas
        How many.
    batching, kv_cache
        Registered names or objects; ``kv_cache=None``: the batching policy's own choice.
    """

    cost: IterationCost | list[IterationCost]
    limits: EngineLimits
    replicas: int = 1
    batching: str | BatchPolicy = "prefill-first"
    kv_cache: str | KVCachePolicy | None = None


@dataclass
class _Journey:
    """A request that decodes elsewhere."""

    request: RequestState
    output_tokens: int
    source: PoolReplica
    target: int
    blocks: int = 0
    tokens: int = 0
    """Tokens whose keys and values were sent while the prompt was computed, but for the last layer's."""
    sent: float = 0.0
    pending: int = 0
    left_behind: RequestState | None = field(default=None)
    """What the source still holds, once the prompt is complete."""
    complete: float = math.nan


class PooledDeployment:
    """Serves a request table with a prefill and a decode pool.

    Parameters
    ----------
    clock
        The one clock.
    requests
        What to serve.
    prefill, decode
        The pools.
    link
        Carries keys and values; replicas are numbered through, those of ``prefill`` first.
    wire_bytes
        Keys and values of a prompt of so many tokens [B].
    layers
        Of the model: what is sent layer by layer lags one of them behind.
    policy
        Registered name of family ``disaggregation``, or an object.
    record, slo, front_end
        As of :class:`~simulator.serving.deployment.DeploymentProcess`.

    Raises
    ------
    ConfigError
        If the decode pool's policies cannot take requests in.
    """

    def __init__(
        self, clock: Clock, requests: RequestTable, prefill: Pool, decode: Pool, link: KVLink, *,
        wire_bytes: Callable[[int], float], layers: int, policy: str | DisaggregationPolicy = "distserve",
        record: Literal["full", "summary"] = "full", slo: ServiceLevel | None = None,
        front_end: FrontEnd | None = None,
    ) -> None:  # fmt: skip
        self.clock, self.table, self.link = clock, requests, link
        self.policy: DisaggregationPolicy = _make("disaggregation", policy)
        self.wire_bytes, self.layers = wire_bytes, layers
        self.replicas: list[PoolReplica] = []
        self.prefill, self.decode = self._build(prefill), self._build(decode)
        engine = self.decode[0]
        if engine.policy.moves_requests or engine.policy.release_together or not engine.kv_policy.grows:
            raise ConfigError(
                f"a decode pool takes requests in at every iteration and pages its cache; batching "
                f"'{engine.policy.name}' with kv_cache '{engine.kv_policy.name}' cannot: choose 'chunked-prefill' or "
                "'prefill-first' with 'paged'"
            )
        self.limits = replace(
            decode.limits, kv_blocks=round(sum(r.kv_blocks for r in self.replicas) / len(self.replicas))
        )
        if "swap" in (prefill.limits.preemption, decode.limits.preemption):
            raise ConfigError(
                "pools preempt by recomputation: swapping to host memory is not modelled beside transfers"
            )
        self._stream, block = ArrivalStream(requests, front_end=front_end), self._prefix_block(prefill)
        self._books = ServingBooks(requests, block, record, slo)
        self._rows = self._books.rows
        self._journeys: dict[int, _Journey] = {}
        self._transfers = TransferBooks(0 if record == "summary" else len(requests))
        self._until_stock = _STRETCH
        self._rejected = self._impossible()
        self._entries: dict[int, tuple[int, Any]] = {}
        self._next_arrival: Any = None
        self._left = len(requests)
        self._origin = 0.0
        self.done: simpy.Event | None = None

    def _build(self, pool: Pool) -> list[PoolReplica]:
        batching: BatchPolicy = _make("batching", pool.batching)
        kv: KVCachePolicy = _make("kv_cache", batching.kv_policy if pool.kv_cache is None else pool.kv_cache)
        tiers = tuple(TierStore(tier, pool.limits.kv_bytes_per_token) for tier in kv.tiers)
        first, found = len(self.replicas), list[PoolReplica]()
        costs, _ = one_each(pool.cost, pool.limits, pool.replicas)
        for index in range(first, first + pool.replicas):
            replica = PoolReplica(
                index, pool.limits, self._cost(costs[index - first], index), deepcopy(batching), kv, self._finished,
                None, tuple(tier if tier.tier.shared else deepcopy(tier) for tier in tiers),
            )  # fmt: skip
            replica.on_prompt, replica.on_reserved = self._prompt_done, self._reserved
            replica.on_chunk = self._chunk if self.policy.layerwise else None
            found.append(replica)
        self.replicas += found
        return found

    def _cost(self, alone: IterationCost, index: int) -> IterationCost:
        """Iteration times of replica ``index``, given those of its pool."""
        return alone

    def _prefix_block(self, pool: Pool) -> int:
        return pool.limits.block_size if self.prefill[0].kv_policy.prefix_caching else 0

    def start(self) -> simpy.Event:
        """Begin now; the returned event fires with the :class:`PoolsRun` when the last request has ended."""
        self._origin = self.clock.now
        self.done = self.clock.event()
        self._await_arrival()
        if not self._left:
            self.done.succeed(self.result())
        return self.done

    def result(self) -> PoolsRun:
        """What has happened so far; times count from the start of the deployment."""
        for replica in self.replicas:
            replica.close_books(self._now)
        self._books.take_stock(self.replicas)
        summary = isinstance(self._rows, SummaryRows)
        run = self._books.summary(self.replicas) if summary else self._books.result(self.replicas, self.limits)
        return PoolsRun(run, deepcopy(self._transfers))

    # -- events --------------------------------------------------------------------------------------------------

    @property
    def _now(self) -> float:
        return self.clock.now - self._origin

    def truncate(self, index: int) -> None:
        """End a jump of a replica at its next iteration boundary, because its clock has changed."""
        self.replicas[index].truncate(self._now)
        self._book(self.replicas[index])

    def _await_arrival(self) -> None:
        if self._next_arrival is not None:
            self.clock.cancel(self._next_arrival)
        time = self._stream.next_time + self._origin
        self._next_arrival = self.clock.at(max(time, self.clock.now), self._arrivals) if time < math.inf else None

    def _arrivals(self) -> None:
        self._next_arrival = None
        # On the clock, where the rounding of a late begin cannot put the arrival behind the moment it was woken for.
        while self._stream.next_time + self._origin <= self.clock.now:
            time = self._stream.next_time
            self._arrive(self._stream.pop(), time)
        self._await_arrival()

    def _book(self, replica: PoolReplica) -> None:
        """Wake a replica when it wants to be, after everything else of that instant."""
        known = self._entries.get(replica.index)
        if known is not None:
            if known[0] == replica.version:
                return
            self.clock.cancel(known[1])
        time = max(replica.next_time + self._origin, self.clock.now)
        entry = self.clock.at(time, lambda: self._wake(replica), late=True)
        self._entries[replica.index] = (replica.version, entry)

    def _wake(self, replica: PoolReplica) -> None:
        del self._entries[replica.index]
        replica.wake(replica.next_time)
        self._book(replica)

    def _ended(self, row: int, now: float) -> None:
        self._left -= 1
        before = self._stream.next_time
        self._stream.ended(row, now)
        if self._stream.next_time != before:
            self._await_arrival()
        if not self._left and self.done is not None:
            done = self.done
            self.clock.after(0.0, lambda: done.succeed(self.result()), late=True)

    # -- a request -------------------------------------------------------------------------------------------------

    def _arrive(self, row: int, now: float) -> None:
        request = self._rows.state(row, self._stream.came)
        self._until_stock -= 1
        if not self._until_stock:
            self._until_stock = _STRETCH
            self._books.take_stock(self.replicas)
        if self._rejected[row]:
            self._rows.reject(row, now, self._rejected[row])
            self._ended(row, now)
            return
        place = self.policy.place(request, self.prefill, self.decode, now)
        source = self.replicas[place.prefill]
        if place.decode != place.prefill and request.output_tokens > 1:
            self._journeys[row] = _Journey(request, request.output_tokens, source, place.decode)
            # All the source is asked for is the first token.
            request.output_tokens = 1
        source.submit(request, now)
        self._book(source)

    def _chunk(self, request: RequestState, tokens: int, start: float, end: float) -> None:
        """A chunk of a prompt begins: send its layers as they come, if the target has room already."""
        journey = self._journeys.get(request.index)
        if journey is None or journey.target < 0:
            return
        journey.blocks = journey.blocks or self.replicas[journey.target].reserve(request, start)
        after = request.computed_tokens + tokens
        size = self.wire_bytes(after) - self.wire_bytes(journey.tokens)
        if not journey.blocks or size <= 0.0 or self.layers < 2:
            return
        early = size * (self.layers - 1) / self.layers
        journey.tokens = after
        journey.sent += early
        journey.pending += 1
        rate = size / (end - start) if end > start else math.inf
        source, target = journey.source.index, journey.target
        lag = (end - start) / self.layers
        self.clock.after(lag, lambda: self.link.send(source, target, early, rate, lambda: self._part_arrived(journey)))

    def _part_arrived(self, journey: _Journey) -> None:
        journey.pending -= 1
        self._ship(journey)

    def _prompt_done(self, request: RequestState, now: float) -> bool:
        """The source has nothing more to do for a request; whether it goes on elsewhere."""
        journey = self._journeys.get(request.index)
        if journey is None:
            return False
        journey.left_behind, journey.complete = copy(request), now
        request.output_tokens = journey.output_tokens
        request.last_token = now
        request.blocks, request.holds, request.registered, request.prefix, request.matched = 0, (), 0, None, None
        if journey.target < 0:
            journey.target = self.policy.choose_decode(request, self.decode, now)
        target = self.replicas[journey.target]
        journey.blocks = journey.blocks or target.reserve(request, now)
        if journey.blocks:
            self._ship(journey)
        else:
            target.offer(request, now)
        return True

    def _reserved(self, request: RequestState, blocks: int) -> None:
        journey = self._journeys[request.index]
        journey.blocks = blocks
        self._ship(journey)

    def _ship(self, journey: _Journey) -> None:
        """Send what is left once the prompt is complete, the target has room and all parts before have arrived."""
        if journey.left_behind is None or not journey.blocks or journey.pending:
            return
        total = self.wire_bytes(journey.request.input_tokens)
        self._transfers.sent(journey.request.index, total)
        rest = max(total - journey.sent, 0.0)
        self.link.send(journey.source.index, journey.target, rest, math.inf, lambda: self._arrived(journey))

    def _arrived(self, journey: _Journey) -> None:
        request, source, target, now = journey.request, journey.source, self.replicas[journey.target], self._now
        assert journey.left_behind is not None
        del self._journeys[request.index]
        self._transfers.arrived(request.index, now - journey.complete)
        source.let_go(journey.left_behind, now)
        target.arrive(request, journey.blocks, now)
        self._book(source)
        self._book(target)

    def _finished(self, request: RequestState, now: float) -> None:
        self._rows.finish(request, now)
        self._ended(request.index, now)

    def _impossible(self) -> bytes:
        """Per request, why it can never be served: index into :data:`~simulator.serving.run.REJECTIONS`."""
        table, first, second = self.table, self.prefill[0], self.decode[0]
        inputs, total = table.input_tokens, table.input_tokens.astype(np.int64) + table.output_tokens
        longest = first.policy.longest_prefill(first)
        most = np.minimum(first.pool.most_tokens - inputs - 1, second.pool.most_tokens - total)
        if self.policy.borrows:
            longest = min(longest, second.policy.longest_prefill(second))
            most = np.minimum(most, first.pool.most_tokens - total)
        reason = np.where(inputs > longest, 3, 0)
        reason[most < 0] = 2
        if self.limits.max_model_len:
            reason[total > self.limits.max_model_len] = 1
        return reason.astype(np.uint8).tobytes()


def _make(family: str, choice: Any) -> Any:
    return lookup(family, choice)() if isinstance(choice, str) else choice


def simulate_pools(
    requests: RequestTable, prefill: Pool, decode: Pool, link: Callable[[Clock], KVLink], *,
    wire_bytes: Callable[[int], float], layers: int, policy: str | DisaggregationPolicy = "distserve",
    front_end: FrontEnd | None = None,
) -> PoolsRun:  # fmt: skip
    """Serve ``requests`` to the end on a clock of their own; see :class:`PooledDeployment`."""
    from simulator.engine.clock import Clock as NewClock

    clock = NewClock()
    process = PooledDeployment(
        clock, requests, prefill, decode, link(clock), wire_bytes=wire_bytes, layers=layers, policy=policy,
        front_end=front_end,
    )  # fmt: skip
    clock.run(process.start())
    return process.result()
