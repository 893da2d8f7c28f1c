"""A resolved scenario: objects instead of names, and who runs where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from simulator.hardware.feeders import PowerBudgets
from simulator.hardware.types import Cluster, NodeGroup, Place
from simulator.workload.background import BackgroundTraffic
from simulator.workload.failures.model import FailureModel
from simulator.workload.job_streams import JobStream
from simulator.workload.jobs import Deployment, TrainingJob

if TYPE_CHECKING:
    from simulator.cluster.functions_tenant import FunctionWorkload

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
    training, deployments, queues, functions
        Workloads in document order.
    placements
        Consecutive accelerators per job and replica, in document order.
    training_pace
        Share of their speed that training jobs keep under what protects their data.
    until
        End of the run [s], or ``None``: until all work is done.
    record
        ``full`` tables or mergeable ``summary`` sketches.
    background
        Traffic beside the workloads.
    budgets
        Feeders whose limits are kept on the clock, or ``None``.
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
    functions: tuple[FunctionWorkload, ...] = ()
    training_pace: float = 1.0
    until: float | None = None
    record: Literal["full", "summary"] = "full"
    failures: FailureModel | None = None
    background: tuple[BackgroundTraffic, ...] = ()
    budgets: PowerBudgets | None = None
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

    def nodes_of(self, workload: str) -> list[int]:
        """All nodes of a workload, over its replicas."""
        places = [place for place in self.placements if place.workload == workload]
        return sorted({node for p in places for node in range(p.first_node, p.first_node + p.nodes)})

    def cluster_of(self, workload: str, replica: int = 0) -> Cluster:
        """The part of the cluster a workload runs on: only its nodes, same fabric, storage and site."""
        place = self.placement(workload, replica)
        part = part_of(self.cluster, place.first_node, place.nodes)
        if self.training_pace < 1.0 and any(job.name == workload for job in self.training):
            from simulator.scenario.security import paced

            return paced(part, self.training_pace)
        return part

    def _repr_html_(self) -> str:
        """What is run on what, for notebooks."""
        from simulator.results.markup import html_list, html_table

        cluster = self.cluster
        nodes = ", ".join(f"{g.count} × {g.node.name}" for g in cluster.groups)
        rows = [["cluster", f"{nodes}: {cluster.accelerator_count:,} accelerators", cluster.fabric.topology]]
        rows += [
            [job.name, f"training of {job.model.name}, {job.steps:,} steps", str(job.plan)] for job in self.training
        ]
        rows += [
            [d.name, f"serving of {d.model.name}, {len(d.requests):,} requests", f"{d.replicas} × {d.plan}"]
            for d in self.deployments
        ]
        return html_table(self.name, [], rows, f"seed {self.seed}") + html_list(self.warnings)


def part_of(cluster: Cluster, first_node: int, nodes: int) -> Cluster:
    """Consecutive nodes of a cluster as a cluster of their own, which knows its place on the fabric of the whole."""
    groups: list[NodeGroup] = []
    start = 0
    for group in cluster.groups:
        low, high = max(first_node, start), min(first_node + nodes, start + group.count)
        if high > low:
            groups.append(NodeGroup(group.node, high - low))
        start += group.count
    whole = cluster.place or Place(cluster, 0)
    place = Place(whole.whole, whole.first_node + first_node)
    return replace(cluster, groups=tuple(groups), sources=(), notes="", estimated={}, place=place)
