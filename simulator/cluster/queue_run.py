"""A table of jobs through a cluster of its own: set-up with everything checked, and what became of the jobs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from simulator.cluster.queue import JobQueueProcess, QueueRules
from simulator.cluster.queue_nodes import NodePool
from simulator.engine.clock import Clock
from simulator.errors import ConfigError
from simulator.strategies.cluster_protocols import JobQueue, NodePlacement, QueuedJob, QueueView
from simulator.workload.goodput import Goodput
from simulator.workload.job_traces import JobTable

__all__ = ["QueueResult", "misfits", "queue_result", "queued_jobs", "run_queue"]


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
    preemptions, failures, nodes
        Times it was stopped, times it failed, and nodes of its last placement.
    service, lost
        Accelerator-seconds it has had, and those of them that failures cost.
    utilization
        Accelerators at work over accelerators, mean until the last completion.
    fragmentation
        Share of all accelerators that were free while a job that needs no more than those waited for better places.
    makespan
        [s]
    migrations
        Gangs that were moved for others.
    """

    start: NDArray[np.float64]
    finish: NDArray[np.float64]
    wait: NDArray[np.float64]
    completion: NDArray[np.float64]
    preemptions: NDArray[np.int64]
    failures: NDArray[np.int64]
    nodes: NDArray[np.int64]
    service: NDArray[np.float64]
    lost: NDArray[np.float64]
    utilization: float
    fragmentation: float
    makespan: float
    migrations: int
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


def queued_jobs(
    jobs: JobTable, estimates: Sequence[float] | None = None, scaling: Goodput | None = None
) -> list[QueuedJob]:
    """The jobs of a table, ready to be submitted."""
    told = jobs.run if estimates is None else np.asarray(estimates, np.float64)
    due = jobs.deadline if len(jobs.deadline) else np.full(len(jobs), math.inf)
    columns = (jobs.submit, jobs.run, jobs.gpus, jobs.tenant, jobs.priority, told, due)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [
        QueuedJob(i, s, r, g, t, p, e, r, deadline=d, asked=g, scaling=scaling)
        for i, (s, r, g, t, p, e, d) in enumerate(rows)
    ]


def misfits(jobs: JobTable, pool: NodePool, queue: JobQueue, placement: NodePlacement, rules: QueueRules) -> list[str]:
    """Why some jobs could never start, empty if all can: larger than the cluster, never placed, above a quota."""
    size, problems = pool.size, list[str]()
    capacity = pool.largest
    if not 0 < rules.spread <= 1 or min(rules.preemption, rules.migration, rules.restart) < 0:
        problems.append(
            f"spread must lie in (0, 1] and preemption be at least 0 s, not {rules.spread} and {rules.preemption}"
        )
    row = int(jobs.gpus.argmax())
    if jobs.gpus[row] > capacity:
        problems.append(
            f"job {row} asks for {jobs.gpus[row]} accelerators, the cluster has {capacity}: add nodes or drop it"
        )
        return problems
    for gpus in np.unique(jobs.gpus).tolist():
        if placement.place(gpus, size.copy(), size, pool.group) is None:
            problems.append(f"a job of {gpus} accelerators never fits on these nodes under this placement")
    empty = QueueView(0.0, capacity, capacity, (), {}, lambda _: 0.0, pool.per_node)
    for tenant in np.unique(jobs.tenant).tolist():
        mine = np.flatnonzero(jobs.tenant == tenant)
        largest = int(mine[jobs.gpus[mine].argmax()])
        gpus = int(jobs.gpus[largest])
        limit = rules.limits.get(tenant, math.inf)
        if gpus > limit + 1e-9 or not queue.admits(QueuedJob(largest, 0.0, 1.0, gpus, tenant), empty):
            problems.append(f"job {largest} of {gpus} accelerators is above the quota of tenant {tenant}")
    return problems


def run_queue(
    jobs: JobTable,
    sizes: Sequence[int],
    queue: JobQueue,
    placement: NodePlacement,
    *,
    groups: Sequence[int] | None = None,
    estimates: Sequence[float] | None = None,
    scaling: Goodput | None = None,
    rules: QueueRules | None = None,
    **more: float,
) -> QueueResult:
    """Run every job of a table through a cluster.

    Parameters
    ----------
    sizes
        Accelerators of each node.
    groups
        Leaf switch of each node; all below one by default.
    estimates
        Run times that the queue is told [s]; the true ones by default.
    scaling
        How jobs go with other than the accelerators they ask for; by default they need those.
    rules, more
        Times and limits, see :class:`~simulator.cluster.queue.QueueRules`, and single ones of them by name.

    Raises
    ------
    ConfigError
        If a job is larger than the cluster (or never fits under the policy), or a number is out of range.
    """
    rules = replace(rules or QueueRules(), **more)  # type: ignore[arg-type]
    pool = NodePool(sizes, groups)
    if problems := misfits(jobs, pool, queue, placement, rules):
        raise ConfigError("; ".join(problems))
    clock = Clock()
    process = JobQueueProcess(clock, pool, queue, placement, rules)
    everyone = queued_jobs(jobs, estimates, scaling)
    process.submit(everyone)
    clock.run()
    return queue_result(process, everyone)


def queue_result(process: JobQueueProcess, jobs: Sequence[QueuedJob]) -> QueueResult:
    """Figures by now."""
    process.integrate()
    now, books = process.clock.now, process.books
    start, finish, submit, lost = (
        np.array([getattr(j, f) for j in jobs]) for f in ("first_start", "finish", "submit", "lost")
    )
    ended = np.isfinite(finish)
    makespan = float(finish.max()) - books.begin if ended.all() else now - books.begin
    service = np.array([j.attained if math.isfinite(j.finish) else j.attained_at(now) for j in jobs])
    # Nothing is at work after the last completion, so that only the time there must be cut off.
    there = books.available - process.pool.available * (now - books.begin - makespan)
    return QueueResult(
        start, finish, start - submit, finish - submit,
        np.array([j.preemptions for j in jobs], np.int64), np.array([j.failures for j in jobs], np.int64),
        np.array([len(j.nodes) for j in jobs], np.int64), service, lost,
        books.busy / there if there > 0 else 0.0, books.fragmented / there if there > 0 else 0.0, makespan,
        process.migrations, process.clock.events,
    )  # fmt: skip
