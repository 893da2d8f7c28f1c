"""Jobs that queue for a cluster, on the clock: gangs start whole, policies say who is next and where."""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from simulator.cluster.queue_books import QueueBooks
from simulator.cluster.queue_elastic import Resizing
from simulator.cluster.queue_nodes import Gang, Ints, NodePool
from simulator.cluster.queue_preemption import preempt
from simulator.engine.clock import Clock
from simulator.strategies.cluster_protocols import (
    ElasticQueue,
    JobQueue,
    MigratingPlacement,
    NodePlacement,
    QueuedJob,
    QueueView,
    SwitchedPlacement,
)

if TYPE_CHECKING:
    import simpy

    from simulator.engine._environment import Scheduled

__all__ = ["JobQueueProcess", "QueueRules"]


@dataclass(frozen=True)
class QueueRules:
    """What holds whatever the policies are.

    Attributes
    ----------
    preemption
        Time that a stopped job loses when it goes on: saving, loading, warming up [s].
    migration
        The same for one that is moved [s].
    spread
        Speed of a gang on more nodes than it needs, above 0 and at most 1.
    checkpoint
        Progress between two saved states, which a failure goes back to [s]; infinite: to the begin of the job.
    restart
        From a failure until a job makes progress again on its new nodes: detection, start, loading [s].
    limits
        Tenant → accelerators it may have at once; a job above them is held back and blocks nobody.
    """

    preemption: float = 0.0
    migration: float = 0.0
    spread: float = 1.0
    checkpoint: float = math.inf
    restart: float = 0.0
    limits: Mapping[int, float] = field(default_factory=dict)

    def within(self, job: QueuedJob, used: Mapping[int, int]) -> bool:
        """Whether the limit of the job's tenant has room for it beside what tenants use."""
        return not self.limits or used.get(job.tenant, 0) + job.gpus <= self.limits.get(job.tenant, math.inf) + 1e-9


