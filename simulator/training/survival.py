"""What a job's process is told and asks of others: failures that hit it, how it survives them, the links it shares."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from simulator.hardware.types import Cluster
from simulator.results.estimate import Estimate
from simulator.strategies.cluster_protocols import JobFacts, Recovery
from simulator.training.saves import checkpoint_bytes
from simulator.workload.jobs import TrainingJob

if TYPE_CHECKING:
    import simpy

__all__ = ["Ground", "Hit", "Links", "Survival", "job_facts"]

IN_VAIN = 200
"""Interruptions in a row that leave a job no step ahead before it is given up. One that keeps something in every 50th
attempt on average loses 200 in a row with 1.8 % probability (0.98^200)."""


class Hit(NamedTuple):
    """A failure that stops a job: its kind, the node's position in the job, and the event that brings another node.

    ``replacement`` is ``None`` when the node itself is fine; else its value is the number of the node that steps in.
    """

    kind: str
    position: int
    replacement: simpy.Event | None = None
    planned: bool = False


@dataclass(frozen=True)
class Survival:
    """How a job survives failures: strategy, mean time between interruptions [s], and the times around one [s]."""

    recovery: Recovery
    mttf: float = math.inf
    detection: float = 0.0
    restart: float = 0.0
    regroup: float = 0.0


def job_facts(job: TrainingJob, estimate: Estimate, cluster: Cluster) -> JobFacts:
    """What a recovery strategy is told of a job."""
    node = cluster.groups[0].node
    network = node.nic.bandwidth * node.nics
    return JobFacts(
        nodes=math.ceil(job.plan.accelerators / node.accelerators),
        per_node=min(node.accelerators, job.plan.accelerators),
        step=estimate.seconds,
        state=checkpoint_bytes(estimate, job),
        plan=job.plan,
        layers=job.model.num_hidden_layers,
        bubble=estimate.metrics.get("bubble_over_total", 0.0),
        scale_out_time=estimate.traffic.by_link.get("scale_out", 0.0) * node.accelerators / network if network else 0.0,
        network=network,
        host_link=node.accelerator.host_link.bandwidth,
    )


class Links(Protocol):
    """The links a job's steps send over, as far as they are not its own."""

    def enter(self, pace: float) -> None:
        """Steps begin: the job sends; ``pace`` is how many times longer they take for other reasons than links."""

    def leave(self) -> None:
        """Steps stop."""

    def move(self, position: int, node: int) -> None:
        """What ran on the job's node at ``position`` runs on ``node`` of the cluster from now on."""


class Ground:
    """How far a job has come for good, and how often in a row it was thrown back without having gained anything."""

    def __init__(self) -> None:
        self.steps, self.in_vain = 0, 0

    def lost(self, steps: int) -> str:
        """An interruption left ``steps`` done. Why going on is hopeless, or an empty string."""
        self.in_vain = 0 if steps > self.steps else self.in_vain + 1
        self.steps = max(self.steps, steps)
        if self.in_vain < IN_VAIN:
            return ""
        return (
            f"makes no progress: {self.in_vain} interruptions in a row lost all work since step {self.steps}; "
            f"save more often or faster, shorten the restart, or use fewer or more reliable accelerators"
        )
