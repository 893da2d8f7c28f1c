"""Checkpoints as flows between the job's nodes and where they are kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from simulator.hardware.types import Cluster
from simulator.results.estimate import Estimate
from simulator.strategies.recovery.checkpoint import daly_interval
from simulator.training.ledger import TrainingRun
from simulator.training.moves import Moves
from simulator.workload.jobs import TrainingJob
from simulator.workload.ops import TensorClass

if TYPE_CHECKING:
    import simpy

    from simulator.engine.clock import Clock
    from simulator.network.fabric import Fabric
    from simulator.network.flows import Way

__all__ = ["CheckpointStore", "CheckpointWrites", "checkpoint_bytes", "save_interval"]


def checkpoint_bytes(estimate: Estimate, job: TrainingJob) -> float:
    """Bytes of one full checkpoint: every parameter and its optimizer states once, over all ranks [B].

    14 bytes per parameter with bf16 weights and fp32 Adam (master copy and two moments).
    """
    total = 0.0
    for stage in estimate.memory.stages:  # a tier that holds activations alone has neither
        plan = job.plan.stage_plans[stage.stage]
        replicas = plan.mesh["dpcp"]
        optim, param = (stage.by_class.get(cls.value, 0.0) for cls in (TensorClass.OPTIM, TensorClass.PARAM))
        sharded_optim = replicas if plan.zero_stage >= 1 else 1
        sharded_param = replicas if plan.zero_stage >= 3 else 1
        total += plan.tensor_parallel * (optim * sharded_optim + param * sharded_param)
    return total


class CheckpointStore:
    """Writes and reads the checkpoints of one job.

    All nodes send their shares at once: they are one macro-flow over the ways of all nodes.

    Parameters
    ----------
    nodes
        Numbers of the job's nodes in the whole cluster.
    fabric
        Shared network; None when nothing is written over it.
    target
        Storage tier by name, or ``nvme`` for the nodes' own drives.
    """

    def __init__(
        self,
        clock: Clock,
        name: str,
        size: float,
        target: str,
        cluster: Cluster,
        nodes: Sequence[int],
        fabric: Fabric | None,
    ) -> None:
        self.clock, self.name, self.size, self.target = clock, name, size, target
        self.cluster, self.nodes, self.fabric, self._moves = cluster, list(nodes), fabric, Moves(len(nodes))
        self._ways: dict[tuple[str, int], Way] = {}

    @property
    def is_local(self) -> bool:
        """Whether a node that is lost takes its share with it."""
        return self.target == "nvme"

    def move(self, position: int, node: int) -> None:
        """Another node of the cluster steps in at a position of the job."""
        self.nodes[position] = node
        if self._moves.due():
            self._ways.clear()

    def seconds(self, direction: str = "write") -> float:
        """Of one transfer that has links and storage to itself [s]."""
        if self.is_local or self.fabric is None:
            drives = [g.node.nvme for g in self.cluster.groups for _ in range(g.count) if g.node.nvme is not None]
            slowest = min((getattr(d, direction) for d in drives), default=math.inf)
            return float(self.size / len(self.nodes) / slowest)
        way = self._way(direction)
        capacity = self.fabric.topology.links.capacity[way.links]
        return float(self.size * (way.shares / capacity).max()) if len(way.links) else 0.0

    def staging(self) -> float:
        """Copy of the devices' shares into host memory, from where they are written while the job goes on [s].

        The job waits for it: the states must not change under the copy (docs.pytorch.org,
        torch.distributed.checkpoint.staging).
        """
        shares = [(g.node.accelerators, g.node.accelerator.host_link.bandwidth) for g in self.cluster.groups]
        return max(float(self.size / len(self.nodes) / count / bandwidth) for count, bandwidth in shares)

    def transfer(self, direction: str) -> simpy.Event:
        """Write or read one checkpoint; the event fires at its end."""
        if self.is_local or self.fabric is None:
            event = self.clock.event()
            self.clock.after(self.seconds(direction), event.succeed)
            return event
        # Every node's connection competes for itself.
        return self.fabric.transfer(
            self._way(direction), self.size, weight=len(self.nodes), latency=self._latency,
            tag=f"{self.name} checkpoint",
        )  # fmt: skip

    def from_peers(self, positions: Sequence[int], size: float) -> simpy.Event | None:
        """``size`` bytes into each node at ``positions`` from the next node of the job; None without a fabric."""
        if self.fabric is None or not positions or not size:
            return None
        from simulator.network.connections import way_of_all

        top, count = self.fabric.topology, len(self.nodes)
        pairs = [(top.host(self.nodes[(p + 1) % count]), top.host(self.nodes[p])) for p in positions]
        way = way_of_all(self.fabric, pairs)
        return self.fabric.transfer(way, size * len(pairs), weight=len(pairs), tag=f"{self.name} recovery")

    def cancel(self, event: simpy.Event) -> None:
        """Stop a transfer that is under way."""
        if self.fabric is not None:
            self.fabric.cancel(event)

    @cached_property
    def _latency(self) -> float:
        assert self.fabric is not None
        top = self.fabric.topology
        return top.path_latency(top.path(top.host(self.nodes[0]), top.storage(self.target), 0))

    def _way(self, direction: str) -> Way:
        """Links of all nodes' connections, found again when a link of the network has changed."""
        from simulator.network.connections import way_of_all

        assert self.fabric is not None
        key = (direction, self.fabric.changes)
        if key not in self._ways:
            top = self.fabric.topology
            store = top.storage(self.target)
            pairs = [(top.host(n), store) if direction == "write" else (store, top.host(n)) for n in self.nodes]
            self._ways = {k: way for k, way in self._ways.items() if k[1] == key[1]}
            self._ways[key] = way_of_all(self.fabric, pairs)
        return self._ways[key]


