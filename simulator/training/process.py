"""A training job on the shared clock: equal steps jumped over, checkpoints as flows, failures and what follows them."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from simulator.hardware.types import Cluster
from simulator.results.estimate import Estimate
from simulator.strategies.cluster_protocols import Protection, Restoration
from simulator.training.ledger import TrainingEvent, TrainingRun
from simulator.training.saves import CheckpointStore, CheckpointWrites, checkpoint_bytes, save_interval
from simulator.training.survival import Ground, Hit, Links, Survival, job_facts
from simulator.workload.jobs import TrainingJob

if TYPE_CHECKING:
    import simpy

    from simulator.engine.clock import Clock
    from simulator.network.fabric import Fabric

__all__ = ["TrainingProcess"]

Steps = Generator[Any, Any, Any]


class TrainingProcess:
    """Runs a job's steps on a clock that others share.

    Parameters
    ----------
    clock
        The one clock.
    job, estimate
        The job and its step.
    cluster
        The part of the cluster the job has.
    nodes
        Numbers of its nodes in the whole cluster, for the ends of checkpoint flows.
    fabric
        Shared network; None when nothing is written over it.
    survival
        What it does about failures; None: there are none.
    """

    def __init__(
        self, clock: Clock, job: TrainingJob, estimate: Estimate, cluster: Cluster, nodes: range,
        fabric: Fabric | None, survival: Survival | None = None,
    ) -> None:  # fmt: skip
        self.clock, self.job, self.estimate, self.survival = clock, job, estimate, survival
        self.run = TrainingRun()
        target = job.checkpoint.to if job.checkpoint else "nvme"
        size = checkpoint_bytes(estimate, job)
        self.store = CheckpointStore(clock, job.name, size, target, cluster, nodes, fabric)
        self.facts = job_facts(job, estimate, cluster)
        self.protection = survival.recovery.protect(self.facts) if survival else Protection()
        self._signal: simpy.Event = clock.event()
        self._pending: list[Hit] = []
        self._missing: dict[int, simpy.Event] = {}
        self._degraded: dict[int, float] = {}
        self._blank = False  # no state is left in the devices until it is read from storage
        self._ground = Ground()
        self._progress = 0.0  # steps, with the part of the current one
        self._writes = CheckpointWrites(self.store, self.run)
        self._elastic = 1.0  # speed with the nodes that are left
        self._now: tuple[str, float, float, float, float] | None = None  # cause ("" = steps), since, step, stretches
        self.links: Links | None = None
        self.on_change: Callable[[], object] = lambda: None
        self._stretch_by_links = self._stretch_by_clock = 1.0
        self.interval = save_interval(job, self.store, estimate.seconds, survival.mttf if survival else math.inf)
        self._due = self.interval

    def start(self) -> simpy.Process:
        """Begin at the job's start time; the process ends with the last step."""
        return self.clock.process(self._steps())

    # -- what others tell it ---------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether it has begun and still has steps to do."""
        return not self.run.done and not self.run.stuck and self.clock.now >= self.job.start

    @property
    def done(self) -> bool:
        """Whether all steps are done."""
        return self.run.done

    def fail(self, hit: Hit) -> None:
        """Stop it: processes died, or a node is gone."""
        self._pending.append(hit)
        if hit.replacement is not None and hit.replacement.callbacks is not None:
            hit.replacement.callbacks.append(lambda _: self._wake())
        self._wake()

    def degrade(self, position: int, speed: float) -> None:
        """From now on a node has this share of its speed, and all wait for it; 1 = healthy again."""
        self._degraded.pop(position, None)
        if speed < 1.0:
            self._degraded[position] = speed
        self._wake()

    def stretch(self, factor: float) -> None:
        """From now on a step takes ``factor`` times as long for the links it shares; infinite: it stands still."""
        if factor != self._stretch_by_links:
            self._stretch_by_links = factor
            self._wake()

    def dim(self, factor: float) -> None:
        """From now on a step takes ``factor`` times as long because power lowers the clocks."""
        if factor != self._stretch_by_clock:
            self._stretch_by_clock = factor
            self._wake()

    @property
    def stepping(self) -> bool:
        """Whether steps are under way now."""
        return self._now is not None and not self._now[0]

    @property
    def slowed_otherwise(self) -> float:
        """How many times longer a step takes for anything but the clocks."""
        return self._pace / self._stretch_by_clock * self._stretch_by_links

    def _wake(self) -> None:
        if not self._signal.triggered:
            self._signal.succeed()

    # -- steps -----------------------------------------------------------------------------------------------------

    def _steps(self) -> Steps:
        job, run = self.job, self.run
        if job.start > self.clock.now:
            yield self.clock.timeout(job.start - self.clock.now)
        run.start = run.end = self.clock.now
        while run.steps < job.steps and not run.stuck:
            if self._signal.triggered:
                self._signal = self.clock.event()
            if self._pending:
                yield from self._recover()
            elif any(event.triggered for event in self._missing.values()):
                yield from self._rejoin()
            elif (yield from self._stretch()) and job.checkpoint is not None:
                yield from self._checkpoint()
        if self.links is not None:
            self.links.leave()
        if (last := self._writes.end) is not None and not last.processed:
            yield last
        run.done = not run.stuck

    @property
    def step_seconds(self) -> float:
        """Of a step as things are: protection, degraded and missing nodes, shared links included."""
        return self.estimate.seconds * self._pace * self._stretch_by_links

    @property
    def _pace(self) -> float:
        """How many times longer a step takes with this protection, these nodes and these clocks."""
        return self.protection.slow_down / min([self._elastic, *self._degraded.values()]) * self._stretch_by_clock

    def _stretch(self) -> Steps:
        """Steps until the next checkpoint or disturbance; True when none came in between."""
        if self.links is not None:
            self.links.enter(self._pace)
        target, step, stretch = min(self._due, self.job.steps), self.step_seconds, self._stretch_by_links
        began, before = self.clock.now, self._progress
        dimmed = self._stretch_by_clock
        self._now = ("", began, step, stretch, dimmed)
        self.on_change()
        alarm = self.clock.event()
        handle = self.clock.after((target - before) * step, alarm.succeed)
        yield self.clock.any_of([alarm, self._signal])
        self._now = None
        self.on_change()
        if alarm.triggered:
            self._advance(target - before, self.clock.now - began, stretch, dimmed)
            self._progress = target
            self.run.steps = target
            return True
        self.clock.cancel(handle)
        self._advance((self.clock.now - began) / step, self.clock.now - began, stretch, dimmed)
        return False

    def _advance(self, steps: float, seconds: float, stretch: float, dimmed: float) -> None:
        self.run.book(steps * self.estimate.seconds, seconds, stretch, dimmed)
        self._progress += steps
        self.run.steps = math.floor(self._progress + 1e-9)
        self.run.end = self.clock.now

    def _roll_back(self, target: int) -> float:
        """Return to an earlier step; the seconds of work that are lost by it."""
        seconds = max(0.0, self._progress - target) * self.estimate.seconds
        self.run.useful -= seconds
        self.run.lost["rework"] += seconds
        self.run.steps, self._progress = target, float(target)
        self._due = min(self._due, target + self.interval)
        return seconds

    def _await(self, event: simpy.Event, cause: str) -> Steps:
        """Wait and book it; False when another failure comes first."""
        began = self.clock.now
        self._now = (cause, began, 0.0, 1.0, 1.0)
        if self.links is not None and not event.triggered:
            self.links.leave()
        while not event.triggered and not self._pending:
            if self._signal.triggered:
                self._signal = self.clock.event()
            yield self.clock.any_of([event, self._signal])
        self._now = None
        self.run.lost[cause] += self.clock.now - began
        self.run.end = self.clock.now
        return event.triggered

    def _pause(self, seconds: float, cause: str) -> Steps:
        if seconds <= 0:
            return True
        alarm = self.clock.event()
        handle = self.clock.after(seconds, alarm.succeed)
        ended = yield from self._await(alarm, cause)
        if not ended:
            self.clock.cancel(handle)
        return ended

    # -- failures --------------------------------------------------------------------------------------------------

    def _recover(self) -> Steps:
        """From the failure to the next step; gives up when another one comes, which then starts over."""
        survival, run, began = self.survival, self.run, self.clock.now
        assert survival is not None
        hits, self._pending = self._pending, []
        if self._blank:  # nodes that stepped in while others were waited for read what all read
            self._join([p for p, event in self._missing.items() if event.triggered])
        for hit in hits:
            run.interruptions[hit.kind] = run.interruptions.get(hit.kind, 0) + 1
            if hit.replacement is not None:
                self._missing[hit.position] = hit.replacement
        missing = sorted(self._missing)
        way = survival.recovery.restore(self.facts, missing)
        if self._blank:
            way = replace(way, back_to="storage", saves_first=False)
        self._blank = way.back_to == "storage"
        planned = all(hit.planned for hit in hits)
        done = self._progress
        lost = self._roll_back(self.run.steps if planned else self._rollback_target(way, missing))
        kinds = ", ".join(dict.fromkeys(hit.kind for hit in hits))
        run.events.append(TrainingEvent(began, "interrupted", f"{kinds}; {lost:.6g} s of work lost", done))
        self._writes.abandon()
        run.stuck = self._ground.lost(run.steps)
        if run.stuck:
            run.events.append(TrainingEvent(began, "given up", run.stuck, run.steps))
            return
        if planned and self.job.checkpoint is not None and not (yield from self._save()):
            return
        if not planned and not (yield from self._pause(survival.detection, "detection")):
            return
        if way.saves_first and not (yield from self._save()):
            return
        if way.waits and missing:
            if not (yield from self._await(self.clock.all_of(self._missing.values()), "node")):
                return
            self._join(missing)
        self._elastic = way.speed if self._missing else 1.0
        if not (yield from self._pause(survival.restart if way.starts_again else survival.regroup, "restart")):
            return
        if not (yield from self._reload(way, missing)):
            return
        self._blank = False
        said = f"at step {run.steps}, {self._after(began)}"
        run.events.append(TrainingEvent(self.clock.now, "resumed", said, run.steps))

    def _after(self, began: float) -> str:
        speed = f", {self._elastic:.3g} of full speed" if self._elastic < 1 else ""
        return f"after {self.clock.now - began:.6g} s{speed}"

    def _rollback_target(self, way: Restoration, missing: list[int]) -> int:
        if way.back_to == "step":
            return self.run.steps
        if missing and self.store.is_local:
            self._writes.durable = 0  # a node that is gone takes its drive along
        every = self.protection.memory_every
        if way.back_to == "memory" and every:
            return max(self._writes.durable, self.run.steps // every * every)
        return self._writes.durable

    def _reload(self, way: Restoration, missing: list[int]) -> Steps:
        """The state back into the devices."""
        if way.back_to == "storage" or way.saves_first:
            if self.job.checkpoint is None or not self._writes.durable:
                return True  # from the beginning: there is nothing to read
            read = self.store.transfer("read")
            if not (yield from self._await(read, "reload")):
                self.store.cancel(read)
                return False
            return True
        moved = self.store.from_peers(missing, way.moves)
        if moved is not None and not (yield from self._await(moved, "reload")):
            self.store.cancel(moved)
            return False
        if moved is None and missing and not (yield from self._pause(way.moves / self.facts.network, "reload")):
            return False
        return (yield from self._pause(way.local, "reload"))

    def _rejoin(self) -> Steps:
        """Nodes are back: they are joined in, at the end of a step that is then begun anew."""
        assert self.survival is not None
        back = [p for p, event in self._missing.items() if event.triggered]
        self._roll_back(self.run.steps)
        if not (yield from self._pause(self.survival.regroup, "restart")):
            return
        way = self.survival.recovery.restore(self.facts, sorted(self._missing))
        moved = self.store.from_peers(back, way.moves)
        if moved is not None and not (yield from self._await(moved, "reload")):
            self.store.cancel(moved)
            return
        self._join(back)
        left = sorted(self._missing)
        self._elastic = self.survival.recovery.restore(self.facts, left).speed if left else 1.0
        self.run.events.append(TrainingEvent(self.clock.now, "nodes joined", f"{len(back)}, {len(left)} missing"))

    def _join(self, positions: list[int]) -> None:
        """Nodes that have stepped in belong to the job: what it sends goes over their links."""
        for position in positions:
            node = self._missing.pop(position).value
            if node is not None:
                self.store.move(position, node)
                if self.links is not None:
                    self.links.move(position, node)

    # -- checkpoints -----------------------------------------------------------------------------------------------

    def _checkpoint(self) -> Steps:
        assert self.job.checkpoint is not None
        previous = self._writes.end
        if previous is not None and not (yield from self._await(previous, "checkpoint")):
            return
        wait = self.job.checkpoint.mode == "sync"
        if not wait and not (yield from self._pause(self.store.staging(), "checkpoint")):
            return
        self._due = self.run.steps + self.interval
        end = self._writes.begin()
        if wait and not (yield from self._await(end, "checkpoint")):
            self._writes.abandon()

    def _save(self) -> Steps:
        """A checkpoint of the present step that the job waits for."""
        if self.job.checkpoint is None or self._writes.durable == self.run.steps:
            return True
        end = self._writes.begin()
        if not (yield from self._await(end, "checkpoint")):
            self._writes.abandon()
            return False
        self._due = self.run.steps + self.interval
        return True

    # -- the end ---------------------------------------------------------------------------------------------------

    def close(self) -> TrainingRun:
        """What has happened by now; steps of an interrupted stretch count as far as they went."""
        run, now = self.run, self.clock.now
        if run.done or self._now is None:
            return run
        cause, began, step, stretch, dimmed = self._now
        self._now = None
        if cause or math.isinf(step):
            run.lost[cause or "network"] += now - began
            run.end = now
            return run
        whole = math.floor(self._progress + (now - began) / step + 1e-9) - self._progress
        if whole > 0:
            self._advance(whole, whole * step, stretch, dimmed)
            run.end = began + whole * step
        return run
