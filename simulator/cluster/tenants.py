"""The seam between the one clock and whatever shares a cluster: jobs, deployments, queues of jobs, functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol

from simulator.engine.clock import Clock
from simulator.hardware.feeders import PowerBudgets
from simulator.hardware.types import Cluster
from simulator.results.tables import Columns
from simulator.workload.background import BackgroundTraffic
from simulator.workload.failures.model import FailureModel
from simulator.workload.job_streams import JobStream
from simulator.workload.jobs import Deployment, TrainingJob

if TYPE_CHECKING:
    import simpy

    from simulator.cluster.failures import FailureProcess
    from simulator.cluster.power_grid import PowerGrid
    from simulator.network.fabric import Fabric
    from simulator.serving.scaling import ReplicaFleet

__all__ = ["ClusterScenario", "Commons", "Progress", "Tenant"]

Progress = Callable[[int, int], object]
"""Called with what is done and all there is."""


class ClusterScenario(Protocol):
    """What the cluster needs to know of a scenario (:class:`simulator.scenario.types.Scenario`)."""

    @property
    def seed(self) -> int:
        """Of every random draw."""

    @property
    def cluster(self) -> Cluster:
        """All hardware."""

    @property
    def training(self) -> tuple[TrainingJob, ...]:
        """Jobs in document order."""

    @property
    def deployments(self) -> tuple[Deployment, ...]:
        """Deployments in document order."""

    @property
    def queues(self) -> tuple[JobStream, ...]:
        """Queues of jobs in document order."""

    @property
    def functions(self) -> tuple[Any, ...]:
        """Function workloads in document order."""

    @property
    def failures(self) -> FailureModel | None:
        """What fails, or ``None``."""

    @property
    def budgets(self) -> PowerBudgets | None:
        """Feeders whose limits are kept, or ``None``."""

    @property
    def until(self) -> float | None:
        """End of the run [s], or ``None``: until all work is done."""

    @property
    def record(self) -> Literal["full", "summary"]:
        """Rows of every request, or counters and quantile sketches."""

    def cluster_of(self, workload: str, replica: int = 0) -> Cluster:
        """The part of the cluster a workload runs on."""

    @property
    def background(self) -> tuple[BackgroundTraffic, ...]:
        """Traffic beside the workloads."""

    def nodes_of(self, workload: str) -> list[int]:
        """All nodes of a workload, over its replicas."""

    def placement(self, workload: str, replica: int = 0) -> Any:
        """Where a workload runs: ``first_node`` and ``nodes``."""


class Commons:
    """What all tenants of a cluster share while it runs.

    Attributes
    ----------
    clock, scenario
        The one clock; hardware, placements, failures and seed.
    failing
        The process that fails nodes; ``None``: nothing fails.
    power
        The feeders; ``None``: there is power for everything.
    fleets
        Replicas that come and go, by deployment: their machines may be lent while they are not there.
    progress
        Called now and then with the requests that have come and those that are to come.
    """

    def __init__(self, clock: Clock, scenario: ClusterScenario, progress: Progress | None = None) -> None:
        self.clock, self.scenario = clock, scenario
        self._progress, self._come, self._expected = progress, dict[int, int](), 0
        self.failing: FailureProcess | None = self._failures()
        self.power: PowerGrid | None = self._power()
        self.fleets: dict[str, ReplicaFleet] = {}

    @cached_property
    def fabric(self) -> Fabric:
        """The shared network with what happens to its links, built when the first tenant moves bytes over it."""
        from simulator.cluster.link_faults import LinkFaults
        from simulator.network.fabric import Fabric
        from simulator.network.topology import build

        spec = self.scenario.cluster
        fabric = Fabric(self.clock, build(spec))
        if spec.fabric.faults:
            LinkFaults(fabric, spec.fabric.faults)
        return fabric

    def progress_of(self, requests: int) -> Callable[[int, float], None] | None:
        """Where a tenant that expects so many requests says (how many have come, the time [s])."""
        if self._progress is None:
            return None
        told, number = self._progress, len(self._come)
        self._come[number] = 0
        self._expected += requests

        def tell(come: int, now: float) -> None:
            self._come[number] = come
            told(sum(self._come.values()), self._expected)

        return tell

    @cached_property
    def sizes(self) -> list[int]:
        """Accelerators of every node."""
        return [group.node.accelerators for group in self.scenario.cluster.groups for _ in range(group.count)]

    def _power(self) -> PowerGrid | None:
        from simulator.cluster.power_grid import PowerGrid

        scenario = self.scenario
        return PowerGrid(self.clock, scenario.cluster, scenario.budgets) if scenario.budgets is not None else None

    def _failures(self) -> FailureProcess | None:
        """The process that fails nodes; deployments keep theirs."""
        from simulator.cluster.failures import FailureProcess

        scenario = self.scenario
        if scenario.failures is None:
            return None
        places = [
            scenario.placement(d.name, d.home(replica)) for d in scenario.deployments for replica in range(d.replicas)
        ]
        reserved = {node for place in places for node in range(place.first_node, place.first_node + place.nodes)}
        return FailureProcess(self.clock, scenario.failures, self.sizes, reserved, scenario.seed)


class Tenant(Protocol):
    """One workload on the shared cluster.

    A tenant is made from the scenario before the clock starts and decides there whether it can run at all; one that
    cannot reports its reason in :meth:`tables` and never starts.
    """

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was assumed or left out, each with the workload's name in front."""

    def start(self, commons: Commons) -> simpy.Event | None:
        """Begin; the event fires when all its work is done. ``None``: it is not feasible."""

    def tables(self) -> tuple[Mapping[str, Columns], dict[str, Any]]:
        """Result tables, and the objects behind them by name; called once, after the clock stopped."""