class JobQueueProcess:
    """Queue and nodes on a clock.

    Parameters
    ----------
    clock
        The one clock.
    pool
        The nodes.
    queue, placement
        Who is next, and where.
    rules
        Times and limits around them.
    """

    def __init__(
        self, clock: Clock, pool: NodePool, queue: JobQueue, placement: NodePlacement, rules: QueueRules | None = None
    ) -> None:
        self.clock, self.pool, self.queue, self.placement = clock, pool, queue, placement
        self.rules = rules or QueueRules()
        self.waiting: list[QueuedJob] = []
        self.running: dict[int, QueuedJob] = {}
        self.books = QueueBooks(clock.now)
        self.done: simpy.Event = clock.event()
        self.migrations = 0
        self.on_change: Callable[[], object] | None = None
        """Called after every decision."""
        self._dimmed: dict[int, float] = {}
        self._switched = placement if isinstance(placement, SwitchedPlacement) else None
        self._resizing = Resizing(self, queue) if isinstance(queue, ElasticQueue) else None
        self._demand = 0  # accelerators that waiting jobs ask for
        self._expected = 0  # jobs that have not ended
        self._ends: dict[int, Scheduled] = {}
        self._blocked = False  # a job waits that free accelerators would suffice for
        self._passing = False
        self._change: Scheduled | None = None
        self._reserved: tuple[int, float] | None = None  # first job that does not fit, when it will

    def submit(self, jobs: Sequence[QueuedJob]) -> None:
        """Let jobs arrive at their times after now; the list must be in their order."""
        arriving, begin = iter(jobs), self.clock.now
        self._expected += len(jobs)

        def next_one() -> None:
            job = next(arriving, None)
            if job is not None:
                self.clock.at(max(begin + job.submit, self.clock.now), lambda: arrive(job))

        def arrive(job: QueuedJob) -> None:
            job.submit = self.clock.now
            self._enqueue(job)
            self.look()
            next_one()

        next_one()

    # -- decisions -------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Decide once about everything that happens at this instant."""
        if not self._passing:
            self._passing = True
            self.clock.after(0.0, self._decide, late=True)

    def view(self) -> QueueView:
        """What policies see now."""
        pool, running = self.pool, self.running.values()
        return QueueView(
            self.clock.now, pool.available, pool.free_count, running, pool.used, self._earliest, pool.per_node
        )

    def _enqueue(self, job: QueuedJob) -> None:
        """Into the waiting list, which is kept in the order of the policy."""
        self._demand += job.gpus
        if self.queue.dynamic:
            self.waiting.append(job)
        else:
            view = self.view()
            insort(self.waiting, job, key=lambda j: self.queue.key(j, view))

    def _earliest(self, job: QueuedJob) -> float:
        """When a gang will fit if every running job ends by its estimate [s]."""
        now, pool = self.clock.now, self.pool
        if self._reserved is not None and self._reserved[0] == job.number and now < self._reserved[1]:
            return self._reserved[1]
        free, count, when = pool.free.copy(), pool.free_count, now
        for other in sorted(self.running.values(), key=lambda j: (j.expected_end(now), j.number)):
            for node, held in other.nodes:
                free[node] += held
            count, when = count + other.gpus, other.expected_end(now)
            if count >= job.gpus and self.place(job.gpus, free) is not None:
                break
        self._reserved = (job.number, when)
        return when

    def place(self, gpus: int, free: Ints) -> Gang | None:
        """Where a gang would go on these free accelerators."""
        return self.placement.place(gpus, free, self.pool.size, self.pool.group)

    def _decide(self) -> None:
        self._passing = False
        self.integrate()
        if self._resizing is not None:
            self._resizing.decide()
        elif self.waiting:
            view = self.view()
            if self.queue.dynamic:
                self.waiting.sort(key=lambda job: self.queue.key(job, view))
            if self.queue.preemptive and self._demand > self.pool.free_count:
                preempt(self, view)
            self.start_waiting(view)
        free = self.pool.free_count
        self._blocked = any(job.gpus <= free for job in self.waiting) if free else False
        self._watch()
        busy = self.pool.available - free
        self.books.sample(self.clock.now, len(self.waiting), len(self.running), busy, self.pool.available, self._demand)
        if self.on_change is not None:
            self.on_change()

    def start_waiting(self, view: QueueView | None = None) -> None:
        """Start jobs in order, as far as they fit and may pass those that do not."""
        view = view or self.view()
        while self._start_pass(view) and self.queue.dynamic and self.waiting:
            self.waiting.sort(key=lambda job: self.queue.key(job, view))  # a start has changed the order

    def _start_pass(self, view: QueueView) -> bool:
        """One pass; under a dynamic order it ends with the first start. Whether any job started."""
        blocked: QueuedJob | None = None
        started: set[int] = set()
        for job in islice(self.waiting, self.queue.reach):
            if not self.pool.free_count or (blocked is not None and not self.queue.passing):
                break
            if not self.rules.within(job, self.pool.used):
                continue
            fits = job.gpus <= self.pool.free_count and self.queue.admits(job, view)
            if fits and blocked is not None:
                fits = self.queue.passes(job, blocked, view)
            if fits and (self.begin(job) or (blocked is None and self._migrate(job) and self.begin(job))):
                started.add(job.number)
                view.free = self.pool.free_count
                if self.queue.dynamic:
                    break
            elif blocked is None:
                blocked = job
        if started:
            self.waiting = [job for job in self.waiting if job.number not in started]
        return bool(started)

    def _migrate(self, job: QueuedJob) -> bool:
        """Move running gangs so that ``job`` fits; whether any moved."""
        placement, pool = self.placement, self.pool
        if not isinstance(placement, MigratingPlacement):
            return False
        running = list(self.running.values())
        moves = placement.make_room(job.gpus, pool.free, pool.size, pool.group, running)
        moving = [(self.running[number], place) for number, place in moves.items()]
        for moved, _ in moving:
            self._release(moved)
            moved.remaining += self.rules.migration
        for moved, place in moving:
            self._run(moved, place)
        self.migrations += len(moves)
        return bool(moves)

    def _watch(self) -> None:
        """Look again when the order changes by itself."""
        if self._change is not None:
            self.clock.cancel(self._change)
            self._change = None
        if self.waiting and self.queue.preemptive:
            now = self.clock.now
            when = min((self.queue.next_change(job, now) for job in self.running.values()), default=math.inf)
            if math.isfinite(when):
                self._change = self.clock.at(max(when, now), self.look)

    # -- what happens ----------------------------------------------------------------------------------------------

    def begin(self, job: QueuedJob) -> bool:
        """Start a waiting job, which the caller takes off the list; False where it has no place."""
        place = self.place(job.gpus, self.pool.free)
        if place is None:
            return False
        self._demand -= job.gpus
        self._run(job, place)
        return True

    def resize_waiting(self, job: QueuedJob, gpus: int) -> None:
        """A waiting job asks for so many accelerators from now on."""
        self._demand += gpus - job.gpus
        job.gpus = gpus

    def _run(self, job: QueuedJob, place: Gang) -> None:
        now = self.clock.now
        self.pool.take(job, place)
        if self._switched is not None:
            job.remaining += self._switched.setup(place, self.pool.group)
        job.since, job.speed = now, self._speed(job)
        if math.isnan(job.first_start):
            job.first_start = now
        self.running[job.number] = job
        self._ends[job.number] = self.clock.after(job.remaining / job.speed, lambda: self._end(job))

    def _speed(self, job: QueuedJob) -> float:
        """Progress per second as things are."""
        needed = math.ceil(job.gpus / self.pool.per_node)
        speed = 1.0 if len(job.nodes) <= needed else self.rules.spread
        if job.scaling is not None and job.gpus != job.asked:
            speed *= job.scaling.speed(job.gpus, job.asked, self.pool.per_node)
        return speed * self.pool.slowest(job.nodes) * self._dimmed.get(job.number, 1.0)

    def retime(self, job: QueuedJob) -> None:
        """A running job goes on with another speed."""
        now = self.clock.now
        job.remaining, job.attained, job.since = job.remaining_at(now), job.attained_at(now), now
        job.speed = self._speed(job)
        self.clock.cancel(self._ends[job.number])
        self._ends[job.number] = self.clock.after(job.remaining / job.speed, lambda: self._end(job))

    def dim(self, number: int, speed: float) -> None:
        """From now on power leaves a running job this share of its speed."""
        if self._dimmed.get(number, 1.0) != speed:
            self._dimmed[number] = speed
            self.retime(self.running[number])

    def _release(self, job: QueuedJob) -> None:
        now = self.clock.now
        self._dimmed.pop(job.number, None)
        job.remaining, job.attained, job.since = job.remaining_at(now), job.attained_at(now), now
        self.clock.cancel(self._ends.pop(job.number))
        del self.running[job.number]
        self.pool.give_back(job)

    def stop(self, job: QueuedJob, gpus: int = 0) -> None:
        """A running job waits again; its state is saved. It asks for ``gpus`` from now on, 0 = as before."""
        self._release(job)
        job.nodes = ()
        job.preemptions += 1
        job.remaining += self.rules.preemption
        job.gpus = gpus or job.gpus
        self._enqueue(job)

    def crash(self, job: QueuedJob) -> None:
        """A running job fails: it waits again and goes back to its last saved state."""
        self._release(job)
        job.nodes = ()
        done = max(job.run - job.remaining, 0.0)
        kept = done // self.rules.checkpoint * self.rules.checkpoint if math.isfinite(self.rules.checkpoint) else 0.0
        again = done - kept + self.rules.restart
        job.remaining += again
        job.failures += 1
        job.lost += again * job.gpus
        self._enqueue(job)
        self.look()

    def _end(self, job: QueuedJob) -> None:
        self.integrate()
        nodes = job.nodes
        self._release(job)
        job.nodes = nodes
        job.remaining, job.finish = 0.0, self.clock.now
        self._expected -= 1
        if not self._expected:
            self.done.succeed()
        self.look()

    def integrate(self) -> None:
        """Bring the books up to now; before anything changes."""
        pool = self.pool
        self.books.integrate(self.clock.now, pool.available - pool.free_count, pool.available, self._blocked)
