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

__all__ = ["Hit", "Links", "Survival", "job_facts"]


class Hit(NamedTuple):
    """A failure that stops a job: its kind, the node's position in the job, and the event that brings another node.

    ``replacement`` is ``None`` when the node itself is fine.
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
