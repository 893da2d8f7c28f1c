"""Jobs of an elastic queue get other sizes: when jobs have come or gone, and not too often."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from simulator.strategies.cluster_protocols import ElasticQueue, QueuedJob

if TYPE_CHECKING:
    from simulator.cluster.queue import JobQueueProcess
    from simulator.engine._environment import Scheduled

__all__ = ["Resizing"]


class Resizing:
    """Asks an elastic policy for sizes, and stops and starts jobs accordingly.

    Tenants with a limit are allocated inside it, one after the other; all others share what is left.
    """

    def __init__(self, process: JobQueueProcess, policy: ElasticQueue) -> None:
        self.process, self.policy = process, policy
        self._next = -math.inf  # time from which it may allocate again
        self._booked: Scheduled | None = None

    def decide(self) -> None:
        """Allocate now; before the policy's interval is over only new jobs start, where there is room as things are."""
        process, now = self.process, self.process.clock.now
        if now < self._next:
            if self._booked is None:
                self._booked = process.clock.at(self._next, self._again)
            process.start_waiting()
            return
        self._next = now + self.policy.interval
        active = sorted([*process.running.values(), *process.waiting], key=lambda job: (job.submit, job.number))
        if active:
            self._apply(self._sizes(active))

    def _again(self) -> None:
        self._booked = None
        self.process.look()

    def _sizes(self, active: list[QueuedJob]) -> dict[int, int]:
        process, view = self.process, self.process.view()
        limits, left = process.rules.limits, process.pool.available
        found: dict[int, int] = {}
        for tenant, limit in limits.items():
            mine = [job for job in active if job.tenant == tenant]
            found |= self.policy.allocate(mine, min(left, int(limit + 1e-9)), view) if mine else {}
            left = process.pool.available - sum(found.values())
        others = [job for job in active if job.tenant not in limits]
        return found | dict(self.policy.allocate(others, left, view)) if others else found

    def _apply(self, sizes: dict[int, int]) -> None:
        process = self.process
        for job in [j for j in process.running.values() if sizes.get(j.number, 0) != j.gpus]:
            process.stop(job, sizes.get(job.number, 0))
        # The largest first: what fits into nodes then always finds room beside whole nodes.
        chosen = [job for job in process.waiting if sizes.get(job.number)]
        for job in sorted(chosen, key=lambda job: (-sizes[job.number], job.submit, job.number)):
            process.resize_waiting(job, sizes[job.number])
            if process.begin(job):
                process.waiting.remove(job)
