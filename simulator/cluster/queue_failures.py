"""What failures of nodes do to a queue of jobs: gangs crash, nodes leave and come back, slow nodes hold up gangs."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from simulator.cluster.failures import Hit
from simulator.strategies.cluster_protocols import QueuedJob

if TYPE_CHECKING:
    from simulator.cluster.queue import JobQueueProcess

__all__ = ["QueueFailures"]


class QueueFailures:
    """Stands between the process that fails nodes and a queue.

    Attributes
    ----------
    interruptions
        Failure kind → jobs it stopped.
    events
        (time [s], what happened, more about it).
    kept_away
        Nodes that do not come back by being repaired: they have been given back to their owner.
    """

    def __init__(self, process: JobQueueProcess, seed: int) -> None:
        self.process = process
        self.random = np.random.Generator(np.random.PCG64([seed, 2]))
        self.interruptions: Counter[str] = Counter()
        self.events: list[tuple[float, str, str]] = []
        self.kept_away: set[int] = set()

    @property
    def alive(self) -> bool:
        """Whether there are jobs to come or to end."""
        return not self.done

    @property
    def done(self) -> bool:
        """Whether all jobs have ended."""
        return self.process.done.triggered

    def fail(self, hit: Hit) -> None:
        """The node at a position fails, or what runs on one of its accelerators."""
        process, node = self.process, hit.position
        process.integrate()
        if not process.pool.size[node]:
            return  # it is not with the queue now
        victims = [job for job in process.running.values() if any(n == node for n, _ in job.nodes)]
        if hit.replacement is None and not hit.planned:
            victims = self._one_of(victims, node)
        for job in victims:
            if hit.planned:
                process.stop(job)
            else:
                process.crash(job)
            self.interruptions[hit.kind] += 1
        note = f"{hit.kind}; {len(victims)} jobs" if len(victims) != 1 else f"{hit.kind}; job {victims[0].number}"
        self.events.append((process.clock.now, "interrupted", f"node {node}, {note}"))
        if hit.replacement is not None:
            if process.pool.size[node]:
                process.pool.remove(node)
            if hit.replacement.callbacks is not None:
                hit.replacement.callbacks.append(lambda _: self._back(node))
            else:
                self._back(node)
        process.look()

    def _one_of(self, jobs: list[QueuedJob], node: int) -> list[QueuedJob]:
        """The job on an accelerator of the node that is drawn, if there is one on it."""
        drawn = int(self.random.integers(self.process.pool.whole[node]))
        for job in jobs:
            drawn -= sum(count for n, count in job.nodes if n == node)
            if drawn < 0:
                return [job]
        return []

    def _back(self, node: int) -> None:
        if node in self.kept_away:
            return
        self.process.integrate()
        self.process.pool.bring(node)
        self.process.look()

    def degrade(self, position: int, speed: float) -> None:
        """From now on a node has this share of its speed, and its gangs wait for it; 1 = healthy again."""
        self.process.pool.slow_down(position, speed)
        for job in self.process.running.values():
            if any(node == position for node, _ in job.nodes):
                self.process.retime(job)
