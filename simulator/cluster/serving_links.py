"""Serving replicas that share links: what their iterations send, averaged over seconds, and how they stretch.

A replica repeats iterations whose batch changes with every request; each sends its collectives in bursts of
microseconds. As with training (:mod:`simulator.cluster.contention`) a replica is a periodic load: phases by mesh axis,
then nothing. Its period is the mean of the iterations that it and its equals have run lately, idle time included; the
network hears of it when that mean has moved, not at every iteration. Back comes how many times longer messages take,
and iterations are priced with that from the next boundary on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from simulator.cluster.serving_load import Level, ReplicaLoad
from simulator.serving.estimate import ServingCost, put_on_links
from simulator.serving.message_links import ReplicaWays
from simulator.strategies.protocols import BatchShape
from simulator.workload.plan import base_axis

if TYPE_CHECKING:
    from simulator.network.fabric import Fabric
    from simulator.serving.flight import Flight
    from simulator.serving.linked_deployment import Linked

__all__ = ["SharedIterations", "WatchedReplica"]

Floats = NDArray[np.float64]

WINDOW: Final = 1.0
"""Memory of the mean over iterations [s]: some dozen of them. Bytes are sent that much later, but all of them."""
_ALIKE: Final = 1 / 16
"""Relative difference in bytes or seconds up to which the network is not told."""
_TICK: Final = WINDOW / 4
_SETTLED: Final = 1e-3
"""How often iterations are priced anew while what the network gives changes [s], and the difference where that ends."""
_MOST_LEVELS: Final = 256
_ANY: Final = BatchShape(((64, 0),), 1, 64)
"""A batch with prompts and decodes: what is sent at all does not depend on it."""


class SharedIterations:
    """Equal replicas: what they send in the mean.

    Parameters
    ----------
    tag
        The deployment's name, for the books.
    fabric
        The shared network.
    numbers
        Of the replicas in the deployment.
    costs, ways
        Of each replica: its own iteration times, and where its messages go.

    Attributes
    ----------
    process
        The deployment, once it is there.
    replicas
        The watchers of its engines.
    """

    def __init__(
        self, tag: str, fabric: Fabric, numbers: Sequence[int], costs: Sequence[ServingCost],
        ways: Sequence[ReplicaWays],
    ) -> None:  # fmt: skip
        self.tag, self.fabric = tag, fabric
        self.messages = costs[0].away(_ANY)
        self.process: Linked | None = None
        self._present: dict[WatchedReplica, None] = {}
        self._levels: list[Level] = []
        self._level: Level | None = None
        self._coming = False
        self.replicas = [WatchedReplica(self, *one) for one in zip(numbers, costs, ways, strict=True)]

    def start(self, process: Linked) -> None:
        """The deployment is there."""
        self.process = process
        self.fabric.watchers.append(self._links_changed)
        if self.fabric.changes:
            self._links_changed()

    @property
    def to(self) -> Linked:
        """The deployment."""
        assert self.process is not None
        return self.process

    def show(self, replica: WatchedReplica, now: float) -> None:
        """A replica sends something else from ``now`` on [s since the start]."""
        fresh = replica not in self._present
        self._present[replica] = None
        if not self._coming and (fresh or self._level is None or not _alike(self._mean, self._level)):
            self._coming = True
            self.to.call_at(now, self._tell)

    def rests(self, replica: WatchedReplica, now: float) -> None:
        """A replica has nothing to do from ``now`` on: its mean is sent to the end."""
        self.show(replica, now)
        self.to.call_at(now + WINDOW, lambda: self._leave(replica, now))

    def _leave(self, replica: WatchedReplica, since: float) -> None:
        if replica.resting and replica.since == since:
            del self._present[replica]
            replica.load.stop()
            replica.forget()

    @property
    def _mean(self) -> Level:
        """Over all replicas that have something to do."""
        total: Floats = np.mean([replica.shown for replica in self._present], axis=0)
        total = total[:-1] / max(1.0 - float(total[-1]), 1e-9)
        return Level(-1, total[: len(self.messages)], total[len(self.messages) :])

    def _tell(self) -> None:
        """The network hears of the mean; a level that it has heard before it need not work out again."""
        self._coming = False
        if not self._present:
            return
        mean = self._mean
        if self._level is None or not _alike(mean, self._level):
            known = next((level for level in self._levels if _alike(mean, level)), None)
            if known is None:
                if len(self._levels) >= _MOST_LEVELS:
                    self._levels.clear()
                    for replica in self.replicas:
                        replica.load.forget()
                known = mean._replace(number=len(self._levels))
                self._levels.append(known)
            self._level = known
        for replica in self._present:
            replica.load.send(self._level)

    def _links_changed(self) -> None:
        for replica in self.replicas:
            if replica.load.reroute():
                self.to.joined_again(replica.number)
            else:
                self.to.cut_off(replica.number)


def _alike(mine: Level, known: Level) -> bool:
    return all(bool((np.abs(a - b) <= _ALIKE * b).all()) for a, b in zip(mine[1:], known[1:], strict=True))


class WatchedReplica:
    """What one replica sends; the watcher of its engine.

    Parameters
    ----------
    group
        Its equals.
    number
        In the deployment.
    cost, ways
        Its own iteration times, and where its messages go.

    Attributes
    ----------
    load
        What the network sees of it.
    shown
        Per second: bytes by kind of message, seconds of undisturbed messages by axis, seconds that they took longer.
    slow
        How many times longer messages are priced now, by axis; 1 where nothing is said.
    lost
        Time that messages took longer so far [s].
    resting, since
        Whether nothing is in flight, and when it last changed what it does [s since the start].
    """

    def __init__(self, group: SharedIterations, number: int, cost: ServingCost, ways: ReplicaWays) -> None:
        self.group, self.number, self.cost, self.ways = group, number, cost, ways
        self.load = ReplicaLoad(group.tag, group.fabric, ways, group.messages, self._told)
        self._nothing: Floats = np.zeros(len(group.messages) + len(self.load.axes) + 1)
        self.shown = self._mean = self._rate = self._nothing
        self.since = self._until = self.lost = 0.0
        self.resting, self.slow = True, dict[str, float]()
        self._contents: dict[tuple[int, int, int], Floats] = {}
        self._given, self._speed = dict[str, float](), dict[str, float]()
        self._felt_until, self._ticking = 0.0, False

    def launched(self, shape: BatchShape, flight: Flight) -> None:
        """See :class:`~simulator.serving.flight.Watcher`; with stages the next batch follows a stage behind."""
        span = (flight.end - flight.start) / self.cost.stages
        self._book(flight.start)
        self.resting = False
        self._rate, self._until = self._content(shape) * (flight.iterations / span), flight.start + span
        memory = WINDOW * -math.expm1(-span / WINDOW) / span
        self.shown = memory * self._mean + (1.0 - memory) * self._rate  # the mean, averaged over the flight
        self.group.show(self, flight.start)

    def idle(self, now: float) -> None:
        """See :class:`~simulator.serving.flight.Watcher`."""
        if not self.resting:
            self._book(now)
            self.resting, self.shown = True, self._mean
            self.group.rests(self, now)

    def forget(self) -> None:
        """It begins anew."""
        self._mean = self._nothing

    def _book(self, now: float) -> None:
        """What has been sent since the last time enters the mean."""
        active = max(0.0, min(now, self._until) - self.since)
        fade, rest = math.exp(-active / WINDOW), math.exp(-(now - self.since - active) / WINDOW)
        self._mean = rest * (fade * self._mean + (1.0 - fade) * self._rate)
        self.lost += float(self._rate[-1]) * active
        self.since = self._until = now

    def _content(self, shape: BatchShape) -> Floats:
        """What one iteration sends, and how much longer that takes now."""
        key = (sum(chunk for chunk, _ in shape.prefill), len(shape.prefill), shape.decodes)
        known = self._contents.get(key)
        if known is None:
            found, axes = {away[:2]: away for away in self.cost.away(shape)}, self.load.axes
            sizes = [found[kind[:2]].size if kind[:2] in found else 0.0 for kind in self.group.messages]
            seconds = [sum(a.seconds for a in found.values() if base_axis(a.axis) == axis) for axis in axes]
            longer = sum((self.slow.get(axis, 1.0) - 1.0) * s for axis, s in zip(axes, seconds, strict=True))
            known = self._contents[key] = np.array([*sizes, *seconds, longer])
        return known

    def _told(self, slow: dict[str, float]) -> None:
        """The network gives so much from now on. An iteration cannot be priced anew while it runs, and what disturbs it
        is often shorter (keys and values that leave as it begins): it is priced by the mean speed that was given."""
        self._felt()
        self._given = {axis: 1.0 / factor for axis, factor in slow.items()}
        if not self._ticking:
            self._ticking = True
            self.group.to.call_at(self.group.to.now + _TICK, self._tick)

    def _felt(self) -> None:
        """What was given since the last time enters the mean."""
        now = self.group.to.now
        fade, given = math.exp(-(now - self._felt_until) / WINDOW), self._given
        self._felt_until = now
        for axis in {*self._speed, *given}:
            to = given.get(axis, 1.0)
            self._speed[axis] = to + fade * (self._speed.get(axis, 1.0) - to)

    def _tick(self) -> None:
        """Iterations take as long as the mean says, until that has become what is given."""
        self._ticking = False
        self._felt()
        if all(abs(speed / self._given.get(axis, 1.0) - 1.0) <= _SETTLED for axis, speed in self._speed.items()):
            self._speed = dict(self._given)
        else:
            self._ticking = True
            self.group.to.call_at(self.group.to.now + _TICK, self._tick)
        slow = {axis: 1.0 / speed for axis, speed in self._speed.items()}
        if slow != self.slow:
            self.slow = slow
            self._contents.clear()
            put_on_links(self.cost, replace(self.cost.priced[0].links, slow=slow))
            self.group.to.repriced(self.number)
