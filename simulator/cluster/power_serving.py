"""Replicas of a deployment behind feeders: what they did since the last reading, and a clock for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.cluster.power_loads import FULL, Activity, Load, stretch_table
from simulator.cluster.power_sources import at_level, devices_on
from simulator.cluster.serving_engine import Engine
from simulator.serving.clocked_cost import ClockedCost
from simulator.serving.estimate import replica_cost, typical_batch
from simulator.serving.replica import Replica
from simulator.serving.usage import Progress
from simulator.strategies.protocols import IterationCost

__all__ = ["EngineClocks", "ServingSource"]

_SATURATED = 0.99
"""Share of the time at work from which a replica is taken to have a backlog: a higher clock would not give it rest."""


class EngineClocks:
    """Equal replicas of an engine, each with a clock of its own.

    Attributes
    ----------
    costs
        Iteration times of every replica.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._known: dict[int, IterationCost] = {FULL: engine.cost}
        self.costs = [ClockedCost(engine.cost, self.at) for _ in engine.replicas]

    def at(self, level: int) -> IterationCost:
        """Iteration times at this level."""
        if level not in self._known:
            self._known[level] = replica_cost(self.engine.deployment, at_level(self.engine.cluster, level))
        return self._known[level]

    @cached_property
    def table(self) -> NDArray[np.float64]:
        """Time of an iteration of a full engine by level: what decodes wait for is memory, which keeps its clock."""
        assert self.engine.cache is not None
        batch = typical_batch(self.engine.deployment, self.engine.cache)
        return stretch_table(lambda level: self.at(level).iteration(batch))

    @property
    def full(self) -> Activity:
        """With as many requests as it can hold: what is expected of it before the first reading."""
        return Activity(1.0, *self.engine.shares(self.engine.full))


class ServingSource:
    """The replicas of a deployment, which are read now and then: nobody knows beforehand what will be asked of them.

    Parameters
    ----------
    replicas, reclocked
        The engines as they are now, and what is called with the number of one whose clock has changed.
    kinds
        Engines in the order of their replicas.
    places, sizes
        Where every replica is, and accelerators of every node of the cluster.
    interval
        Between two readings [s].
    """

    metered = True

    def __init__(
        self, workload: str, replicas: Callable[[], Sequence[Replica]], reclocked: Callable[[int], object],
        kinds: Sequence[EngineClocks], places: Sequence[Any], sizes: Sequence[int], interval: float,
    ) -> None:  # fmt: skip
        self.workload, self._replicas, self._reclocked = workload, replicas, reclocked
        self._kinds = [kind for kind in kinds for _ in kind.costs]
        self._costs = [cost for kind in kinds for cost in kind.costs]
        self._read = [Progress()] * len(places)
        self._when, self._interval = 0.0, interval
        self._loads: list[Load] = []
        for index, (kind, place) in enumerate(zip(self._kinds, places, strict=True)):
            nodes, devices = devices_on(place, sizes)
            self._loads.append(Load(workload, nodes, devices, self._stretch_of(kind), self._follower(index), kind.full))

    @staticmethod
    def _stretch_of(kind: EngineClocks) -> Callable[[], NDArray[np.float64]]:
        return lambda: kind.table

    def _follower(self, index: int) -> Callable[[int], None]:
        def follow(level: int) -> None:
            if self._costs[index].follow(level):
                self._reclocked(index)

        return follow

    def loads(self) -> Sequence[Load]:
        """All replicas, also those that do not exist at the moment: they do nothing."""
        return self._loads

    def read(self, now: float) -> Mapping[int, Activity]:
        """Activity of every replica since the last reading."""
        span, self._when = now - self._when, now
        lasting = span >= self._interval / 2  # shorter looks catch a part of an iteration
        found: dict[int, Activity] = {}
        for index, (replica, kind) in enumerate(zip(self._replicas(), self._kinds, strict=True)):
            after = replica.progress(now)
            done, self._read[index] = after.since(self._read[index]), after
            if span <= 0.0:
                continue
            did = Activity(min(1.0, done.busy / span), *kind.engine.shares(done))
            found[index] = did
            if lasting:
                self._loads[index].activity = self._at_rated(index, did)
        return found

    def _at_rated(self, index: int, did: Activity) -> Activity:
        """The same work at the rated clock."""
        level = self._costs[index].level
        if level == FULL:
            return did
        slow = float(self._loads[index].stretch()[level])
        busy = 1.0 if did.busy >= _SATURATED else did.busy / slow
        return Activity(busy, did.compute * slow, did.memory * slow)
