"""One site of a fleet that runs functions: containers, those that are kept warm, and the queue in front of them."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from simulator.hardware.types import Site

__all__ = ["Container", "FunctionSite", "Start"]


@dataclass(frozen=True)
class FunctionSite:
    """What a site is.

    Attributes
    ----------
    name, site
        Its name, electricity and carbon.
    capacity
        Containers that fit.
    slowness
        Execution time over that at the first site.
    latency
        One way to it [s].
    bandwidth
        To it [B/s]; infinity inside the first site.
    load
        Bandwidth at which a new container reads its data [B/s].
    rent
        Of a container, low and high [USD/s]: what a machine costs while it is held for one.
    egress
        Of data that leaves it, [USD/B].
    busy_power, idle_power
        Of a container at work and at rest, losses of the building included [W].
    pays_power
        Whether electricity is paid beside the rent.
    """

    name: str
    site: Site
    capacity: int
    slowness: float = 1.0
    latency: float = 0.0
    bandwidth: float = float("inf")
    load: float = float("inf")
    rent: tuple[float, float] = (0.0, 0.0)
    egress: float = 0.0
    busy_power: float = 0.0
    idle_power: float = 0.0
    pays_power: bool = False
    accelerators: int = 0
    source: str = ""


@dataclass(slots=True, eq=False)
class Container:
    """A container of functions with one key; ``since`` is when it last changed between work and rest [s]."""

    key: int
    since: float
    version: int = 0


@dataclass(frozen=True, slots=True)
class Start:
    """A call that starts on a container that ``rested`` so long before [s]; NaN: on a new one, after a cold start."""

    call: int
    container: Container
    rested: float

    @property
    def cold(self) -> bool:
        """Whether it waits for a new container."""
        return self.rested != self.rested


@dataclass(eq=False)
class SiteState:
    """Containers and queue of one site, and what they used so far.

    Attributes
    ----------
    busy
        Containers that start or work.
    idle
        Containers at rest, by key, the one that rests longest first.
    working, starting, resting
        Container-seconds.
    energy, carbon, power_cost
        Of all of them [J], [g], and [USD] at the prices of the hour.
    """

    site: FunctionSite
    busy: int = 0
    idle: OrderedDict[Container, None] = field(default_factory=OrderedDict)
    by_key: dict[int, list[Container]] = field(default_factory=dict)
    queue: deque[tuple[int, int]] = field(default_factory=deque)
    working: float = 0.0
    starting: float = 0.0
    resting: float = 0.0
    energy: float = 0.0
    carbon: float = 0.0
    power_cost: float = 0.0
    calls: int = 0
    cold: int = 0
    evicted: int = 0

    @property
    def free(self) -> int:
        """Containers that could start at once; those at rest make room."""
        return self.site.capacity - self.busy

    def warm(self, key: int) -> int:
        """Containers at rest with this key."""
        return len(self.by_key.get(key, ()))

    def arrive(self, call: int, key: int, now: float) -> Start | None:
        """A call that starts at once, or waits in the queue."""
        if self.busy >= self.site.capacity:
            self.queue.append((call, key))
            return None
        return self._start(call, key, now)

    def _start(self, call: int, key: int, now: float) -> Start:
        self.calls += 1
        kept = self.by_key.get(key)
        if kept:
            container = kept[-1]  # the one that worked last: the others may go
            rested = now - container.since
            self._wake(container, now)
        else:
            if self.busy + len(self.idle) >= self.site.capacity:
                self._wake(next(iter(self.idle)), now)
                self.busy -= 1
                self.evicted += 1
            container, rested = Container(key, now), math.nan
            self.busy += 1
            self.cold += 1
        return Start(call, container, rested)

    def _wake(self, container: Container, now: float) -> None:
        """From rest to work."""
        self._rested(container, now)
        self.busy += 1

    def _rested(self, container: Container, now: float) -> None:
        del self.idle[container]
        self.by_key[container.key].remove(container)
        container.version += 1
        self.resting += now - container.since
        self._use(container.since, now, self.site.idle_power)
        container.since = now

    def done(self, container: Container, started: float, cold: float, now: float) -> Start | None:
        """A call ended at ``now`` after ``cold`` seconds of start; the next of the queue takes its place, if any."""
        self.busy -= 1
        self.starting += cold
        self.working += now - started - cold
        self._use(started, started + cold, self.site.idle_power)
        self._use(started + cold, now, self.site.busy_power)
        container.since = now
        container.version += 1
        self.idle[container] = None
        self.by_key.setdefault(container.key, []).append(container)
        if self.queue and self.busy < self.site.capacity:
            call, key = self.queue.popleft()
            return self._start(call, key, now)
        return None

    def expire(self, container: Container, version: int, now: float) -> bool:
        """A container at rest goes, unless it has worked since."""
        if container not in self.idle or container.version != version:
            return False
        self._rested(container, now)
        return True

    def close(self, now: float) -> None:
        """Book what containers at rest used until the end."""
        for container in list(self.idle):
            self._rested(container, now)

    def _use(self, begin: float, end: float, watts: float) -> None:
        if end <= begin:
            return
        energy = watts * (end - begin)
        self.energy += energy
        self.carbon += energy * self.site.site.mean_carbon(begin, end)
        if self.site.pays_power:
            self.power_cost += energy * self.site.site.mean_price(begin, end)

    @property
    def held(self) -> float:
        """Container-seconds in all."""
        return self.working + self.starting + self.resting
