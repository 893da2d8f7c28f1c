"""A deployment: requests, a router and replicas on the shared clock.

Replicas meet the rest of the world only at arrivals and at events of others on the clock. So the deployment works off
its own events in a small loop, up to the next event of anybody else, and books a single entry on the clock for what
remains: a deployment alone on the clock is one clock event, however many iterations it runs.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Sequence
from copy import deepcopy
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any, Literal

from simulator.serving.arrivals import ArrivalStream
from simulator.serving.books import ServingBooks
from simulator.serving.chosen import chosen_kv_policy, make
from simulator.serving.compiled.choose import Loop, compiled_loop
from simulator.serving.front_end import FrontEnd
from simulator.serving.limits import mean_limits, one_each
from simulator.serving.movable_replica import MovableReplica
from simulator.serving.prefix_cache import TierStore
from simulator.serving.rejections import impossible
from simulator.serving.replica import EngineLimits, Replica
from simulator.serving.run import ServingRun
from simulator.serving.summary import ServingSummary, SummaryRows
from simulator.strategies.protocols import (
    AdmissionPolicy,
    BatchPolicy,
    IterationCost,
    KVCachePolicy,
    RequestState,
    Router,
)
from simulator.workload.jobs import ServiceLevel
from simulator.workload.requests.table import RequestTable

if TYPE_CHECKING:
    import simpy

    from simulator.engine.clock import Clock
    from simulator.serving.compiled.driver import CompiledLoop

_PACE = 8192
"""Arrivals from one report of progress to the next."""

__all__ = ["DeploymentProcess"]


class DeploymentProcess:
    """Serves a request table on a clock that others may share.

    Parameters
    ----------
    clock
        The one clock; requests arrive at its time when started plus their own.
    requests
        What to serve.
    cost
        Iteration times, one for all replicas or one each.
    limits
        Sizes of every replica's engine, one for all or one each; a request has to fit in the smallest.
    replicas
        How many.
    batching, router, kv_cache, admission
        Registered names or objects; ``kv_cache=None`` takes the batching policy's own choice. Every replica works
        with its own copy of the batching policy.
    stride
        1: iteration by iteration; ``None``: exact jumps.
    seed
        Of the router's random draws.
    on_finish
        Called with (request, time [s]) at every completion.
    record
        ``full``: a row per request and every gap between tokens; ``summary``: counters and quantile sketches, in
        memory that does not grow with the number of requests.
    slo
        Limits that ``summary`` counts requests against.
    progress
        Called with (requests arrived, time [s]) every 8,192 arrivals.
    fed
        Requests come when :meth:`release` says so, until :meth:`close`.
    movable
        Whether decoding requests may go on on another replica (:mod:`simulator.serving.migration`).
    front_end
        What requests pass before they are routed.
    loop
        ``objects``: one object per request and replica; ``compiled``: the same over arrays by numba, where the case
        is covered (:func:`~simulator.serving.compiled.choose.plain_case`); ``auto``: compiled where that is possible
        and quicker. Every number is the same, bit for bit.

    Attributes
    ----------
    replicas
        The engines. Looking at them ends the compiled loop for good.
    """

    def __init__(
        self, clock: Clock, requests: RequestTable, cost: IterationCost | list[IterationCost],
        limits: EngineLimits | list[EngineLimits], *, replicas: int = 1,
        batching: str | BatchPolicy = "chunked-prefill", router: str | Router = "round-robin",
        kv_cache: str | KVCachePolicy | None = None, admission: str | AdmissionPolicy = "always",
        stride: int | None = None, seed: int = 0, on_finish: Callable[[RequestState, float], object] | None = None,
        record: Literal["full", "summary"] = "full", slo: ServiceLevel | None = None,
        progress: Callable[[int, float], object] | None = None, loop: Loop = "auto", fed: bool = False,
        movable: bool = False, front_end: FrontEnd | None = None,
    ) -> None:  # fmt: skip
        if stride not in (None, 1):
            raise ValueError(f"stride is 1 (every iteration) or None (exact jumps), not {stride}")
        self.clock = clock
        self.costs, self._limits = one_each(cost, limits, replicas)
        self.limits = mean_limits(self._limits)
        self.policy: BatchPolicy = make("batching", batching)
        self.kv_policy: KVCachePolicy = chosen_kv_policy(kv_cache, self.policy)
        self.router: Router = make("router", router, seed)
        self.admission: AdmissionPolicy = make("admission", admission)
        self._fast: CompiledLoop | None = None
        shared = {t.name: TierStore(t, self.limits.kv_bytes_per_token) for t in self.kv_policy.tiers if t.shared}
        self._shared, self._stride = shared, stride
        self._replica_type = MovableReplica if movable else Replica
        self._replicas = [self._new_replica(i, c) for i, c in enumerate(self.costs)]
        self._open = list(self._replicas)
        self.held: deque[tuple[RequestState, float]] = deque()
        """Requests for which no replica is open, and since when [s]."""
        self.held_time = 0.0
        """∫ requests held over time [s]."""
        self.on_held: Callable[[float], object] | None = None
        """Called with the time [s] when a request finds no replica open."""
        self.on_arrival: Callable[[RequestState, float], bool] | None = None
        """Called with every request that can be served; true where somebody else does, until :meth:`served`."""
        self.away = 0
        """Requests on their way between replicas, or with somebody else until :meth:`served`."""
        self.table = requests
        self._stream = ArrivalStream(requests, fed, front_end)
        self.left = self._stream.left
        """When requests of an open loop leave the front end [s]; None without one."""
        block_size = self.limits.block_size if self.kv_policy.prefix_caching else 0
        self._books = ServingBooks(requests, block_size, record, slo)
        self._rows = self._books.rows
        # Between two arrivals replicas do not see each other, unless an end releases requests or stores are shared.
        self._alone = on_finish is None and self._stream.open_loop and not shared
        self._asks = self.admission.name != "always"
        self._wakes: list[tuple[float, int, int]] = []
        smallest = min(self._replicas, key=lambda r: (r.pool.most_tokens, r.max_num_batched_tokens))
        self.rejected = impossible(requests, smallest)
        self._hook, self._stocked, self._loop = on_finish, -1, loop
        self._progress = progress
        alike = all(one is self._limits[0] for one in self._limits)
        self.independent = stride is None and self._alone and not self._asks and alike and not movable
        """Whether replicas meet nobody but the router."""
        self._origin, self._limit, self._booked = 0.0, math.inf, 0.0
        self._entry: Any = None
        self.done: simpy.Event | None = None

    def _new_replica(self, index: int, cost: IterationCost) -> Replica:
        stores, limits, policy = self._shared, self._limits[index], deepcopy(self.policy)
        tiers = tuple(stores.get(t.name) or TierStore(t, limits.kv_bytes_per_token) for t in self.kv_policy.tiers)
        return self._replica_type(index, limits, cost, policy, self.kv_policy, self._finished, self._stride, tiers)

    def start(self) -> simpy.Event:
        """Begin now; the returned event fires with the :class:`ServingRun` when the last request has ended."""
        self._origin = self.clock.now
        self.done = self.clock.event()
        self._fast = compiled_loop(
            self, self._loop, gaps=[replica.gaps for replica in self._replicas], on_ended=self._rows.finish_many,
            on_stock=self._take_stock, on_sample=self._rows.sample if isinstance(self._rows, SummaryRows) else None,
        )  # fmt: skip
        self._entry = self.clock.at(self._origin, self._pump, late=True)
        return self.done

    @property
    def replicas(self) -> list[Replica]:
        """The engines, as objects."""
        if self._fast is not None:
            fast, self._fast = self._fast, None
            place, live = fast.hand_over(self._replicas, self.router)
            self._stream.skip_to(place)
            self._rows.adopt(live, place, self.rejected)
            self._wakes = [(r.next_time, r.index, r.version) for r in self._replicas if r.next_time < math.inf]
            heapify(self._wakes)
        return self._replicas

    @property
    def open(self) -> list[Replica]:
        """Replicas that take requests."""
        return self._open if self.replicas else []

    def truncate(self, *indices: int) -> None:
        """Costs of these replicas are different from now on: their jumps end at the next iteration boundary."""
        for replica in (self.replicas[index] for index in indices):
            version = replica.version
            replica.truncate(self.now)
            self._announce(replica, version)
        self._pump_soon()

    def _pump_soon(self) -> None:
        """Go on once everybody has done what they do at this moment: only then is the next event of others known."""
        if self._entry is not None:
            self.clock.cancel(self._entry)
        self._entry = self.clock.at(self.clock.now, self._pump, late=True)

    @property
    def now(self) -> float:
        """Time since the start [s]."""
        return self.clock.now - self._origin

    @property
    def arrivals(self) -> int:
        """Requests that have come so far."""
        return self._stream.popped if self._fast is None else self._fast.arrivals

    def open_only(self, indices: Collection[int]) -> None:
        """Only these replicas take requests from now on; who found none open goes to them."""
        replicas, now = self.replicas, self.now
        self._open = [replicas[i] for i in sorted(indices)]
        while self.held and self._open:
            request, since = self.held.popleft()
            self.held_time += now - since
            self._dispatch(request, now)
        if self.done is not None:
            self._pump_soon()

    def release(self, row: int, time: float) -> None:
        """Request ``row`` comes at ``time`` [s on the clock]."""
        self._stream.release(row, time - self._origin)
        self._pump_soon()

    def close(self) -> None:
        """No more requests are released."""
        self._stream.fed = False
        self._pump_soon()

    def vacate(self, index: int) -> dict[RequestState, int]:
        """A replica is gone: an empty one takes its number, closed.

        Returns what it held, and the tokens of each whose keys and values are complete.
        """
        old, now = self.replicas[index], self.now
        held = old.unload(now)
        new = self.replicas[index] = self._new_replica(index, old.cost)
        new.usage, new.gaps, new.pool.peak, new.version = old.usage, old.gaps, old.pool.peak, old.version + 1
        self._open = [replica for replica in self._open if replica is not old]
        return held

    def evacuate(self, index: int) -> int:
        """A replica is gone with all it held; its requests begin again. Returns how many."""
        lost = self.vacate(index)
        self.replicas[index].forget(lost)
        self.begin_again(list(lost))
        return len(lost)

    def begin_again(self, requests: Sequence[RequestState]) -> None:
        """These requests have no place any more: they go to replicas that are open, or wait for one."""
        self.held.extend((request, self.now) for request in requests)
        self.open_only([replica.index for replica in self.open])

    def acted(self, replica: Replica, version: int) -> None:
        """Somebody else did something with a replica of ``version``."""
        self._announce(replica, version)
        self._pump_soon()

    def served(self, request: RequestState, finish: float) -> None:
        """A request that somebody else took ended at ``finish`` [s]; its tokens came evenly."""
        if count := request.output_tokens - 1:
            self._books.elsewhere.extend(((finish - request.first_token) / count, 0.0, count, 1))
        self.away -= 1
        self._finished(request, finish)
        self._pump_soon()

    def outcome(self) -> ServingRun | ServingSummary:
        """What has happened so far, as it is recorded."""
        return self.summary() if isinstance(self._rows, SummaryRows) else self.result()

    def _take_stock(self, row: int, now: float) -> None:
        """Say how far things are; gaps between tokens enter their sketch where no rows are kept."""
        self._stocked = row
        if self._progress is not None:
            self._progress(row, now + self._origin)
        self._books.take_stock(self._replicas)

    def _close_books(self) -> float:
        for replica in self.replicas:
            replica.close_books(self.now)
        return self.now

    def summary(self) -> ServingSummary:
        """What has happened so far, of a deployment with ``record="summary"``."""
        self._take_stock(len(self.table), self._close_books())
        return self._books.summary(self.replicas)

    def result(self) -> ServingRun:
        """What has happened so far; times count from the start of the deployment."""
        self._close_books()
        return self._books.result(self.replicas, self.limits)

    # -- the loop ------------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Work off own events that come before anybody else's, then book the next on the clock."""
        self._entry, now = None, self.clock.now - self._origin
        if self._booked + self._origin <= self.clock.now:  # a late begin rounds it behind now
            now = max(now, self._booked)
        time = self._booked = self._work(now)
        if time < math.inf:
            self._entry = self.clock.at(max(time + self._origin, self.clock.now), self._pump, late=True)
        elif self.done is not None and not self.done.triggered and not (self.held or self.away or self._stream.fed):
            last = max(r.usage.until for r in self.replicas)
            done, end = self.done, max(last + self._origin, self.clock.now)
            self._entry = self.clock.at(end, lambda: done.succeed(self.outcome()))

    def _work(self, now: float) -> float:
        """Process events up to and including ``now``, and on until the next of others; time of the next own one [s]."""
        self._limit = self.clock.next_time - self._origin
        if self._fast is not None:
            time = self._fast.work(now, self._limit)
            if self._fast is not None:
                return time
        stream, wakes, replicas, alone = self._stream, self._wakes, self._replicas, self._alone
        while True:
            wake = wakes[0][0] if wakes else math.inf
            # Arrivals first: a request that comes as an iteration ends takes part in the next.
            arrival = stream.next_time
            time = arrival if arrival <= wake else wake
            if time == math.inf or (time > now and time >= self._limit):
                return time
            if arrival <= wake:
                self._arrive(stream.pop(), arrival)
                continue
            _, index, version = heappop(wakes)
            replica = replicas[index]
            if version != replica.version:
                continue
            replica.wake(wake, min(arrival, self._limit) if alone else 0.0)
            if replica.next_time < math.inf:
                heappush(wakes, (replica.next_time, index, replica.version))

    def _announce(self, replica: Replica, version: int) -> None:
        if replica.version != version and replica.next_time < math.inf:
            heappush(self._wakes, (replica.next_time, replica.index, replica.version))

    def _arrive(self, row: int, now: float) -> None:
        if not row % _PACE and row != self._stocked:
            self._take_stock(row, now)
        request = self._rows.state(row, self._stream.came)
        reason = self.rejected[row]
        if reason:
            self._rows.reject(row, now, reason)
            self._stream.ended(row, now)
            return
        if self.on_arrival is not None and self.on_arrival(request, now):
            self.away += 1
            self._limit = self.clock.next_time - self._origin
            return
        if not self._open:
            self.held.append((request, now))
            if self.on_held is not None:
                self.on_held(now)
                self._limit = self.clock.next_time - self._origin
            return
        self._dispatch(request, now)

    def _dispatch(self, request: RequestState, now: float) -> None:
        """Hand a request to one of the open replicas."""
        replica = self._open[self.router.route(request, self._open, now)]
        if self._asks and request.first_token < 0.0 and self._refuses(request, replica, now):
            return
        version = replica.version
        replica.submit(request, now)
        self._announce(replica, version)

    def _refuses(self, request: RequestState, replica: Replica, now: float) -> bool:
        reason = self.admission.refuse(request, replica, now)
        if reason:
            self._rows.reject(request.index, now, self._rows.reason(reason))
            self._stream.ended(request.index, now)
        return bool(reason)

    def _finished(self, request: RequestState, now: float) -> None:
        self._rows.finish(request, now)
        self._stream.ended(request.index, now)
        if self._hook is not None:
            self._hook(request, now + self._origin)
            self._limit = self.clock.next_time - self._origin
