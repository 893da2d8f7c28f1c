"""Replicas of a deployment behind feeders: what they did since the last reading, and a clock for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
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

__all__ = ["ServingSource", "clocked_costs"]

_SATURATED = 0.99
"""Share of the time at work from which a replica is taken to have a backlog: a higher clock would not give it rest."""


@cache
def _slower(engine: Engine, level: int) -> IterationCost:
    return replica_cost(engine.deployment, at_level(engine.cluster, level))


@cache
def _table(engine: Engine) -> NDArray[np.float64]:
    """Time of an iteration of a full engine by level: what decodes wait for is memory, which keeps its clock."""
    assert engine.cache is not None
    batch = typical_batch(engine.deployment, engine.cache)
    return stretch_table(lambda level: (engine.cost if level == FULL else _slower(engine, level)).iteration(batch))


def _full(engine: Engine) -> Activity:
    """An engine with as many requests as it can hold: what is expected of it before the first reading."""
    return Activity(1.0, *engine.shares(engine.full))


def clocked_costs(engine: Engine) -> list[ClockedCost]:
    """A cost for every replica of an engine, each with a clock of its own."""
    return [ClockedCost(engine.cost, lambda level: _slower(engine, level)) for _ in engine.replicas]


class ServingSource:
    """The replicas of a deployment, which are read now and then: nobody knows beforehand what will be asked of them.

    Parameters
    ----------
    replicas, reclocked
        The engines as they are now, and what is called with the number of one whose clock has changed.
    engines, costs
        Kinds of replicas, and the cost of every replica.
    places, sizes
        Where every replica is, and accelerators of every node of the cluster.
    interval
        Between two readings [s].
    """

    metered = True

    def __init__(
        self, workload: str, replicas: Callable[[], Sequence[Replica]], reclocked: Callable[[int], object],
        engines: Sequence[Engine], costs: Sequence[ClockedCost], places: Sequence[Any], sizes: Sequence[int],
        interval: float,
    ) -> None:  # fmt: skip
        self.workload, self._replicas, self._reclocked, self._costs = workload, replicas, reclocked, costs
        self._engines = [engine for engine in engines for _ in engine.replicas]
        self._read = [Progress()] * len(places)
        self._when, self._interval = 0.0, interval
        self._loads: list[Load] = []
        for index, (engine, place) in enumerate(zip(self._engines, places, strict=True)):
            nodes, devices = devices_on(place, sizes)
            self._loads.append(
                Load(workload, nodes, devices, partial(_table, engine), self._follower(index), _full(engine))
            )

    def _follower(self, index: int) -> Any:
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
        for index, (replica, engine) in enumerate(zip(self._replicas(), self._engines, strict=True)):
            after = replica.progress(now)
            done, self._read[index] = after.since(self._read[index]), after
            if span <= 0.0:
                continue
            did = Activity(min(1.0, done.busy / span), *engine.shares(done))
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
