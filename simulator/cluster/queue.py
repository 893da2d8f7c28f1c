"""Jobs that queue for a cluster, on the clock: gangs start whole, policies say who is next and where."""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from simulator.engine.clock import Clock
from simulator.errors import ConfigError
from simulator.strategies.cluster_protocols import JobQueue, NodePlacement, QueuedJob, QueueView
from simulator.workload.job_traces import JobTable

if TYPE_CHECKING:
    from simulator.engine._environment import Scheduled

__all__ = ["JobQueueProcess", "QueueResult", "run_queue"]


@dataclass(frozen=True, eq=False)
class QueueResult:
    """What became of the jobs; arrays have one entry per job of the table.

    Attributes
    ----------
    start, finish
        First start and completion [s]; NaN when it did not come to that.
    wait
        From submission to first start [s].
    completion
        Job completion time: from submission to completion [s].
    preemptions, nodes
        Times it was stopped, and nodes of its last placement.
    utilization
        Accelerators at work over accelerators, mean until the last completion.
    fragmentation
        Share of all accelerators that were free while a job that needs no more than those waited for better places.
    makespan
        [s]
    """

    start: NDArray[np.float64]
    finish: NDArray[np.float64]
    wait: NDArray[np.float64]
    completion: NDArray[np.float64]
    preemptions: NDArray[np.int64]
    nodes: NDArray[np.int64]
    utilization: float
    fragmentation: float
    makespan: float
    events: int

    def summary(self) -> dict[str, float]:
        """Means and percentiles."""
        found = {"makespan": self.makespan, "utilization": self.utilization, "fragmentation": self.fragmentation,
                 "preemptions": float(self.preemptions.sum())}  # fmt: skip
        for name, values in (("wait", self.wait), ("completion", self.completion)):
            kept = values[np.isfinite(values)]
            found[f"{name}_mean"] = float(kept.mean()) if len(kept) else math.nan
            for label, p in (("median", 50), ("p90", 90), ("p99", 99)):
                found[f"{name}_{label}"] = float(np.percentile(kept, p)) if len(kept) else math.nan
        return found


def run_queue(
    jobs: JobTable,
    sizes: Sequence[int],
    queue: JobQueue,
    placement: NodePlacement,
    *,
    groups: Sequence[int] | None = None,
    preemption: float = 0.0,
    spread: float = 1.0,
    estimates: Sequence[float] | None = None,
) -> QueueResult:
    """Run every job of a table through a cluster.

    Parameters
    ----------
    sizes
        Accelerators of each node.
    groups
        Leaf switch of each node; all below one by default.
    preemption
        Time that a stopped job loses when it goes on: saving, loading, warming up [s].
    spread
        Speed of a gang on more nodes than it needs, above 0 and at most 1.
    estimates
        Run times that the queue is told [s]; the true ones by default.

    Raises
    ------
    ConfigError
        If a job is larger than the cluster (or never fits under the policy), or a number is out of range.
    """
    capacity = sum(sizes)
    largest = int(jobs.gpus.max())
    if largest > capacity:
        row = int(jobs.gpus.argmax())
        raise ConfigError(
            f"job {row} asks for {largest} accelerators, the cluster has {capacity}: add nodes or drop it"
        )
    if not 0 < spread <= 1 or preemption < 0:
        raise ConfigError(f"spread must lie in (0, 1] and preemption be at least 0 s, not {spread} and {preemption}")
    size = np.asarray(sizes, np.int64)
    group = np.asarray(groups if groups is not None else np.zeros(len(size)), np.int64)
    empty = QueueView(0.0, capacity, capacity, (), {}, lambda _: 0.0)
    for gpus in np.unique(jobs.gpus).tolist():
        if placement.place(gpus, size.copy(), size, group) is None:
            raise ConfigError(f"a job of {gpus} accelerators never fits on these nodes under this placement")
    clock = Clock()
    process = JobQueueProcess(clock, size, group, queue, placement, preemption, spread)
    told = jobs.run if estimates is None else np.asarray(estimates, np.float64)
    rows = zip(jobs.submit.tolist(), jobs.run.tolist(), jobs.gpus.tolist(), jobs.tenant.tolist(),
               jobs.priority.tolist(), told.tolist(), strict=True)  # fmt: skip
    everyone = [QueuedJob(i, s, r, g, t, p, e, r) for i, (s, r, g, t, p, e) in enumerate(rows)]
    for job in everyone:
        if not queue.admits(job, empty):
            raise ConfigError(f"job {job.number} of {job.gpus} accelerators is above the quota of tenant {job.tenant}")
    process.submit(everyone)
    clock.run()
    return process.result(everyone)


