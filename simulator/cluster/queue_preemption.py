"""Running jobs of a preemptive queue that stop for those before them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulator.cluster.queue_nodes import Gang, Ints
from simulator.strategies.cluster_protocols import QueuedJob, QueueView

if TYPE_CHECKING:
    from simulator.cluster.queue import JobQueueProcess

__all__ = ["preempt"]


def preempt(process: JobQueueProcess, view: QueueView) -> None:
    """Stop running jobs that are not among the first that fit."""
    room, chosen, used = process.pool.available, set[int](), dict[int, int]()
    blocked: QueuedJob | None = None
    active = [*process.running.values(), *process.waiting]
    for job in sorted(active, key=lambda job: process.queue.key(job, view)):
        if not room or (blocked is not None and not process.queue.passing):
            break
        if not process.rules.within(job, used):
            continue
        if job.gpus <= room and (blocked is None or process.queue.passes(job, blocked, view)):
            room -= job.gpus
            used[job.tenant] = used.get(job.tenant, 0) + job.gpus
            chosen.add(job.number)
        elif blocked is None:
            blocked = job
    victims = [job for job in process.running.values() if job.number not in chosen]
    victims.sort(key=lambda job: process.queue.key(job, view), reverse=True)
    free = process.pool.free.copy()
    for job in [job for job in process.waiting if job.number in chosen]:
        place = process.place(job.gpus, free)
        if place is None:
            place = _make_room(process, job, free, victims)
        for node, count in place or ():
            free[node] -= count
    view.free = process.pool.free_count


def _make_room(process: JobQueueProcess, job: QueuedJob, free: Ints, victims: list[QueuedJob]) -> Gang | None:
    """Stop jobs, the last in the order first, until ``job`` has a place; none if it would not have one anyway."""
    trial, needed = free.copy(), list[QueuedJob]()
    for victim in victims:
        for node, count in victim.nodes:
            trial[node] += count
    if process.place(job.gpus, trial) is None:
        return None
    place = None
    while place is None:
        victim = victims.pop(0)
        needed.append(victim)
        for node, count in victim.nodes:
            free[node] += count
        if int(free.sum()) >= job.gpus:
            place = process.place(job.gpus, free)
    for victim in needed:
        process.stop(victim)
    return place
