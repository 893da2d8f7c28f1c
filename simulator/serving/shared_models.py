"""Many models on few accelerators, on the shared clock: profiles from the cost model, queries from request tables."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.errors import ConfigError
from simulator.registry import lookup, record_of
from simulator.serving.model_sharing import ModelServer, SharingRun
from simulator.strategies.model_scheduling.alpaserve import serve_groups
from simulator.strategies.model_scheduling.base import (
    Dispatch,
    ModelPolicy,
    ModelProfile,
    Query,
    ServerView,
    SharedDevice,
)
from simulator.strategies.model_scheduling.packing import MIG_SHARES, MPS_SHARES, DutyCycle, Session

if TYPE_CHECKING:
    import simpy

    from simulator.engine.clock import Clock

__all__ = ["Devices", "SharedModels"]

_CUTS = {"mig": MIG_SHARES, "mps": MPS_SHARES}


@dataclass(frozen=True)
class Devices:
    """What the models share: number, room for weights in each [B], and weights into one from the host [B/s]."""

    count: int
    memory: float
    load_bandwidth: float


class Planned:
    """Runs what a planner has laid down: every device works off its own queues in a cycle.

    Parameters
    ----------
    cycles
        Of each device: queues in order, with the largest batch of each.
    """

    name = "planned"

    def __init__(self, cycles: Sequence[Sequence[tuple[int, int]]]) -> None:
        self.cycles = [deque(cycle) for cycle in cycles]

    def admit(self, query: Query, server: ServerView, now: float) -> bool:
        """Everything: the plan carries the rates."""
        return True

    def dispatch(self, device: SharedDevice, server: ServerView, now: float) -> Dispatch | None:
        """The next queue of the cycle that is not empty."""
        cycle = self.cycles[device.index]
        for _ in range(len(cycle)):
            queue, batch = cycle[0]
            cycle.rotate(-1)
            waiting = server.queues[queue]
            if waiting:
                return Dispatch(queue, [waiting.popleft() for _ in range(min(batch, len(waiting)))])
        return None

    def preempts(self, query: Query, device: SharedDevice, server: ServerView, now: float) -> bool:
        """Never."""
        return False


class SharedModels:
    """Serves the queries of many models with one policy or plan.

    Parameters
    ----------
    clock
        The one clock.
    profiles, queries
        The models, and all queries in order of arrival.
    policy, options
        Registered name of family ``model_scheduling``, and its parameters.
    devices
        What they share.
    limits
        Latency limit of each model's queries [s], for planners.

    Raises
    ------
    ConfigError
        If a model fits no device, or a plan needs more devices than there are.
    """

    def __init__(
        self, clock: Clock, profiles: Sequence[ModelProfile], queries: Sequence[Query], policy: str,
        options: Mapping[str, Any], devices: Devices, limits: Sequence[float],
    ) -> None:  # fmt: skip
        self.clock, self.queries, self.devices = clock, queries, devices
        self.done: simpy.Event | None = None
        self._asked = [query.model for query in queries]
        self._left, self._next = len(queries), 0
        self._route: Callable[[Query], None] = lambda query: None
        self._ends: list[float] | None = None
        self._server: ModelServer | None = None
        cls = lookup("model_scheduling", policy)
        given = {**options, **({"shares": _CUTS[options["shares"]]} if options.get("shares") in _CUTS else {})}
        if record_of(cls).kind == "policy":
            self._serve(profiles, cls(**given), devices.count)
        elif policy == "alpaserve":
            planner = cls(devices.count, devices.memory, **given)
            groups, _ = planner.place(list(profiles), list(queries))
            self._ends = serve_groups(queries, profiles, groups)
        else:
            self._plan(profiles, cls(**({"memory": devices.memory} if policy == "nexus" else {}), **given), limits)

    def _serve(self, profiles: Sequence[ModelProfile], policy: ModelPolicy, devices: int) -> None:
        self._server = ModelServer(
            self.clock, profiles, policy, devices=devices, memory=self.devices.memory,
            load_bandwidth=self.devices.load_bandwidth, on_end=self._ended,
        )  # fmt: skip

    def _plan(self, profiles: Sequence[ModelProfile], planner: Any, limits: Sequence[float]) -> None:
        """Lay queues out over devices as the plan says; a model on several devices has a queue on each."""
        span = max((q.arrival for q in self.queries), default=0.0)
        counts = np.bincount(self._asked, minlength=len(profiles))
        sessions = [
            Session(profile, float(count) / span if span else 0.0, limit)
            for profile, count, limit in zip(profiles, counts, limits, strict=True)
        ]
        used = [i for i, session in enumerate(sessions) if session.rate > 0.0]
        found = planner.plan([sessions[i] for i in used])
        queues: list[ModelProfile] = []
        homes: list[list[tuple[int, float]]] = [[] for _ in profiles]
        cycles: list[list[tuple[int, int]]] = []
        if found and isinstance(found[0], DutyCycle):
            needed = len(found)
            for cycle in found:
                cycles.append([])
                for s, batch in cycle.batches:
                    homes[used[s]].append((len(queues), batch / cycle.period))
                    cycles[-1].append((len(queues), batch))
                    queues.append(profiles[used[s]])
        else:
            needed = 1 + max((p.device for p in found), default=-1)
            for part in found:
                profile = profiles[used[part.session]]
                whole = planner.latency(profile, 1, part.share)
                two = planner.latency(profile, 2, part.share)
                homes[used[part.session]].append((len(queues), part.rate))
                cycles.append([(len(queues), part.batch)])
                queues.append(ModelProfile(profile.name, two - whole, 2 * whole - two, max_batch=profile.max_batch))
        if needed > self.devices.count:
            have = self.devices.count
            raise ConfigError(f"the plan needs {needed} devices for these rates and limits, there are {have}")
        self._spread(homes)
        self._serve(queues, Planned(cycles), len(cycles))

    def _spread(self, homes: Sequence[Sequence[tuple[int, float]]]) -> None:
        """Queries go to the queues of their model in proportion to the rates planned for them, evenly in time."""
        sent = [[0] * len(home) for home in homes]

        def route(query: Query) -> None:
            home, counts = homes[query.model], sent[query.model]
            best = min(range(len(home)), key=lambda i: (counts[i] + 1) / home[i][1])
            counts[best] += 1
            query.model = home[best][0]

        self._route = route

    # -- running -------------------------------------------------------------------------------------------------

    def start(self) -> simpy.Event:
        """Begin; the event fires when the last query has ended or was given up."""
        self._origin = self.clock.now
        self.done = self.clock.event()
        if self._ends is not None:
            for query, end in zip(self.queries, self._ends, strict=True):
                query.finish = end
            last = max((end for end in self._ends if end == end), default=0.0)
            done = self.done
            self.clock.after(last, lambda: done.succeed(self.result()))
        elif self.queries:
            self.clock.after(self.queries[0].arrival, self._arrive)
        else:
            self.done.succeed(self.result())
        return self.done

    def _arrive(self) -> None:
        query = self.queries[self._next]
        self._next += 1
        if self._next < len(self.queries):
            time = self._origin + self.queries[self._next].arrival
            self.clock.at(max(time, self.clock.now), self._arrive)
        self._route(query)
        assert self._server is not None
        self._server.submit(query)

    def _ended(self, query: Query) -> None:
        self._left -= 1
        if not self._left and self.done is not None:
            done = self.done
            self.clock.after(0.0, lambda: done.succeed(self.result()), late=True)

    def result(self) -> SharingRun:
        """What has happened so far; times count from the start, models are those asked for."""
        server = self._server

        def column(name: str) -> Any:
            return np.array([getattr(query, name) for query in self.queries])

        times = column("arrival"), column("finish"), column("deadline"), np.array(self._asked)
        if server is None:
            return SharingRun(*times, math.nan, 0.0, 0.0, ())
        return SharingRun(*times, server.busy, server.wasted, server.loading, tuple(server.batches))
