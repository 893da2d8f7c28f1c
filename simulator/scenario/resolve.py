"""From names to objects: cluster, jobs, deployments and where they run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from simulator.errors import ConfigError, unknown_name
from simulator.hardware.types import Cluster
from simulator.scenario.cluster import build_cluster
from simulator.scenario.deployments import (
    demands_of,
)
from simulator.scenario.placement import Demand, place
from simulator.scenario.resolve_base import Loc
from simulator.scenario.resolve_fabric import background_of, fabric_problems
from simulator.scenario.resolve_jobs import resolve_jobs
from simulator.scenario.resolve_serving import ServingResolver
from simulator.scenario.resolve_training import TrainingResolver
from simulator.scenario.security import private_pace, secured
from simulator.scenario.spec import ServingSpec, TrainingSpec
from simulator.scenario.spec_functions import FunctionsSpec
from simulator.scenario.spec_jobs import JobsSpec
from simulator.scenario.types import Placement, Scenario
from simulator.workload.background import BackgroundTraffic
from simulator.workload.job_streams import JobStream
from simulator.workload.jobs import Deployment, TrainingJob

if TYPE_CHECKING:
    from simulator.cluster.functions_tenant import FunctionWorkload
    from simulator.hardware.feeders import PowerBudgets
    from simulator.workload.failures.model import FailureModel

__all__ = ["Resolver"]


class Resolver(TrainingResolver, ServingResolver):
    """Builds a scenario from a validated document, adding to ``issues`` what does not work together."""

    def scenario(self, document: Mapping[str, Any]) -> Scenario | None:
        """The resolved scenario, or ``None`` with the reasons in ``issues``."""
        spec = self.spec
        cluster = self._cluster()
        self._check_names()
        alone = len(spec.workloads) == 1
        training: list[TrainingJob] = []
        deployments: list[Deployment] = []
        queues: list[JobStream] = []
        demands: list[Demand] = []
        spare = 0
        if cluster is not None:
            serving = [w for w in spec.workloads if isinstance(w, ServingSpec)]
            spare = cluster.accelerator_count - sum(
                d.total for w in serving for d in demands_of(w.serving, w.deployment)
            )
        for index, workload in enumerate(spec.workloads):
            loc: Loc = ("workloads", index)
            if isinstance(workload, TrainingSpec):
                job = self._training(workload, loc, cluster, spare, alone)
                training += [job] if job else []
                demands += [Demand(job.name, job.accelerators)] if job else []
            elif isinstance(workload, JobsSpec):
                stream = self._jobs(workload, loc, cluster, alone)
                queues += [stream] if stream else []
                per_node = cluster.groups[0].node.accelerators if cluster else 1
                demands += [Demand(stream.name, stream.nodes * per_node)] if stream else []
            elif isinstance(workload, ServingSpec):
                deployment = self._deployment(workload, loc, cluster)
                deployments += [deployment] if deployment else []
                demands += demands_of(workload.serving, workload.deployment, cluster)
        placements = self._place(cluster, demands) if cluster is not None else ()
        failures = self._failures(deployments)
        self._check_spares(failures, cluster, placements)
        self._check_borrowing(queues, deployments, cluster)
        if cluster is not None and (placements or self._has_functions):
            cluster = self._power(cluster, placements)
        if cluster is not None:
            cluster = self._secured(cluster)
        budgets = self._budgets(cluster, deployments, placements)
        functions = self._functions(cluster, sum(d.total for d in demands))
        background = self._network(cluster) if cluster is not None else ()
        self._not_modelled()
        if self.issues or cluster is None:
            return None
        return Scenario(
            name=spec.name, seed=spec.seed, cluster=cluster, training=tuple(training), deployments=tuple(deployments),
            queues=tuple(queues), placements=placements, until=spec.until, record=spec.record, failures=failures,
            what_if=spec.what_if,
            functions=functions, training_pace=private_pace(spec.security) if spec.security else 1.0,
            background=background, budgets=budgets,
            warnings=tuple(self.warnings), document=document, file=self.tree.file, files=self.files,
        )  # fmt: skip

    # -- parts ----------------------------------------------------------------------------------------------------

    def _cluster(self) -> Cluster | None:
        spec = self.spec.cluster
        if spec.profile is None and spec.nodes is None:
            if not self._tainted(("cluster",)):
                self._error(
                    ("cluster",), "needs 'nodes: {profile: ..., count: ...}' or the 'profile' of a named cluster"
                )
            return None
        if self._tainted(("cluster", "nodes"), ("cluster", "profile")):
            return None
        return build_cluster(self.spec, self._load, self.warnings.append)

    def _check_names(self) -> None:
        seen: dict[str, int] = {}
        for index, workload in enumerate(self.spec.workloads):
            key = next(k for k in ("training", "serving", "functions", "jobs") if hasattr(workload, k))
            name = str(getattr(workload, key))
            if name in seen:
                self._error(
                    ("workloads", index, key), f"the name '{name}' is taken by workloads[{seen[name]}], choose another"
                )
            seen[name] = index

    def _jobs(self, spec: JobsSpec, loc: Loc, cluster: Cluster | None, alone: bool) -> JobStream | None:
        """A queue of jobs, or ``None`` after reporting what is wrong with it."""
        if cluster is None or self._tainted(loc):
            return None
        try:
            stream, notes = resolve_jobs(spec, cluster, alone, self.spec.seed, self.base, self.skip_bad_rows)
        except ConfigError as error:
            for issue in error.issues:
                if issue.file:
                    self.issues.extend([issue])
                else:
                    self._error((*loc, *filter(None, issue.path.split("."))), issue.message)
            return None
        self.warnings += [f"{spec.jobs}: {note}" for note in notes]
        return stream

    def _place(self, cluster: Cluster, demands: list[Demand]) -> tuple[Placement, ...]:
        # A single job that does not match the cluster was told so already.
        if self.issues:
            return ()
        answer = place(cluster, demands)
        if isinstance(answer, str):
            self._error(("workloads",), answer)
            return ()
        idle = cluster.accelerator_count - sum(d.total for d in demands)
        if idle and not self._has_functions:
            self.warnings.append(f"{idle} of {cluster.accelerator_count} accelerators have no work")
        return answer

    def _secured(self, cluster: Cluster) -> Cluster:
        """The cluster as fast as its protection lets it be."""
        if self.spec.security is None:
            return cluster
        cluster, notes = secured(cluster, self.spec.security)
        self.warnings += notes
        return cluster

    def _functions(self, cluster: Cluster | None, taken: int) -> tuple[FunctionWorkload, ...]:
        """Functions on what others leave of the cluster, and on the other sites."""
        if cluster is None or self._tainted(("sites",)) or not self._has_functions:
            return ()
        from simulator.scenario.functions import all_functions

        found, problems = all_functions(self.spec, cluster, cluster.accelerator_count - taken, self._load, self.base)
        for index, message in problems:
            self._error(("workloads", index), message)
        return tuple(found)

    @property
    def _has_functions(self) -> bool:
        return any(isinstance(workload, FunctionsSpec) for workload in self.spec.workloads)

    def _power(self, cluster: Cluster, placements: tuple[Placement, ...]) -> Cluster:
        """The cluster with the clocks that power limits leave."""
        if self.spec.cluster.power is None:
            return cluster
        from simulator.scenario.power import under_limits

        everywhere = cluster.node_count if self._has_functions else 0
        cluster, notes, problems = under_limits(cluster, self.spec.cluster.power, placements, everywhere)
        self.warnings += notes
        for path, message in problems:
            self._error(("cluster", "power", *path), message)
        return cluster

    def _budgets(
        self, cluster: Cluster | None, deployments: list[Deployment], placements: tuple[Placement, ...]
    ) -> PowerBudgets | None:
        """Feeders that are kept within their limits on the clock."""
        spec = self.spec.cluster.power
        if spec is None or cluster is None or not (spec.feeders or spec.urgency):
            return None
        from simulator.scenario.power import budgets_of

        names = sorted({place.workload for place in placements})
        fixed = ["functions"] if self._has_functions else []
        fixed += [f"the models that share '{d.name}'" for d in deployments if d.sharing is not None]
        fixed += [f"the pipelines on the instances of '{d.name}'" for d in deployments if d.instances is not None]
        budgets, problems = budgets_of(cluster, spec, names, fixed)
        for path, message in problems:
            self._error(("cluster", "power", *path), message)
        return budgets

    def _network(self, cluster: Cluster) -> tuple[BackgroundTraffic, ...]:
        """Background traffic; what is wrong with the fabric is reported."""
        if not self._tainted(("cluster",)):
            for loc, message in fabric_problems(self.spec, cluster):
                self._error(loc, message)
        found = list(background_of(self.spec, cluster))
        for wrong in found:
            if isinstance(wrong, tuple):
                self._error(*wrong)
        return tuple(traffic for traffic in found if not isinstance(traffic, tuple))

    def _failures(self, deployments: list[Deployment]) -> FailureModel | None:
        """What fails, with what had to be assumed."""
        from simulator.workload.failures import read_failures

        if self.spec.failures is None:
            return None
        try:
            model = read_failures(self.spec.failures, self.base)
        except ConfigError as error:
            for issue in error.issues:
                self._error(("failures", *filter(None, issue.path.split("."))), issue.message)
            return None
        self.warnings += [f"failures: {note}" for note in model.assumes]
        slow = any(kind.slows_to for kind in model.kinds)
        for deployment in deployments:
            self.warnings.append(
                f"failures: requests of a failed replica of {deployment.name} begin again elsewhere at once"
                + (", degraded nodes do not slow it" if slow else "")
            )
        return model

    def _check_spares(
        self, model: FailureModel | None, cluster: Cluster | None, placements: tuple[Placement, ...]
    ) -> None:
        """Spares are nodes without work, so there must be as many."""
        if model is None or model.spares is None or cluster is None or self.issues:
            return
        taken = {node for place in placements for node in range(place.first_node, place.first_node + place.nodes)}
        idle = sum(group.count for group in cluster.groups) - len(taken)
        if model.spares > idle:
            self._error(("failures", "spares"), f"{model.spares} spare nodes, but {idle} have no work: add nodes")

    def _check_borrowing(self, queues: list[JobStream], deployments: list[Deployment], cluster: Cluster | None) -> None:
        """Nodes are borrowed of a fleet that scales, and whole."""
        known = {d.name: d for d in deployments}
        per_node = cluster.groups[0].node.accelerators if cluster is not None else 1
        where = {w.jobs: index for index, w in enumerate(self.spec.workloads) if isinstance(w, JobsSpec)}
        for stream in queues:
            loc: Loc = ("workloads", where[stream.name], "borrow")
            lender = known.get(stream.borrow)
            if stream.borrow and lender is None:
                self._error(loc, unknown_name("deployment", stream.borrow, known))
            elif lender is not None and lender.autoscaling is None:
                self._error(loc, f"'{lender.name}' keeps its replicas: give it 'autoscaling', or borrow of another")
            elif lender is not None and lender.plan.accelerators % per_node:
                self._error(loc, f"replicas of '{lender.name}' do not fill whole nodes, so none is ever free")

    def _not_modelled(self) -> None:
        """Say what this version reads but does not simulate: never silence."""
        if self.spec.what_if:
            self.warnings.append("what_if: only the scenario as written is run; 'fmsim sweep' runs the others")
