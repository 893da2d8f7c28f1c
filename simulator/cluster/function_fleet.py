"""Functions on several sites: calls, containers that start cold and are kept warm, and the sites' telemetry.

A plain state machine with a heap of events. Whoever drives it (a registered policy, or a learned one step by step) says
for each call where it goes; everything else follows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from simulator.cluster.function_site import Container, FunctionSite, SiteState, Start
from simulator.strategies.keep_alive_protocols import KeepAlive
from simulator.strategies.site_protocols import Call, SitePlacement, SiteView
from simulator.workload.functions.table import FunctionTable

__all__ = ["FleetRun", "FleetSettings", "FunctionFleet", "jain_index"]

Isolation = Literal["none", "owner", "function"]


@dataclass(frozen=True)
class FleetSettings:
    """How functions are run.

    Attributes
    ----------
    start
        Fixed part of a cold start: image and process [s].
    size
        Data that a new container reads [B] where the table does not know the function's memory.
    payload, answer
        Bytes of a call to a site, and back.
    isolation
        Whose calls a container may serve: of its ``function`` only, of all functions of an ``owner``, or of all.
    telemetry
        Time between two looks at the sites [s]; 0: always as they are.
    noise
        Relative error of what telemetry says of load (sigma of its logarithm).
    adaptation
        Time that a call loses when its function moves to another site than its last [s].
    quotas
        Owner → most containers, as a share of all; a call beyond it is turned away.
    """

    start: float = 0.0
    size: float = 0.0
    payload: float = 0.0
    answer: float = 0.0
    isolation: Isolation = "function"
    telemetry: float = 0.0
    noise: float = 0.0
    adaptation: float = 0.0
    quotas: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, eq=False)
class FleetRun:
    """What became of the calls; arrays have one entry per call.

    Attributes
    ----------
    site
        Where it ran, −1: turned away or not yet placed.
    response
        From arrival until the caller has the answer [s]; NaN when it did not come to that.
    wait, cold
        Time in the queue and in a cold start [s].
    moves
        Calls whose function moved to another site.
    states
        The sites after the run.
    end
        [s]
    """

    table: FunctionTable
    site: NDArray[np.int64]
    response: NDArray[np.float64]
    wait: NDArray[np.float64]
    cold: NDArray[np.float64]
    moves: int
    states: tuple[SiteState, ...]
    end: float

    @property
    def rejected(self) -> int:
        """Calls turned away."""
        return int((self.site < 0).sum())

    @property
    def cold_start_rate(self) -> float:
        """Share of the started calls that met no warm container."""
        started = sum(s.calls for s in self.states)
        return sum(s.cold for s in self.states) / started if started else math.nan

    def fairness(self) -> float:
        """Jain's index of the owners' mean ratio of execution to response; 1: all are served alike."""
        ratio = self.table.duration / self.response
        owners = np.array(self.table.owners)[self.table.function]
        kept = np.isfinite(ratio)
        return jain_index([float(ratio[kept & (owners == o)].mean()) for o in np.unique(owners[kept])])


def jain_index(values: Sequence[float]) -> float:
    """(Σx)² / (n Σx²): 1 when all are equal, 1/n when one has everything (Jain et al. 1984)."""
    squares = sum(v * v for v in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else math.nan


@dataclass(slots=True)
class _Flight:
    """A call on its way: which site, when it reaches it, when it starts and how long its cold start takes."""

    site: int = -1
    reached: float = math.nan
    started: float = math.nan
    cold: float = 0.0


@dataclass(eq=False)
class FunctionFleet:
    """Runs the calls of a table.

    Parameters
    ----------
    sites
        The first one is where callers are.
    keep_alive
        How long containers stay warm.
    seed
        Of the telemetry's noise.

    Attributes
    ----------
    finished
        Calls in order of completion.
    """

    table: FunctionTable
    sites: Sequence[FunctionSite]
    settings: FleetSettings
    keep_alive: KeepAlive
    seed: int = 0
    now: float = 0.0
    events: int = 0
    moves: int = 0
    finished: list[int] = field(default_factory=list)
    _heap: list[tuple[float, int, int, int, int, Container | None]] = field(default_factory=list)
    _count: int = 0
    _open: int = 0

    def __post_init__(self) -> None:
        self.states = tuple(SiteState(site) for site in self.sites)
        self._random = np.random.Generator(np.random.PCG64(self.seed))
        self._flights = [_Flight() for _ in range(len(self.table))]
        self._response = np.full(len(self.table), math.nan)
        self._wait = np.full(len(self.table), math.nan)
        self._home: dict[int, int] = {}
        self._stored: set[tuple[int, int]] = set()
        self._in_flight: dict[str, int] = {}
        self._quotas = dict(self.settings.quotas)
        self._seen: tuple[float, list[tuple[int, int, dict[int, int]]]] = (-math.inf, [])
        self._owner_number = {o: i for i, o in enumerate(dict.fromkeys(self.table.owners))}
        # What every call needs, as plain numbers: an entry of an array costs more than the work on it.
        self._arrival, self._duration = self.table.arrival.tolist(), self.table.duration.tolist()
        self._function, self._memory = self.table.function.tolist(), self.table.memory.tolist()

    # -- what a policy sees -------------------------------------------------------------------------------------------

    def key(self, call: int) -> int:
        """Containers with an equal key may serve it."""
        function: int = self._function[call]
        isolation = self.settings.isolation
        if isolation == "function":
            return function
        return self._owner_number[self.table.owners[function]] if isolation == "owner" else 0

    def views(self, call: int) -> list[SiteView]:
        """The sites as telemetry shows them at this call."""
        key, size, hour = self.key(call), self._size(call), self.now
        found = []
        for number, (site, (free, queued, warm)) in enumerate(zip(self.sites, self._telemetry(), strict=True)):
            kept = warm.get(key, 0)
            shown, waiting = float(free), float(queued)
            if self.settings.noise:
                shown, waiting = (v * math.exp(self.settings.noise * self._random.standard_normal())
                                  for v in (shown, waiting))  # fmt: skip
                shown = min(shown, float(site.capacity))
            way = 2 * site.latency + (self.settings.payload + self.settings.answer) / site.bandwidth
            price = sum(site.rent) / 2
            if site.pays_power:
                price += site.busy_power * site.site.mean_price(hour, hour)
            carbon = site.busy_power * site.site.mean_carbon(hour, hour)
            cold = self._cold(number, key, size)
            found.append(
                SiteView(site.name, site.capacity, shown, waiting, kept, way, site.slowness, cold, price, carbon)
            )
        return found

    def call(self, number: int) -> Call:
        """What a policy is told of a call."""
        return Call(self._function[number], self._duration[number], 0)

    def _telemetry(self) -> list[tuple[int, int, dict[int, int]]]:
        """(free, queued, warm by key) of every site, at most ``telemetry`` seconds old."""
        seen, facts = self._seen
        if self.now - seen < self.settings.telemetry:
            return facts
        facts = [(s.free, len(s.queue), {k: len(c) for k, c in s.by_key.items() if c}) for s in self.states]
        period = self.settings.telemetry
        self._seen = (math.floor(self.now / period) * period if period else self.now, facts)
        return facts

    def _size(self, call: int) -> float:
        return self._memory[self._function[call]] or self.settings.size

    def _cold(self, site: int, key: int, size: float) -> float:
        """Time of a cold start [s]; the first at a site also fetches the data from the first site."""
        at = self.sites[site]
        fetch = 0.0 if (site, key) in self._stored or not site else size / at.bandwidth
        return self.settings.start + size / at.load + fetch

    def response_of(self, call: int) -> float:
        """From arrival until the caller had the answer [s]; NaN before."""
        return float(self._response[call])

    # -- driving --------------------------------------------------------------------------------------------------

    def run(self, policy: SitePlacement, until: float = math.inf) -> FleetRun:
        """All calls that arrive before ``until``, each placed by a policy, and what they leave to do."""
        for call, time in enumerate(self._arrival):
            if time >= until:
                break
            self.advance(time)
            self.place(call, policy.choose(self.call(call), self.views(call)))
        return self.finish(until)

    def advance(self, time: float) -> None:
        """Work off everything that happens before or at ``time``."""
        heap = self._heap
        while heap and heap[0][0] <= time:
            self.now, _, site, call, version, container = heappop(heap)
            self.events += 1
            if container is None:
                self._begin(site, self.states[site].arrive(call, self.key(call), self.now))
            elif call >= 0:
                self._end(site, call, container)
            else:
                self.states[site].expire(container, version, self.now)
        self.now = max(self.now, time) if math.isfinite(time) else self.now

    def place(self, call: int, site: int) -> bool:
        """Send a call to a site now; ``False`` when its owner's quota turns it away."""
        owner, key = self.table.owners[self._function[call]], self.key(call)
        if (share := self._quotas.get(owner)) is not None:
            most = share * sum(s.capacity for s in self.sites)
            if self._in_flight.get(owner, 0) + 1 > most * (1 + 1e-12):
                return False
        self._in_flight[owner] = self._in_flight.get(owner, 0) + 1
        delay, at = 0.0, self.sites[site]
        if self._home.setdefault(key, site) != site:
            self._home[key] = site
            self.moves += 1
            delay = self.settings.adaptation
        flight, self._open = self._flights[call], self._open + 1
        flight.site, flight.reached = site, self.now + delay + at.latency + self.settings.payload / at.bandwidth
        self._push(flight.reached, site, call)
        return True

    def finish(self, until: float = math.inf) -> FleetRun:
        """Let everything that was placed come to its end, or stop at ``until``; then the result."""
        if math.isinf(until):
            while self._open:
                self.advance(self._heap[0][0])
            end = self.now
        else:
            self.advance(until)
            end = until
        for state in self.states:
            state.close(end)
        flights = self._flights
        return FleetRun(
            self.table, np.array([f.site for f in flights], np.int64), self._response, self._wait,
            np.array([f.cold for f in flights]), self.moves, self.states, end,
        )  # fmt: skip

    def _push(self, time: float, site: int, call: int, container: Container | None = None, version: int = 0) -> None:
        self._count += 1
        heappush(self._heap, (time, self._count, site, call, version, container))

    def _begin(self, site: int, start: Start | None) -> None:
        if start is None:
            return
        call, key, flight = start.call, start.container.key, self._flights[start.call]
        flight.started = self.now
        at = self.sites[site]
        self._wait[call] = self.now - flight.reached
        if start.cold:
            flight.cold = self._cold(site, key, self._size(call))
            self._stored.add((site, key))
        self.keep_alive.arrived(key, None if start.cold else start.rested)
        self._push(self.now + flight.cold + self._duration[call] * at.slowness, site, call, start.container)

    def _end(self, site: int, call: int, container: Container) -> None:
        flight, at, state = self._flights[call], self.sites[site], self.states[site]
        owner = self.table.owners[self._function[call]]
        self._in_flight[owner] -= 1
        self._open -= 1
        back = at.latency + self.settings.answer / at.bandwidth
        self._response[call] = self.now + back - self._arrival[call]
        self.finished.append(call)
        following = state.done(container, flight.started, flight.cold, self.now)
        if container in state.idle:
            stay = self.keep_alive.window(container.key)
            if math.isfinite(stay):
                self._push(self.now + stay, site, -1, container, container.version)
        self._begin(site, following)
