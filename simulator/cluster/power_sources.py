"""Loads of training jobs, queues and deployments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from simulator.cluster.power_loads import FULL, REST, Activity, Load, stretch_table
from simulator.hardware.types import Cluster

if TYPE_CHECKING:
    from simulator.cluster.queue import JobQueueProcess
    from simulator.training.process import TrainingProcess

__all__ = ["QueueSource", "TrainingSource", "at_level", "devices_on"]


def at_level(cluster: Cluster, level: int) -> Cluster:
    """The cluster at ``level`` percent of the clocks it has."""
    if level == FULL:
        return cluster

    def slower(device: Any) -> Any:
        return replace(device, clock=device.clock * level / FULL)

    groups = tuple(replace(g, node=replace(g.node, accelerator=slower(g.node.accelerator))) for g in cluster.groups)
    return replace(cluster, groups=groups)


def devices_on(place: Any, sizes: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Nodes of a placement, and how many of its accelerators are on each."""
    nodes = np.arange(place.first_node, place.first_node + place.nodes)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    low = np.maximum(starts[nodes], place.first)
    high = np.minimum(starts[nodes + 1], place.first + place.accelerators)
    return nodes, (high - low).astype(np.float64)


class TrainingSource:
    """A training job: all its devices wait for the slowest, so it has one pace.

    Parameters
    ----------
    process
        The job; told how much longer a step takes.
    place, sizes
        Where it is, and accelerators of every node of the cluster.
    activity
        Of a step at the rated clock.
    seconds
        Level → step time [s].
    """

    metered = False

    def __init__(
        self, process: TrainingProcess, place: Any, sizes: Sequence[int], activity: Activity,
        seconds: Callable[[int], float],
    ) -> None:  # fmt: skip
        self.workload, self._process, self._step, self._seconds = process.job.name, process, activity, seconds
        nodes, devices = devices_on(place, sizes)
        self._load = Load(self.workload, nodes, devices, lambda: self._table, self._follow)

    @cached_property
    def _table(self) -> NDArray[np.float64]:
        return stretch_table(self._seconds)

    def _follow(self, level: int) -> None:
        self._process.dim(1.0 if level == FULL else float(self._table[level]))

    def loads(self) -> Sequence[Load]:
        """The job: at work in its steps, at rest while it waits for a checkpoint, a node or its processes."""
        slow = self._process.slowed_otherwise
        at_work = self._process.stepping and np.isfinite(slow)
        step = self._step
        self._load.activity = Activity(1.0, step.compute / slow, step.memory / slow) if at_work else REST
        return (self._load,)

    def read(self, now: float) -> Mapping[int, Activity]:
        """Known beforehand."""
        return {}


class QueueSource:
    """Jobs of a queue: fully busy and bound by compute, an upper bound of their draw and of what a lower clock costs.

    Parameters
    ----------
    process, nodes
        The queue, and numbers of its nodes in the cluster.
    """

    metered = False

    def __init__(self, workload: str, process: JobQueueProcess, nodes: Sequence[int], clock: float) -> None:
        self.workload, self._process, self._nodes = workload, process, np.asarray(nodes)
        self._busy = Activity(1.0, clock, 0.0)
        self._table = stretch_table(lambda level: FULL / level)

    def loads(self) -> Sequence[Load]:
        """The gangs at work."""
        return [self._load(number, job.nodes) for number, job in self._process.running.items()]

    def _load(self, number: int, gang: Sequence[tuple[int, int]]) -> Load:
        nodes, devices = np.array(gang).T
        where = self._nodes[nodes]
        order = np.argsort(where, kind="stable")

        def follow(level: int) -> None:
            self._process.dim(number, level / FULL)

        return Load(
            self.workload, where[order], devices[order].astype(np.float64), lambda: self._table, follow, self._busy
        )

    def read(self, now: float) -> Mapping[int, Activity]:
        """Known beforehand."""
        return {}
