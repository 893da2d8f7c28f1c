"""The nodes of a job queue: what is there, what is free, who holds how much."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from simulator.strategies.cluster_protocols import QueuedJob

__all__ = ["Gang", "Ints", "NodePool"]

Ints = NDArray[np.int64]
Gang = tuple[tuple[int, int], ...]


class NodePool:
    """Accelerators by node.

    Parameters
    ----------
    sizes
        Accelerators of each node.
    groups
        Leaf switch (or rack) of each node; all below one by default.
    away
        Nodes, by number, that are not there in the beginning: :meth:`bring` adds them.

    Attributes
    ----------
    size, free
        Accelerators of each node that is there (0 where it is not), and how many of them no job has.
    speed
        Of each node, 1 = healthy.
    free_count, available
        Sums of the two.
    largest
        Accelerators that are there in the beginning: the queue's own.
    used
        Tenant → accelerators.
    """

    def __init__(self, sizes: Sequence[int], groups: Sequence[int] | None = None, away: Sequence[int] = ()) -> None:
        self.whole: Ints = np.asarray(sizes, np.int64)
        self.group: Ints = np.asarray(groups if groups is not None else np.zeros(len(sizes)), np.int64)
        self.size = self.whole.copy()
        self.size[list(away)] = 0
        self.free = self.size.copy()
        self.speed = np.ones(len(self.whole))
        self.available = self.free_count = self.largest = int(self.size.sum())
        self.used: dict[int, int] = {}
        self.per_node = int(self.whole.max())
        self.slow: set[int] = set()

    def take(self, job: QueuedJob, place: Gang) -> None:
        """Give a job its nodes."""
        for node, count in place:
            self.free[node] -= count
        self.free_count -= job.gpus
        self.used[job.tenant] = self.used.get(job.tenant, 0) + job.gpus
        job.nodes = place

    def give_back(self, job: QueuedJob) -> None:
        """A job has its nodes no longer; it remembers which they were."""
        for node, count in job.nodes:
            self.free[node] += count
        self.free_count += job.gpus
        self.used[job.tenant] -= job.gpus

    def remove(self, node: int) -> None:
        """A node on which nothing runs is gone."""
        assert self.free[node] == self.size[node]
        self.free_count -= int(self.free[node])
        self.available -= int(self.size[node])
        self.size[node] = self.free[node] = 0

    def bring(self, node: int) -> None:
        """A node that was gone is there, healthy."""
        if self.size[node]:
            return
        self.size[node] = self.free[node] = self.whole[node]
        self.free_count += int(self.whole[node])
        self.available += int(self.whole[node])
        self.slow_down(node, 1.0)

    def slow_down(self, node: int, speed: float) -> None:
        """A node has this share of its speed from now on."""
        self.speed[node] = speed
        if speed < 1.0:
            self.slow.add(node)
        else:
            self.slow.discard(node)

    def slowest(self, place: Gang) -> float:
        """Speed of the slowest node of a gang, which all others wait for."""
        if not self.slow:
            return 1.0
        return min(float(self.speed[node]) for node, _ in place)
