"""Failures on the clock: nodes go down and come back, spares step in, jobs are told."""

from __future__ import annotations

import bisect
import math
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from simulator.cluster.failure_draws import Failure, failures_of, repair_time
from simulator.training.survival import Hit
from simulator.workload.failures.model import FailureKind, FailureModel

if TYPE_CHECKING:
    import simpy

    from simulator.engine.clock import Clock

__all__ = ["FailureProcess", "Hit", "Watched"]


class Watched(Protocol):
    """What runs on nodes that fail: a training job, a queue of jobs, the replicas of a deployment."""

    @property
    def alive(self) -> bool:
        """Whether a failure would hit anything."""

    @property
    def done(self) -> bool:
        """Whether its nodes are free for others."""

    def fail(self, hit: Hit) -> None:
        """A node failed, or what runs on it; if the hit has a replacement, the node is gone until that event.

        The event's value is the number of the node that steps in.
        """

    def degrade(self, position: int, speed: float) -> None:
        """From now on a node has this share of its speed; 1 = healthy again."""


Places = tuple[tuple[Watched, int], ...]
"""What has parts on a node, and which of its own nodes that is."""


class _Waiting(NamedTuple):
    """Who waits for a node of so many accelerators."""

    places: Places
    size: int
    event: simpy.Event


class FailureProcess:
    """Fails nodes of a cluster, repairs them, and gives jobs others of the same size in their place.

    Parameters
    ----------
    clock, model
        The one clock; what fails and how long repairs take.
    sizes
        Accelerators of each node of the cluster.
    reserved
        Nodes of other workloads: they are no spares. All nodes without work are, or as many as the model says.
    seed
        Of the draws.

    Attributes
    ----------
    failed
        Nodes that went down so far, whether or not they had work.
    """

    def __init__(
        self, clock: Clock, model: FailureModel, sizes: Sequence[int], reserved: Iterable[int] = (), seed: int = 0
    ) -> None:
        self.clock, self.model, self.sizes = clock, model, sizes
        self.random = np.random.Generator(np.random.PCG64(seed))
        self.failed = 0
        self._owner: dict[int, Places] = {}
        self._down: set[int] = set()
        self._spares = sorted(set(range(len(sizes))) - set(reserved))
        self._waiting: deque[_Waiting] = deque()

    def watch(self, process: Watched, nodes: Iterable[int]) -> None:
        """From now on these nodes belong to a workload, in the order of its own count of them."""
        owned = {node: position for position, node in enumerate(nodes)}
        self._owner |= {node: (*self._owner.get(node, ()), (process, place)) for node, place in owned.items()}
        self._spares = [n for n in self._spares if n not in owned]

    @property
    def spares(self) -> int:
        """Nodes that are up and free."""
        return len(self._spares)

    def start(self) -> None:
        """Begin to fail; there is no end to it. Of the nodes without work only the spares step in."""
        if self.model.spares is not None:
            del self._spares[self.model.spares :]
        self.clock.process(self._fail())

    def _fail(self) -> Generator[Any, Any, None]:
        for failure in failures_of(self.model, self.sizes, self.random):
            yield self.clock.timeout(max(0.0, failure.time - self.clock.now))
            self.hit(failure)

    def hit(self, failure: Failure) -> None:
        """One failure, now."""
        node, kind = failure.node, failure.kind
        if node in self._down:
            return
        places = self._owner.get(node, ())
        repair = failure.repair
        if math.isnan(repair) and (kind.replaces_node or kind.slows_to):
            repair = repair_time(self.model.repair, self.random)
        if kind.slows_to:
            self._degrade(node, kind.slows_to, repair)
        elif not kind.replaces_node:
            self._fail_parts(places, kind, None)
        else:
            self._take_down(node, repair)
            if places:
                del self._owner[node]
                for process, position in places:
                    process.degrade(position, 1.0)
                self._fail_parts(places, kind, self._request(places, self.sizes[node]))

    @staticmethod
    def _fail_parts(places: Places, kind: FailureKind, replacement: simpy.Event | None) -> None:
        for process, position in places:
            if process.alive:
                process.fail(Hit(kind.name, position, replacement, planned=kind.planned and replacement is None))

    def _take_down(self, node: int, repair: float) -> None:
        self.failed += 1
        self._down.add(node)
        if node in self._spares:
            self._spares.remove(node)
        if math.isfinite(repair):
            self.clock.after(repair, lambda: self._repaired(node))

    def _repaired(self, node: int) -> None:
        self._down.discard(node)
        self._waiting = deque(w for w in self._waiting if not all(process.done for process, _ in w.places))
        for waiting in self._waiting:
            if waiting.size == self.sizes[node]:
                self._waiting.remove(waiting)
                self._owner[node] = waiting.places
                waiting.event.succeed(node)
                return
        bisect.insort(self._spares, node)

    def _request(self, places: Places, size: int) -> simpy.Event:
        """An event that fires with the number of another node in the place of one: at once while there are spares."""
        event = self.clock.event()
        spare = self._spare(size)
        if spare is None:
            self._release_finished()
            spare = self._spare(size)
        if spare is None:
            self._waiting.append(_Waiting(places, size, event))
            return event
        self._spares.remove(spare)
        self._owner[spare] = places
        event.succeed(spare)
        return event

    def _spare(self, size: int) -> int | None:
        """The first free node with so many accelerators."""
        return next((node for node in self._spares if self.sizes[node] == size), None)

    def _release_finished(self) -> None:
        """Nodes of jobs that have ended are free."""
        free = [node for node, places in self._owner.items() if all(process.done for process, _ in places)]
        for node in free:
            del self._owner[node]
            bisect.insort(self._spares, node)

    def _degrade(self, node: int, speed: float, seconds: float) -> None:
        places = self._owner.get(node, ())
        for process, position in places:
            process.degrade(position, speed)

        def healthy() -> None:
            if self._owner.get(node) == places:
                for process, position in places:
                    process.degrade(position, 1.0)

        self.clock.after(seconds, healthy)
