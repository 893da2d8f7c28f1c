"""Failures on the clock: nodes go down and come back, spares step in, jobs are told."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.cluster.failure_draws import Failure, failures_of, repair_time
from simulator.training.process import TrainingProcess
from simulator.training.survival import Hit
from simulator.workload.failures.model import FailureModel

if TYPE_CHECKING:
    import simpy

    from simulator.engine.clock import Clock

__all__ = ["FailureProcess"]

Place = tuple[TrainingProcess, int]


class FailureProcess:
    """Fails nodes of a cluster, repairs them, and gives jobs others in their place.

    Parameters
    ----------
    clock, model
        The one clock; what fails and how long repairs take.
    sizes
        Accelerators of each node of the cluster.
    reserved
        Nodes of other workloads: they are no spares. All nodes without work are.
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
        self._owner: dict[int, Place] = {}
        self._down: set[int] = set()
        self._spares = sorted(set(range(len(sizes))) - set(reserved))
        self._waiting: deque[tuple[Place, simpy.Event]] = deque()

    def watch(self, process: TrainingProcess, nodes: Iterable[int]) -> None:
        """From now on these nodes belong to a job, in the order of its ranks."""
        owned = {node: (process, position) for position, node in enumerate(nodes)}
        self._owner |= owned
        self._spares = [n for n in self._spares if n not in owned]

    @property
    def spares(self) -> int:
        """Nodes that are up and free."""
        return len(self._spares)

    def start(self) -> None:
        """Begin to fail; there is no end to it."""
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
        place = self._owner.get(node)
        repair = failure.repair
        if math.isnan(repair) and (kind.replaces_node or kind.slows_to):
            repair = repair_time(self.model.repair, self.random)
        if kind.slows_to:
            self._degrade(node, kind.slows_to, repair)
        elif not kind.replaces_node:
            if place is not None and place[0].alive:
                place[0].fail(Hit(kind.name, place[1], planned=kind.planned))
        else:
            self._take_down(node, repair)
            if place is not None:
                del self._owner[node]
                place[0].degrade(place[1], 1.0)
                replacement = self._request(place)
                if place[0].alive:
                    place[0].fail(Hit(kind.name, place[1], replacement))

    def _take_down(self, node: int, repair: float) -> None:
        self.failed += 1
        self._down.add(node)
        if node in self._spares:
            self._spares.remove(node)
        if math.isfinite(repair):
            self.clock.after(repair, lambda: self._repaired(node))

    def _repaired(self, node: int) -> None:
        self._down.discard(node)
        while self._waiting:
            place, event = self._waiting.popleft()
            if not place[0].run.done:
                self._owner[node] = place
                event.succeed()
                return
        heapq.heappush(self._spares, node)

    def _request(self, place: Place) -> simpy.Event:
        """An event that fires when the job has another node at that position: at once while there are spares."""
        event = self.clock.event()
        if not self._spares:
            self._release_finished()
        if self._spares:
            self._owner[heapq.heappop(self._spares)] = place
            event.succeed()
        else:
            self._waiting.append((place, event))
        return event

    def _release_finished(self) -> None:
        """Nodes of jobs that have ended are free."""
        free = [node for node, (process, _) in self._owner.items() if process.run.done]
        for node in free:
            del self._owner[node]
            heapq.heappush(self._spares, node)

    def _degrade(self, node: int, speed: float, seconds: float) -> None:
        place = self._owner.get(node)
        if place is None:
            return
        place[0].degrade(place[1], speed)

        def healthy() -> None:
            if self._owner.get(node) == place:
                place[0].degrade(place[1], 1.0)

        self.clock.after(seconds, healthy)