class CheckpointWrites:
    """The write of a job that is under way, and the step of the last one that is complete."""

    def __init__(self, store: CheckpointStore, run: TrainingRun) -> None:
        self.store, self.run = store, run
        self.durable = 0
        """Steps in the last complete checkpoint."""
        self._last: tuple[simpy.Event, simpy.Event, int, float] | None = None  # end, flow, steps, begin

    @property
    def end(self) -> simpy.Event | None:
        """Fires, or has fired, when the last one begun is complete; None where it was abandoned."""
        return self._last[0] if self._last is not None else None

    def begin(self) -> simpy.Event:
        """Start a write of the present step; the event fires when it is complete, and with that it counts."""
        clock, run = self.store.clock, self.run
        end, flow = clock.event(), self.store.transfer("write")
        mark = (end, flow, run.steps, clock.now)
        self._last = mark

        def finished(_: object) -> None:
            if self._last is mark:
                self.durable = mark[2]
                run.checkpoints.append((mark[3], clock.now))
                end.succeed()

        assert flow.callbacks is not None
        flow.callbacks.append(finished)
        return end

    def abandon(self) -> None:
        """A checkpoint that is not complete is worth nothing."""
        mark, self._last = self._last, None
        if mark is not None and not mark[0].triggered:
            self.store.cancel(mark[1])


def save_interval(job: TrainingJob, store: CheckpointStore, step: float, mttf: float) -> int:
    """Steps of ``step`` seconds between two checkpoints of a job that is interrupted every ``mttf`` seconds.

    ``optimal`` is Daly's interval for what a save stops the job, and at least its write.
    """
    asked = job.checkpoint
    if asked is None:
        return job.steps
    every = asked.every
    if every is None:
        write = store.seconds("write")
        stop = write if asked.mode == "sync" else store.staging()
        every = math.inf if math.isinf(mttf) else max(daly_interval(stop, mttf), write)
    return max(1, round(every / step)) if math.isfinite(every) else job.steps
