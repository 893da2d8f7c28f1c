"""A training job on the shared clock: equal steps jumped over, checkpoints as flows on the shared fabric."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from simulator.hardware.types import Cluster
from simulator.results.estimate import Estimate
from simulator.workload.jobs import TrainingJob
from simulator.workload.ops import TensorClass

if TYPE_CHECKING:
    import simpy

    from simulator.engine.clock import Clock
    from simulator.network.fabric import Fabric

__all__ = ["TrainingProcess", "TrainingRun", "checkpoint_bytes"]


@dataclass
class TrainingRun:
    """What happened to a job.

    Attributes
    ----------
    steps
        Completed.
    start, end
        [s]; ``end`` is that of the last step, or of the run.
    checkpoint_stall
        Seconds the job waited for its checkpoints.
    checkpoints
        ``(start, end)`` of every write [s].
    done
        Whether all steps were completed.
    """

    steps: int = 0
    start: float = 0.0
    end: float = 0.0
    checkpoint_stall: float = 0.0
    checkpoints: list[tuple[float, float]] = field(default_factory=list)
    done: bool = False

    @property
    def effective_time_ratio(self) -> float:
        """Share of the wall time spent in steps."""
        wall = self.end - self.start
        return 1.0 - self.checkpoint_stall / wall if wall > 0 else 1.0


def checkpoint_bytes(estimate: Estimate, job: TrainingJob) -> float:
    """Bytes of one full checkpoint: every parameter and its optimizer states once, over all ranks [B].

    14 bytes per parameter with bf16 weights and fp32 Adam (master copy and two moments).
    """
    replicas = job.plan.mesh["dpcp"]
    total = 0.0
    for stage in estimate.memory.stages:
        optim, param = stage.by_class[TensorClass.OPTIM.value], stage.by_class[TensorClass.PARAM.value]
        sharded_optim = replicas if job.plan.zero_stage >= 1 else 1
        sharded_param = replicas if job.plan.zero_stage >= 3 else 1
        total += job.plan.tensor_parallel * (optim * sharded_optim + param * sharded_param)
    return total


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
    """

    def __init__(
        self, clock: Clock, job: TrainingJob, estimate: Estimate, cluster: Cluster, nodes: range, fabric: Fabric | None
    ) -> None:
        self.clock, self.job, self.estimate, self.cluster = clock, job, estimate, cluster
        self.nodes, self.fabric = nodes, fabric
        self.run = TrainingRun()
        self._writing: simpy.Event | None = None

    def start(self) -> simpy.Process:
        """Begin at the job's start time; the process ends with the last step."""
        return self.clock.process(self._steps())

    def _steps(self) -> Generator[Any, Any, None]:
        job, run, step = self.job, self.run, self.estimate.seconds
        if job.start > self.clock.now:
            yield self.clock.timeout(job.start - self.clock.now)
        run.start = run.end = self.clock.now
        per_checkpoint = job.steps
        if job.checkpoint is not None:
            per_checkpoint = max(1, round(job.checkpoint.every / step))
        while run.steps < job.steps:
            count = min(per_checkpoint, job.steps - run.steps)
            began = self.clock.now
            yield self.clock.timeout(count * step)  # equal steps: nothing can change between two checkpoints
            run.steps += count
            run.end = began + count * step
            if job.checkpoint is not None:
                yield from self._checkpoint()
        if self._writing is not None and not self._writing.processed:
            yield self._writing
        run.done = True

    def close(self) -> TrainingRun:
        """What has happened by now; steps of an interrupted stretch count as far as they went."""
        run, step = self.run, self.estimate.seconds
        if not run.done and self.clock.now > run.end and self._writing is None:
            more = int((self.clock.now - run.end) / step)
            run.steps, run.end = min(self.job.steps, run.steps + more), run.end + more * step
        return run

    def _checkpoint(self) -> Generator[Any, Any, None]:
        assert self.job.checkpoint is not None
        began = self.clock.now
        if self._writing is not None and not self._writing.processed:
            yield self._writing  # the previous one is still on its way
        write = self.clock.process(self._write())
        if self.job.checkpoint.mode == "sync":
            yield write
        else:
            self._writing = write
        self.run.checkpoint_stall += self.clock.now - began
        self.run.end = self.clock.now

    def _write(self) -> Generator[Any, Any, None]:
        assert self.job.checkpoint is not None
        began, size = self.clock.now, checkpoint_bytes(self.estimate, self.job)
        target = self.job.checkpoint.to
        if self.fabric is None or target == "nvme":
            drives = [g.node.nvme for g in self.cluster.groups for _ in range(g.count) if g.node.nvme is not None]
            slowest = min(d.write for d in drives) if drives else float("inf")
            yield self.clock.timeout(size / len(self.nodes) / slowest)
        else:
            store = self.fabric.topology.storage(target)
            flows = [
                self.fabric.transfer(
                    (self.fabric.topology.host(node), store),
                    size / len(self.nodes),
                    endpoints=True,
                    tag=f"{self.job.name} checkpoint",
                )
                for node in self.nodes
            ]
            yield self.clock.all_of(flows)
        self.run.checkpoints.append((began, self.clock.now))
