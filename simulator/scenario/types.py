"""A resolved scenario: objects instead of names, and who runs where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from simulator.hardware.types import Cluster, NodeGroup
from simulator.workload.failures.model import FailureModel
from simulator.workload.job_streams import JobStream
from simulator.workload.jobs import Deployment, TrainingJob

__all__ = ["Placement", "Scenario", "part_of"]


@dataclass(frozen=True)
class Placement:
    """Where one workload (or one replica of a deployment) runs.

    Attributes
    ----------
    workload, replica
        Name, and replica number (0 for a training job).
    first, accelerators
        Consecutive accelerators of the cluster, counted through its nodes in order.
    first_node, nodes
        The consecutive nodes that hold them.
    """

    workload: str
    replica: int
    first: int
    accelerators: int
    first_node: int
    nodes: int


@dataclass(frozen=True)
class Scenario:
    """Everything a run needs, checked.

    Attributes
    ----------
    name, seed
        As written.
    cluster
        Hardware.
    training, deployments, queues
        Jobs, served models and queues of jobs in document order.
    placements
        Consecutive accelerators per job and replica, in document order.
    until
        End of the run [s], or ``None``: until all work is done.
    record
        ``full`` tables or mergeable ``summary`` sketches.
    failures
        What fails, or ``None``: nothing does.
    what_if
        As written.
    warnings
        What is assumed or left out.
    document
        The resolved YAML document with command-line changes applied: saved with every result.
    file
        Where it came from.
    files
        Data files it rests on, by name of use, for the provenance of results.
    """

    name: str
    seed: int
    cluster: Cluster
    training: tuple[TrainingJob, ...] = ()
    deployments: tuple[Deployment, ...] = ()
    queues: tuple[JobStream, ...] = ()
    placements: tuple[Placement, ...] = ()
    until: float | None = None
    record: Literal["full", "summary"] = "full"
    failures: FailureModel | None = None
    what_if: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    document: Mapping[str, Any] = field(default_factory=dict, repr=False)
    file: str = ""
    files: Mapping[str, str] = field(default_factory=dict, repr=False)

    def placement(self, workload: str, replica: int = 0) -> Placement:
        """Where a workload runs.

        Raises
        ------
        KeyError
            If there is no such workload or replica.
        """
        for place in self.placements:
            if (place.workload, place.replica) == (workload, replica):
                return place
        raise KeyError(f"no placement of {workload!r} replica {replica}")

    def cluster_of(self, workload: str, replica: int = 0) -> Cluster:
        """The part of the cluster a workload runs on: only its nodes, same fabric, storage and site."""
        place = self.placement(workload, replica)
        return part_of(self.cluster, place.first_node, place.nodes)


def part_of(cluster: Cluster, first_node: int, nodes: int) -> Cluster:
    """Consecutive nodes of a cluster as a cluster of their own on the same fabric."""
    groups: list[NodeGroup] = []
    start = 0
    for group in cluster.groups:
        low, high = max(first_node, start), min(first_node + nodes, start + group.count)
        if high > low:
            groups.append(NodeGroup(group.node, high - low))
        start += group.count
    return Cluster(cluster.name, tuple(groups), cluster.fabric, cluster.storage, cluster.site)
