"""A fleet that grows and shrinks: orders, start-up, weight loading, draining, revocation, and what it all costs.

Every instance serves one request at a time out of one queue, first come first served: the service times are the
caller's. Replicas with continuous batching are what :mod:`simulator.serving.deployment` simulates; here the question is
how many there are and when.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from simulator.errors import ConfigError
from simulator.registry import lookup
from simulator.strategies.autoscaling.base import Autoscaler, FleetView, InstanceKind

if TYPE_CHECKING:
    import simpy

    from simulator.engine.clock import Clock

__all__ = ["Fleet", "FleetRun", "Instance", "serve_fleet"]


@dataclass
class Instance:
    """One instance: ordered, ready, perhaps draining, stopped [s]."""

    index: int
    ordered: float
    ready: bool = False
    draining: bool = False
    stopped: float = math.nan
    request: int = -1
    entry: Any = None


@dataclass(frozen=True)
class FleetRun:
    """What happened.

    Attributes
    ----------
    arrival, finish
        Of every request [s].
    on_function
        Which requests a function served.
    cost
        Rent and functions [USD], up to the end of the last request.
    history
        (time [s], ready, starting, outstanding) at every decision.
    restarts
        Requests begun again because their instance went away.
    """

    arrival: NDArray[np.float64]
    finish: NDArray[np.float64]
    on_function: NDArray[np.bool_]
    cost: float
    history: tuple[tuple[float, int, int, int], ...]
    restarts: int
    instances: tuple[Instance, ...]


class Fleet:
    """Instances of one kind under an autoscaler.

    Parameters
    ----------
    clock
        The one clock.
    arrival, service
        Of every request: time from the start of the fleet, in order, and seconds on an instance of speed 1.
    kind
        What is rented.
    policy
        Registered name of family ``autoscaling``, or an object.
    weights
        Bytes an instance loads before it serves.
    initial
        Instances that are ready at the start.
    interval
        Between two decisions [s]; one is also made when a request comes and there is no instance at all.
    function
        Where bursts go.
    """

    def __init__(
        self, clock: Clock, arrival: Sequence[float], service: Sequence[float], kind: InstanceKind,
        policy: str | Autoscaler, *, weights: float = 0.0, initial: int = 1, interval: float = 15.0,
        function: InstanceKind | None = None,
    ) -> None:  # fmt: skip
        if len(arrival) != len(service) or interval <= 0.0 or initial < 0:
            raise ConfigError(
                f"a fleet needs a service time per arrival and an interval above 0; have {len(arrival)} arrivals, "
                f"{len(service)} service times, {interval:g} s, {initial} instances"
            )
        self.clock, self.kind, self.function = clock, kind, function
        self.policy: Autoscaler = lookup("autoscaling", policy)() if isinstance(policy, str) else policy
        self.arrival, self.service = list(arrival), [s / kind.speed for s in service]
        self.lead, self.interval = kind.ready_after(weights), interval
        self.finish = [math.nan] * len(self.arrival)
        self.on_function = [False] * len(self.arrival)
        self.queue: deque[int] = deque()
        self.instances: list[Instance] = []
        self.history: list[tuple[float, int, int, int]] = []
        self.restarts = self._seen = 0
        self._burst_cost = 0.0
        self._served, self._work = 0, 0.0
        self._left, self._initial = len(self.arrival), initial
        self._decided = self._last_end = self._origin = 0.0
        self.done: simpy.Event | None = None

    # -- running -------------------------------------------------------------------------------------------------

    def start(self) -> simpy.Event:
        """Begin now; the returned event fires with the :class:`FleetRun` when the last request has ended."""
        self._origin = self._decided = self._last_end = self.clock.now
        self.done = self.clock.event()
        for _ in range(self._initial):
            self._order(0.0)
        for row, time in enumerate(self.arrival):
            self.clock.at(self._origin + time, lambda row=row: self._arrive(row))  # type: ignore[misc]
        self.clock.after(self.interval, self._tick, late=True)
        if not self._left:
            self.done.succeed(self.result())
        return self.done

    def result(self) -> FleetRun:
        """What has happened so far."""
        hours = (
            sum((i.stopped if i.stopped == i.stopped else self.clock.now) - i.ordered for i in self.instances) / 3600.0
        )
        return FleetRun(
            np.array(self.arrival), np.array(self.finish), np.array(self.on_function, dtype=bool),
            hours * self.kind.price + self._burst_cost, tuple(self.history), self.restarts, tuple(self.instances),
        )  # fmt: skip

    def view(self) -> FleetView:
        """What the policy sees now."""
        alive = [i for i in self.instances if i.stopped != i.stopped and not i.draining]
        ready = sum(i.ready for i in alive)
        busy = sum(i.request >= 0 for i in self.instances)
        outstanding = len(self.queue) + busy
        now = self.clock.now
        elapsed = now - self._decided
        # Before anything has been served the first requests' own times stand in.
        mean = self._work / self._served if self._served else (self.service[0] if self.service else 0.0)
        return FleetView(
            ready, len(alive) - ready, outstanding, self._seen / max(elapsed, self.interval),
            0.0 if outstanding else now - self._last_end, mean, self.lead,
        )  # fmt: skip

    # -- events --------------------------------------------------------------------------------------------------

    def _arrive(self, row: int) -> None:
        self._seen += 1
        view = self.view()
        if self.function is not None and self.policy.bursts(view, self.clock.now):
            self.on_function[row] = True
            self._burst_cost += self.function.per_request
            seconds = self.function.startup + self.service[row] * self.kind.speed / self.function.speed
            self.clock.after(seconds, lambda: self._ended(row))
            return
        self.queue.append(row)
        if not view.ready and not view.starting:
            self._decide()
        self._serve()

    def _tick(self) -> None:
        if not self._left:
            return
        self._decide()
        self._decided, self._seen = self.clock.now, 0
        self.clock.after(self.interval, self._tick, late=True)

    def _decide(self) -> None:
        view = self.view()
        self.history.append((self.clock.now - self._origin, view.ready, view.starting, view.outstanding))
        change = self.policy.desired(view, self.clock.now) - view.ready - view.starting
        for _ in range(change):
            self._order(self.lead)
        if change < 0:
            # Those that are still starting go first, then idle ones, then the busy ones once they have finished.
            alive = [i for i in self.instances if i.stopped != i.stopped and not i.draining]
            alive.sort(key=lambda i: (i.ready, i.request >= 0, -i.index))
            for instance in alive[:-change]:
                self._drain(instance)

    def _order(self, lead: float) -> None:
        instance = Instance(len(self.instances), self.clock.now)
        self.instances.append(instance)
        if lead > 0.0:
            instance.entry = self.clock.after(lead, lambda: self._ready(instance))
        else:
            self._ready(instance)

    def _ready(self, instance: Instance) -> None:
        instance.ready, instance.entry = True, None
        self._serve()

    def _drain(self, instance: Instance) -> None:
        instance.draining = True
        if instance.request < 0:
            self._release(instance)

    def _release(self, instance: Instance) -> None:
        if instance.entry is not None:
            self.clock.cancel(instance.entry)
            instance.entry = None
        instance.stopped, instance.ready = self.clock.now, False

    def _serve(self) -> None:
        for instance in self.instances:
            if not self.queue:
                return
            if instance.ready and not instance.draining and instance.request < 0:
                self._begin(instance, self.queue.popleft())

    def _begin(self, instance: Instance, row: int) -> None:
        instance.request = row
        instance.entry = self.clock.after(self.service[row], lambda: self._finish(instance))

    def _finish(self, instance: Instance) -> None:
        row, instance.request, instance.entry = instance.request, -1, None
        self._served += 1
        self._work += self.service[row]
        self._ended(row)
        if instance.draining:
            self._release(instance)
        self._serve()

    def _ended(self, row: int) -> None:
        self.finish[row] = self.clock.now - self._origin
        self._last_end = self.clock.now
        self._left -= 1
        if not self._left and self.done is not None:
            done = self.done
            self.clock.after(0.0, lambda: done.succeed(self.result()), late=True)

    def revoke(self, index: int, grace: float = 0.0) -> None:
        """An instance goes ``grace`` [s] from now: it takes nothing new, and loses what it has not finished."""
        instance = self.instances[index]
        if instance.stopped == instance.stopped:
            return
        instance.draining = True
        if instance.request < 0:
            self._release(instance)
        else:
            self.clock.after(grace, lambda: self._kill(instance))

    def _kill(self, instance: Instance) -> None:
        if instance.stopped == instance.stopped:
            return
        row, instance.request = instance.request, -1
        self._release(instance)
        if row >= 0:
            self.restarts += 1
            self.queue.appendleft(row)
            self._serve()


def serve_fleet(
    arrival: Sequence[float], service: Sequence[float], kind: InstanceKind, policy: str | Autoscaler,
    revocations: Sequence[tuple[float, int]] = (), grace: float = 30.0, **options: Any,
) -> FleetRun:  # fmt: skip
    """Serve to the end on a clock of its own; ``revocations``: (notice [s], instance).

    See :class:`Fleet` for ``options``. Ends only if the policy keeps instances while requests wait.
    """
    from simulator.engine.clock import Clock as NewClock

    clock = NewClock()
    fleet = Fleet(clock, arrival, service, kind, policy, **options)
    done = fleet.start()
    for time, index in revocations:
        clock.at(time, lambda index=index: fleet.revoke(index, grace))  # type: ignore[misc]
    result: FleetRun = clock.run(done)
    return result