@dataclass
class _Use:
    """Integrals over time of accelerators at work and of those free but unusable."""

    busy: float = 0.0
    fragmented: float = 0.0
    since: float = 0.0


class JobQueueProcess:
    """Queue and nodes on a clock.

    Parameters
    ----------
    size, group
        Accelerators and leaf switch of each node.
    on_change
        Called with a job when it starts or ends.
    """

    def __init__(
        self,
        clock: Clock,
        size: NDArray[np.int64],
        group: NDArray[np.int64],
        queue: JobQueue,
        placement: NodePlacement,
        preemption: float = 0.0,
        spread: float = 1.0,
        on_change: Callable[[QueuedJob], None] | None = None,
    ) -> None:
        self.clock, self.size, self.group = clock, size, group
        self.queue, self.placement = queue, placement
        self.preemption, self.spread, self.on_change = preemption, spread, on_change
        self.free, self.capacity = size.copy(), int(size.sum())
        self.free_count = self.capacity
        self.waiting: list[QueuedJob] = []
        self.running: dict[int, QueuedJob] = {}
        self.used: dict[int, int] = {}
        self._ends: dict[int, Scheduled] = {}
        self._use = _Use()
        self._blocked = False  # a job waits that free accelerators would suffice for
        self._passing = False
        self._change: Scheduled | None = None
        self._reserved: tuple[int, float] | None = None  # first job that does not fit, when it will

    def submit(self, jobs: Sequence[QueuedJob]) -> None:
        """Let jobs arrive at their times; the list must be in their order."""
        arriving = iter(jobs)

        def next_one() -> None:
            job = next(arriving, None)
            if job is not None:
                self.clock.at(max(job.submit, self.clock.now), lambda: arrive(job))

        def arrive(job: QueuedJob) -> None:
            self._enqueue(job)
            self._look()
            next_one()

        next_one()

    # -- decisions -------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Decide once about everything that happens at this instant."""
        if not self._passing:
            self._passing = True
            self.clock.after(0.0, self._decide, late=True)

    def _view(self) -> QueueView:
        running = self.running.values()
        return QueueView(self.clock.now, self.capacity, self.free_count, running, self.used, self._earliest)

    def _enqueue(self, job: QueuedJob) -> None:
        """Into the waiting list, which is kept in the order of the policy."""
        if self.queue.dynamic:
            self.waiting.append(job)
        else:
            view = self._view()
            insort(self.waiting, job, key=lambda j: self.queue.key(j, view))

    def _earliest(self, job: QueuedJob) -> float:
        """When a gang will fit if every running job ends by its estimate [s]."""
        now = self.clock.now
        if self._reserved is not None and self._reserved[0] == job.number and now < self._reserved[1]:
            return self._reserved[1]
        free, count, when = self.free.copy(), self.free_count, now
        for other in sorted(self.running.values(), key=lambda j: (j.expected_end(now), j.number)):
            for node, held in other.nodes:
                free[node] += held
            count, when = count + other.gpus, other.expected_end(now)
            if count >= job.gpus and self.placement.place(job.gpus, free, self.size, self.group) is not None:
                break
        self._reserved = (job.number, when)
        return when

    def _decide(self) -> None:
        self._passing = False
        self._account()
        if self.waiting:
            view = self._view()
            if self.queue.dynamic:
                self.waiting.sort(key=lambda job: self.queue.key(job, view))
            if self.queue.preemptive and sum(job.gpus for job in self.waiting) > self.free_count:
                self._preempt(view)
            self._start_waiting(view)
        self._blocked = any(job.gpus <= self.free_count for job in self.waiting) if self.free_count else False
        self._watch()

    def _start_waiting(self, view: QueueView) -> None:
        """Start jobs in order, as far as they fit and may pass those that do not."""
        while self._start_pass(view) and self.queue.dynamic and self.waiting:
            self.waiting.sort(key=lambda job: self.queue.key(job, view))  # a start has changed the order

    def _start_pass(self, view: QueueView) -> bool:
        """One pass; under a dynamic order it ends with the first start. Whether any job started."""
        blocked: QueuedJob | None = None
        started: set[int] = set()
        for job in islice(self.waiting, self.queue.reach):
            if not self.free_count or (blocked is not None and not self.queue.passing):
                break
            fits = job.gpus <= self.free_count and self.queue.admits(job, view)
            if fits and blocked is not None:
                fits = self.queue.passes(job, blocked, view)
            if fits and self._start(job):
                started.add(job.number)
                view.free = self.free_count
                if self.queue.dynamic:
                    break
            elif blocked is None:
                blocked = job
        if started:
            self.waiting = [job for job in self.waiting if job.number not in started]
        return bool(started)

    def _preempt(self, view: QueueView) -> None:
        """Stop running jobs that are not among the first that fit."""
        room, chosen = self.capacity, set[int]()
        blocked: QueuedJob | None = None
        active = [*self.running.values(), *self.waiting]
        for job in sorted(active, key=lambda job: self.queue.key(job, view)):
            if not room or (blocked is not None and not self.queue.passing):
                break
            if job.gpus <= room and (blocked is None or self.queue.passes(job, blocked, view)):
                room -= job.gpus
                chosen.add(job.number)
            elif blocked is None:
                blocked = job
        victims = [job for job in self.running.values() if job.number not in chosen]
        victims.sort(key=lambda job: self.queue.key(job, view), reverse=True)
        free = self.free.copy()
        for job in [job for job in self.waiting if job.number in chosen]:
            place = self.placement.place(job.gpus, free, self.size, self.group)
            if place is None:
                place = self._make_room(job, free, victims)
            for node, count in place or ():
                free[node] -= count
        view.free = self.free_count

    def _make_room(
        self, job: QueuedJob, free: NDArray[np.int64], victims: list[QueuedJob]
    ) -> tuple[tuple[int, int], ...] | None:
        """Stop jobs, the last in the order first, until ``job`` has a place; none if it would not have one anyway."""
        trial, needed = free.copy(), list[QueuedJob]()
        for victim in victims:
            for node, count in victim.nodes:
                trial[node] += count
        if self.placement.place(job.gpus, trial, self.size, self.group) is None:
            return None
        place = None
        while place is None:
            victim = victims.pop(0)
            needed.append(victim)
            for node, count in victim.nodes:
                free[node] += count
            if int(free.sum()) >= job.gpus:
                place = self.placement.place(job.gpus, free, self.size, self.group)
        for victim in needed:
            self._stop(victim)
        return place

    def _watch(self) -> None:
        """Look again when the order changes by itself."""
        if self._change is not None:
            self.clock.cancel(self._change)
            self._change = None
        if self.waiting and self.queue.preemptive:
            now = self.clock.now
            when = min((self.queue.next_change(job, now) for job in self.running.values()), default=math.inf)
            if math.isfinite(when):
                self._change = self.clock.at(max(when, now), self._look)

    # -- what happens ----------------------------------------------------------------------------------------------

    def _start(self, job: QueuedJob) -> bool:
        place = self.placement.place(job.gpus, self.free, self.size, self.group)
        if place is None:
            return False
        now = self.clock.now
        for node, count in place:
            self.free[node] -= count
        self.free_count -= job.gpus
        self.used[job.tenant] = self.used.get(job.tenant, 0) + job.gpus
        job.nodes, job.since = place, now
        needed = math.ceil(job.gpus / int(self.size.max()))
        job.speed = 1.0 if len(place) <= needed else self.spread
        if math.isnan(job.first_start):
            job.first_start = now
        self.running[job.number] = job
        self._ends[job.number] = self.clock.after(job.remaining / job.speed, lambda: self._end(job))
        if self.on_change is not None:
            self.on_change(job)
        return True

    def _release(self, job: QueuedJob) -> None:
        now = self.clock.now
        job.remaining, job.attained, job.since = job.remaining_at(now), job.attained_at(now), now
        for node, count in job.nodes:
            self.free[node] += count
        self.free_count += job.gpus
        self.used[job.tenant] -= job.gpus
        del self.running[job.number], self._ends[job.number]

    def _stop(self, job: QueuedJob) -> None:
        self.clock.cancel(self._ends[job.number])
        self._release(job)
        job.nodes = ()
        job.preemptions += 1
        job.remaining += self.preemption
        self._enqueue(job)

    def _end(self, job: QueuedJob) -> None:
        self._account()
        self._release(job)
        job.remaining, job.finish = 0.0, self.clock.now
        if self.on_change is not None:
            self.on_change(job)
        self._look()

    def _account(self) -> None:
        use, now = self._use, self.clock.now
        use.busy += (self.capacity - self.free_count) * (now - use.since)
        if self._blocked:
            use.fragmented += self.free_count * (now - use.since)
        use.since = now

    def result(self, jobs: Sequence[QueuedJob]) -> QueueResult:
        """Figures by now."""
        self._account()
        start, finish, submit = (np.array([getattr(j, f) for j in jobs]) for f in ("first_start", "finish", "submit"))
        makespan = float(np.nanmax(finish)) if np.isfinite(finish).any() else self.clock.now
        return QueueResult(
            start, finish, start - submit, finish - submit,
            np.array([j.preemptions for j in jobs], np.int64), np.array([len(j.nodes) for j in jobs], np.int64),
            self._use.busy / (self.capacity * makespan), self._use.fragmented / (self.capacity * makespan), makespan,
            self.clock.events,
        )  # fmt: skip
