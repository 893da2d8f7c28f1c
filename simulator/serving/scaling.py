"""A deployment whose replicas come and go: orders, start-up, weight loading, draining, and machines taken away.

The replicas are those of :class:`~simulator.serving.deployment.DeploymentProcess`, which holds as many as there may
ever be; this actor decides which of them take requests.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.strategies.autoscaling.base import Autoscaler, FleetView
from simulator.workload.fleets import SpotMarket

if TYPE_CHECKING:
    import simpy

    from simulator.engine.clock import Clock
    from simulator.serving.deployment import DeploymentProcess

__all__ = ["FleetEvent", "Life", "ReplicaFleet", "WeightLoader"]

WeightLoader = Callable[[int, Callable[[], object]], object]
"""Starts to load the weights of a replica; calls back when they are there."""


@dataclass
class Life:
    """One time that a replica exists: ordered, ready, closed to new requests, stopped [s]; NaN: not yet."""

    replica: int
    ordered: float
    ready: float = math.nan
    closed: float = math.nan
    stopped: float = math.nan
    entry: Any = None

    @property
    def draining(self) -> bool:
        """Whether it takes no new requests."""
        return not math.isnan(self.closed)

    @property
    def is_up(self) -> bool:
        """Whether it is ready and has not stopped."""
        return not math.isnan(self.ready) and math.isnan(self.stopped)


@dataclass(frozen=True)
class FleetEvent:
    """Something that happened to a replica."""

    time: float
    replica: int
    event: str
    detail: str = ""


class ReplicaFleet:
    """Decides which replicas of a deployment are there.

    Parameters
    ----------
    clock, process
        The one clock, and the deployment with the most replicas there may be.
    policy
        Says how many there should be; ``None``: as many as ``initial``, those taken away are replaced.
    minimum, maximum, initial
        Replicas; ``initial`` ones are ready at the start.
    interval
        Between two decisions [s]; one is also made when a request finds no replica at all.
    startup, load
        From an order until the weights can be loaded [s], and how they are loaded.
    lead
        From an order to a ready replica on an idle network [s], for policies that plan ahead.
    service
        Replica seconds that a request takes in a full engine [s], for policies that plan by rate.
    spot, seed
        The machines that may be taken away, and the seed of when.

    Notes
    -----
    A replica that is no longer wanted takes no new requests, ends those it has and is released; one that is still
    wanted again before that goes on. Replicas that are starting go first, then idle ones, then those with the least to
    do.
    """

    def __init__(
        self, clock: Clock, process: DeploymentProcess, policy: Autoscaler | None, *, minimum: int, maximum: int,
        initial: int, load: WeightLoader, interval: float = 15.0, startup: float = 0.0, lead: float = 0.0,
        service: float = 0.0, spot: SpotMarket | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        self.clock, self.process, self.policy = clock, process, policy
        self.minimum, self.maximum, self.initial = minimum, maximum, initial
        self.interval, self.startup, self.load = interval, startup, load
        self.lead, self.service, self.spot = lead, service, spot
        self.lives: list[Life] = []
        self.events: list[FleetEvent] = []
        self.restarts = 0
        """Requests that began again because their replica was taken away or failed."""
        self.on_machine: Callable[[int, bool], object] | None = None
        """Called with a replica's number when its machine has nothing to do (True), or is needed again (False)."""
        self.on_notice: Callable[[int, float], object] | None = None
        """Called with a replica whose machine will be taken away, and its grace [s]."""
        self.failures: dict[str, int] = {}
        """Failure kind → replicas it stopped."""
        self._random = np.random.Generator(np.random.PCG64(seed))
        self._decided, self._seen, self._asked = 0.0, 0, False
        self._origin = 0.0
        self._without_node: Counter[int] = Counter()

    # -- running -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Open the first replicas; call before the deployment starts at the same time."""
        self._origin = self.clock.now
        self.process.on_held = self._nobody
        for index in range(self.initial):
            life = Life(index, 0.0, 0.0)
            self.lives.append(life)
            self._expect_notice(life)
        self._open()
        self.clock.after(self.interval, self._tick, late=True)

    @property
    def _now(self) -> float:
        return self.clock.now - self._origin

    @property
    def _over(self) -> bool:
        done = self.process.done
        return done is not None and done.triggered

    def provisioned(self, end: float) -> float:
        """Replica seconds from order to release, up to ``end`` [s]."""
        self._release_idle()
        return sum(min(end, end if math.isnan(i.stopped) else i.stopped) - min(end, i.ordered) for i in self.lives)

    def bursts(self, now: float) -> bool:
        """Whether the request that comes at ``now`` [s] goes to a function, by the policy."""
        return self.policy is not None and self.policy.bursts(self.view(), now)

    def view(self) -> FleetView:
        """What the policy sees now."""
        now, process = self._now, self.process
        alive = [life for life in self.lives if math.isnan(life.stopped)]
        outstanding = len(process.held) + sum(process.replicas[life.replica].outstanding for life in alive)
        wanted = [life for life in alive if not life.draining]
        ready = sum(life.is_up for life in wanted)
        rate = (process.arrivals - self._seen) / max(now - self._decided, self.interval)
        last = max(replica.usage.until for replica in process.replicas)
        idle = 0.0 if outstanding else now - last
        return FleetView(ready, len(wanted) - ready, outstanding, rate, idle, self.service, self.lead)

    # -- decisions -----------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        if self._over:
            return
        self._release_idle()
        self._decide()
        self._decided, self._seen = self._now, self.process.arrivals
        self.clock.after(self.interval, self._tick, late=True)

    def _nobody(self, now: float) -> None:
        """A request has found no replica open; the deployment may be ahead of the clock."""
        if not self._asked:
            self._asked = True
            self.clock.at(max(self._origin + now, self.clock.now), self._decide_at_once)

    def _decide_at_once(self) -> None:
        self._asked = False
        if not any(math.isnan(life.stopped) and not life.draining for life in self.lives):
            self._decide()

    def _decide(self) -> None:
        view = self.view()
        wanted = self.initial if self.policy is None else self.policy.desired(view, self._now)
        change = max(self.minimum, min(self.maximum, wanted)) - view.ready - view.starting
        if change > 0:
            self._grow(change)
        elif change < 0:
            self._shrink(-change)

    def _grow(self, count: int) -> None:
        draining = [i for i in self.lives if i.draining and i.is_up and not i.entry]
        for life in draining[:count]:
            life.closed = math.nan
            self._note(life, "replica kept")
        for index in self.idle()[: count - len(draining[:count])]:
            self._order(index)
        if draining:
            self._open()

    def _shrink(self, count: int) -> None:
        alive = [i for i in self.lives if math.isnan(i.stopped) and not i.draining]
        alive.sort(key=lambda i: (i.is_up, self.process.replicas[i.replica].outstanding, -i.replica))
        for life in alive[:count]:
            life.closed = self._now
            self._note(life, "replica drained")
            if not life.is_up:
                self._stop(life)
        self._open()
        self._release_idle()

    # -- one replica ---------------------------------------------------------------------------------------------

    def _order(self, index: int) -> None:
        life = Life(index, self._now)
        self.lives.append(life)
        self._tell(index, False)
        self._note(life, "replica ordered")
        life.entry = self.clock.after(self.startup, lambda: self._load(life))

    def _load(self, life: Life) -> None:
        life.entry = None
        self.load(life.replica, lambda: self._ready(life))

    def _ready(self, life: Life) -> None:
        if not math.isnan(life.stopped):
            return
        life.ready = self._now
        self._note(life, "replica ready", f"{life.ready - life.ordered:.6g} s after its order")
        self._expect_notice(life)
        self._open()

    def _stop(self, life: Life, time: float | None = None) -> None:
        if life.entry is not None:
            self.clock.cancel(life.entry)
            life.entry = None
        life.stopped = self._now if time is None else time
        self._note(life, "replica released", time=life.stopped)
        self._tell(life.replica, True)

    def _release_idle(self) -> None:
        """Draining replicas that have nothing left to do have been free since their last request ended."""
        for life in self.lives:
            replica = self.process.replicas[life.replica]
            if life.draining and life.is_up and not life.entry and not replica.outstanding:
                self._stop(life, max(replica.usage.until, life.closed))

    def _open(self) -> None:
        self.process.open_only([life.replica for life in self.lives if life.is_up and not life.draining])

    def _note(self, life: Life, event: str, detail: str = "", time: float | None = None) -> None:
        self.events.append(FleetEvent(self._now if time is None else time, life.replica, event, detail))

    # -- machines taken away -------------------------------------------------------------------------------------

    def _expect_notice(self, life: Life) -> None:
        if self.spot is not None:
            after = float(self._random.exponential(self.spot.mean_life))
            self.clock.after(after, lambda: self._notice(life))

    def _notice(self, life: Life) -> None:
        assert self.spot is not None
        if not self._over and math.isnan(life.stopped):
            self.revoke(life.replica, self.spot.grace)

    def revoke(self, replica: int, grace: float = 0.0) -> None:
        """A replica's machine goes ``grace`` [s] from now: it takes nothing new, and loses what it has not ended."""
        life = next((i for i in self.lives if i.replica == replica and math.isnan(i.stopped)), None)
        if life is None:
            return
        self._note(life, "replica revoked", f"{grace:.6g} s of grace")
        life.closed = self._now
        if life.is_up:
            life.entry = self.clock.after(grace, lambda: self._taken(life))
            self._open()
            if self.on_notice is not None:
                self.on_notice(replica, grace)
        else:
            self._stop(life)

    def _taken(self, life: Life) -> None:
        life.entry = None
        lost = self.process.evacuate(life.replica)
        self.restarts += lost
        life.stopped = self._now
        self._note(life, "replica taken away", f"{lost} requests begin again" if lost else "")
        if not self._over:
            self._decide()

    # -- machines that fail --------------------------------------------------------------------------------------

    def fail(self, replica: int, kind: str, after: float = 0.0, node: simpy.Event | None = None) -> None:
        """A replica is gone now with all it held.

        Parameters
        ----------
        kind
            What failed.
        after
            Until the failure is noticed and another replica may be ordered [s].
        node
            Fires when there is a machine in the place of the failed one; ``None``: the same can be used again.
        """
        life = next((i for i in self.lives if i.replica == replica and math.isnan(i.stopped)), None)
        if self._over:
            return
        self._without_node[replica] += 1
        if life is not None:
            self._lose(life, kind)

        def noticed(_: object = None) -> None:
            self.clock.after(after, lambda: self._usable(replica))

        if node is None or node.callbacks is None:
            noticed()
        else:
            node.callbacks.append(noticed)

    def _lose(self, life: Life, kind: str) -> None:
        if life.entry is not None:
            self.clock.cancel(life.entry)
            life.entry = None
        lost = 0
        if life.is_up:
            lost = self.process.evacuate(life.replica)
            self.restarts += lost
        self.failures[kind] = self.failures.get(kind, 0) + 1
        life.stopped = self._now
        self._note(life, "replica failed", f"{kind}; {lost} requests begin again" if lost else kind)
        self._open()

    def _usable(self, replica: int) -> None:
        self._without_node[replica] -= 1
        if not self._over:
            self._decide()
            if replica in self.idle():
                self._tell(replica, True)

    # -- machines that have nothing to do ------------------------------------------------------------------------

    def idle(self) -> list[int]:
        """Replicas that do not exist now and whose machines work."""
        taken = {life.replica for life in self.lives if math.isnan(life.stopped)}
        return [index for index in range(self.maximum) if index not in taken and not self._without_node[index]]

    def _tell(self, replica: int, free: bool) -> None:
        if self.on_machine is not None:
            self.on_machine(replica, free)
