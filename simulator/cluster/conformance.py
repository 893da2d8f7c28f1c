"""What every queue policy and every placement must keep, whatever it decides."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from simulator.cluster.queue import JobQueueProcess, QueueRules
from simulator.cluster.queue_nodes import NodePool
from simulator.cluster.queue_run import queued_jobs
from simulator.engine.clock import Clock
from simulator.strategies.cluster_protocols import (
    ElasticQueue,
    JobQueue,
    MigratingPlacement,
    NodePlacement,
    QueuedJob,
    SwitchedPlacement,
)
from simulator.workload.goodput import Goodput
from simulator.workload.job_traces import JobTable

__all__ = ["check_job_queue", "check_placement"]


def check_placement(placement: NodePlacement, seed: int = 0) -> None:
    """Gangs get exactly what they ask for, out of what is free, each node once; an empty cluster takes every gang.

    Raises
    ------
    AssertionError
        With what was broken.
    """
    assert isinstance(placement, NodePlacement), "a placement has a name and place()"
    random = np.random.Generator(np.random.PCG64(seed))
    for _ in range(200):
        size = random.choice([0, 4, 8], int(random.integers(1, 12)), p=[0.1, 0.2, 0.7])
        if not size.any():
            continue
        group = np.arange(len(size)) // 4
        free = (size * random.choice([0.0, 0.25, 0.5, 1.0], len(size))).astype(np.int64)
        gpus = int(random.integers(1, size.sum() + 1))
        _check_place(placement, gpus, free, size, group)
        whole = int(random.integers(1, np.count_nonzero(size == size.max()) + 1)) * int(size.max())
        if isinstance(placement, SwitchedPlacement):
            size = np.full_like(size, size.max())  # groups from which a node is missing serve no gang of several
        assert placement.place(whole, size.copy(), size, group) is not None, "whole nodes of an empty cluster fit"
        if isinstance(placement, MigratingPlacement):
            _check_moves(placement, gpus, size, group, random)


def _check_place(placement: NodePlacement, gpus: int, free: object, size: object, group: object) -> None:
    have, whole = np.asarray(free), np.asarray(size)
    before = have.copy()
    place = placement.place(gpus, have, whole, np.asarray(group))
    assert np.array_equal(have, before), "place() must not change what is free"
    if place is None:
        return
    nodes = [node for node, _ in place]
    assert len(set(nodes)) == len(nodes), f"a node is named twice: {place}"
    assert sum(count for _, count in place) == gpus, f"{place} are not {gpus} accelerators"
    assert all(0 < count <= before[node] for node, count in place), f"{place} takes what is not free: {before}"


def _check_moves(
    placement: MigratingPlacement, gpus: int, size: object, group: object, random: np.random.Generator
) -> None:
    """After the moves the gang fits, and nobody has lost or gained anything."""
    whole, groups = np.asarray(size), np.asarray(group)
    free, running = whole.copy(), list[QueuedJob]()
    for number in range(3 * len(whole)):
        node = int(random.integers(len(whole)))
        count = int(min(free[node], random.integers(1, 4)))
        if count > 0 and random.random() < 0.5:
            free[node] -= count
            running.append(QueuedJob(number, 0.0, 1.0, count, nodes=((node, count),), asked=count))
    moves = placement.make_room(gpus, free.copy(), whole, groups, running)
    by_number = {job.number: job for job in running}
    after = free.copy()
    for number in moves:
        for node, count in by_number[number].nodes:
            after[node] += count
    for number, place in moves.items():
        assert sum(count for _, count in place) == by_number[number].gpus, "a moved gang keeps its size"
        for node, count in place:
            after[node] -= count
    assert (after >= 0).all(), "moved gangs overlap"
    assert not moves or placement.place(gpus, after, whole, groups) is not None, "moves that make no room"


class _Watching(JobQueueProcess):
    """Checks the nodes at every decision."""

    def integrate(self) -> None:
        """As the process does, after a look at what holds at every instant."""
        held = self.pool.size - self.pool.free
        taken = np.zeros(len(held), np.int64)
        for job in self.running.values():
            assert sum(count for _, count in job.nodes) == job.gpus, f"job {job.number} is not whole"
            for node, count in job.nodes:
                taken[node] += count
        assert np.array_equal(held, taken), "what is not free is what running jobs hold"
        assert (self.pool.free >= 0).all(), "accelerators are given out twice"
        assert self.pool.free_count == self.pool.free.sum(), "the count of free accelerators is wrong"
        for tenant, limit in self.rules.limits.items():
            assert self.pool.used.get(tenant, 0) <= limit + 1e-9, f"tenant {tenant} is above its quota"
        assert not {job.number for job in self.waiting} & set(self.running), "a job runs and waits"
        super().integrate()


def check_job_queue(
    make: Callable[[], JobQueue], placement: NodePlacement, jobs: JobTable, sizes: list[int],
    rules: QueueRules | None = None, scaling: Goodput | None = None,
) -> None:  # fmt: skip
    """Run jobs under a policy and check what must hold always.

    Allocations never overlap and gangs are whole; quotas hold at every instant; every job ends, after at least its run
    time; the work done is the work asked for (with interruptions, and with what they cost, where they cost something);
    and the same jobs end at the same times again.

    Raises
    ------
    AssertionError
        With what was broken.
    """
    assert isinstance(make(), JobQueue), "a queue policy lacks a part of the protocol"
    first = _run(make(), placement, jobs, sizes, rules, scaling)
    again = _run(make(), placement, jobs, sizes, rules, scaling)
    assert [j.finish for j in first] == [j.finish for j in again], "the same jobs end at other times"
    for job in first:
        assert math.isfinite(job.finish), f"job {job.number} never ends"
        assert job.first_start >= job.submit, f"job {job.number} starts before it comes"
        if scaling is None:
            assert job.finish - job.submit >= job.run * (1 - 1e-9), f"job {job.number} ends too early"
            cost = (rules or QueueRules()).preemption
            asked = (job.run + job.preemptions * cost) * job.gpus
            assert abs(job.attained - asked) <= 1e-6 * asked, f"job {job.number} had {job.attained}, needs {asked}"


def _run(
    queue: JobQueue, placement: NodePlacement, jobs: JobTable, sizes: list[int], rules: QueueRules | None,
    scaling: Goodput | None,
) -> list[QueuedJob]:  # fmt: skip
    clock = Clock()
    process = _Watching(clock, NodePool(sizes), queue, placement, rules)
    everyone = queued_jobs(jobs, scaling=scaling if isinstance(queue, ElasticQueue) else None)
    process.submit(everyone)
    clock.run()
    return everyone
