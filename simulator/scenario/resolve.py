"""From names to objects: cluster, jobs, deployments and where they run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulator import registry
from simulator.data import find_file
from simulator.errors import ConfigError, Issue, IssueCollector, did_you_mean, unknown_name
from simulator.hardware.types import Cluster
from simulator.scenario import checks
from simulator.scenario.answers import Answers
from simulator.scenario.cluster import build_cluster
from simulator.scenario.deployments import (
    build_deployment,
    demands_of,
    deployment_problems,
    frozen,
    serving_plan,
    shared,
)
from simulator.scenario.document import dotted, place_of
from simulator.scenario.placement import Demand, place
from simulator.scenario.requests import read_requests_of
from simulator.scenario.resolve_fabric import background_of, fabric_problems
from simulator.scenario.resolve_goal import goal_of
from simulator.scenario.resolve_jobs import resolve_jobs
from simulator.scenario.resolve_rollout import generating_accelerators, rollout_of
from simulator.scenario.security import private_pace, secured
from simulator.scenario.spec import PlanSpec, ScenarioSpec, ServingSpec, TrainingSpec
from simulator.scenario.spec_functions import FunctionsSpec
from simulator.scenario.spec_jobs import JobsSpec
from simulator.scenario.types import Placement, Scenario
from simulator.strategies.options import unknown_options
from simulator.workload.background import BackgroundTraffic
from simulator.workload.framework import Framework
from simulator.workload.job_streams import JobStream
from simulator.workload.jobs import Batch, Checkpoint, Deployment, TrainingJob
from simulator.workload.model import ModelSpec
from simulator.workload.plan import Plan
from simulator.workload.rollout import Rollout
from simulator.yaml_marks import MarkedNode

if TYPE_CHECKING:
    from simulator.cluster.functions_tenant import FunctionWorkload
    from simulator.workload.failures.model import FailureModel
    from simulator.workload.requests.table import RequestTable

__all__ = ["Resolver"]

Loc = tuple[str | int, ...]

FAMILIES = ("tensor", "context", "expert", "sharding", "peft")
"""Keys of a training plan that name a strategy and travel as an option of the plan."""


class Resolver:
    """Builds a scenario from a validated document, adding to ``issues`` what does not work together.

    ``wrong`` are paths whose values were invalid and left out: checks that would rest on them are skipped, so
    that one mistake is reported once.
    """

    def __init__(
        self,
        spec: ScenarioSpec,
        tree: MarkedNode,
        issues: IssueCollector,
        wrong: list[Loc],
        base: Path | None,
        skip_bad_rows: bool,
    ) -> None:
        self.spec, self.tree, self.issues, self.wrong = spec, tree, issues, wrong
        self.base, self.skip_bad_rows = base, skip_bad_rows
        self.warnings: list[str] = []
        self.files: dict[str, str] = {}

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
                demands += demands_of(workload.serving, workload.deployment)
        placements = self._place(cluster, demands) if cluster is not None else ()
        failures = self._failures(deployments)
        self._check_spares(failures, cluster, placements)
        self._check_borrowing(queues, deployments, cluster)
        if cluster is not None and (placements or self._has_functions):
            cluster = self._power(cluster, placements)
        if cluster is not None:
            cluster = self._secured(cluster)
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
            background=background,
            warnings=tuple(self.warnings), document=document, file=self.tree.file, files=self.files,
        )  # fmt: skip

    # -- reporting ------------------------------------------------------------------------------------------------

    def _error(self, loc: Loc, message: str) -> None:
        self.issues.extend([Issue(*place_of(self.tree, loc), dotted(loc), message)])

    def _tainted(self, *locs: Loc) -> bool:
        """Whether a value at or below one of the paths was invalid."""
        return any(bad[: len(loc)] == loc for bad in self.wrong for loc in locs)

    def _load(self, loc: Loc, folder: str, name: str, loader: Any) -> Any:
        """An object by name; its errors were reported when the key was checked."""
        with suppress(ConfigError):  # an alias or a folder has no single file to hash
            self.files[f"{folder}/{Path(name).name}"] = str(find_file(folder, name, folder))
        return loader(name)

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

    def _software(self, workload: TrainingSpec | ServingSpec, loc: Loc, area: str) -> tuple[ModelSpec, Framework]:
        from simulator.workload.framework_files import load_framework
        from simulator.workload.model_files import load_model

        model: ModelSpec = self._load(loc, "workloads/models", workload.model, load_model)
        framework: Framework = self._load(loc, "workloads/frameworks", workload.framework, load_framework)
        if framework.area != area:
            self._error(
                (*loc, "framework"), f"'{framework.name}' is a {framework.area} framework, this needs one for {area}"
            )
        return model, framework

    def _training(
        self, spec: TrainingSpec, loc: Loc, cluster: Cluster | None, spare: int, alone: bool
    ) -> TrainingJob | None:
        model, framework = self._software(spec, loc, "training")
        unsure = cluster is None or self._tainted((*loc, "plan"), (*loc, "nodes"))
        # Beside other workloads a job with all degrees written takes what they ask for; alone it must use the cluster.
        given, where = spare, f"{spare} are free for it"
        if cluster is not None:
            if spec.nodes is not None:
                per_node = cluster.groups[0].node.accelerators
                given, where = (
                    spec.nodes * per_node,
                    f"the job has {spec.nodes} nodes × {per_node} = {spec.nodes * per_node}",
                )
            elif alone:
                groups = " + ".join(f"{g.count} nodes × {g.node.accelerators}" for g in cluster.groups)
                where = f"the cluster has {groups} = {given}"
        per_node = cluster.groups[0].node.accelerators if cluster is not None else 1
        apart = generating_accelerators(spec.rollout, cluster.groups[-1].node.accelerators if cluster else 1)
        if apart:
            given, where = given - apart, f"{where}, {apart} of them generate"
        plan = _training_plan(spec.plan, framework, given)
        if plan is None:
            axes = ("tensor_parallel", "pipeline_parallel", "context_parallel")
            sizes = {axis: int(getattr(spec.plan, axis)) for axis in axes}
            rest = math.prod(sizes.values())
            if not unsure:
                self._error(
                    (*loc, "plan"),
                    f"one data-parallel replica takes {rest} accelerators, which do not divide {given}: {where}"
                    f"{checks.nearest_degrees(sizes, given)}",
                )
            return None
        for name, message in unknown_options(plan):
            self._error((*loc, "plan", "options", name), message)
        batch = Batch(spec.batch.global_batch_size, spec.batch.micro_batch_size, spec.batch.sequence_length)
        if not unsure:
            shares = not alone and spec.nodes is None and plan.accelerators <= given
            if not shares:
                self._report(loc, checks.check_degrees(plan, given, where))
            self._report(loc, checks.check_model(plan, model))
        if not unsure and not self._tainted((*loc, "batch")):
            problems = list(checks.check_batch(plan, batch, model))
            self._report(loc, problems)
            if not problems:
                self._report(loc, checks.check_schedule(plan, batch.microbatches(plan)))
        checkpoint = self._checkpoint(spec, loc, cluster)
        recovery: Any = registry.lookup("recovery", spec.recovery)()
        if not unsure and self.spec.failures is not None and (reason := recovery.check(plan)):
            self._error((*loc, "recovery"), reason)
        goal = goal_of(spec.goal, lambda path, message: self._error((*loc, "goal", *path), message))
        rollout = self._rollout(spec, loc, model, batch, plan.accelerators, per_node)
        return TrainingJob(
            spec.training,
            model,
            framework,
            batch,
            plan,
            spec.steps,
            spec.start,
            checkpoint,
            spec.recovery,
            goal,
            rollout,
        )

    def _rollout(
        self, spec: TrainingSpec, loc: Loc, model: ModelSpec, batch: Batch, training: int, per_node: int
    ) -> Rollout | None:
        if spec.rollout is None or self._tainted((*loc, "rollout"), (*loc, "batch")):
            return None
        from simulator.workload.framework_files import load_framework

        engine: Framework = self._load(loc, "workloads/frameworks", spec.rollout.framework, load_framework)
        return rollout_of(
            spec.rollout, model, engine, batch, training, per_node, self.spec.seed,
            lambda path, message: self._error((*loc, "rollout", *path), message),
        )  # fmt: skip

    def _checkpoint(self, spec: TrainingSpec, loc: Loc, cluster: Cluster | None) -> Checkpoint | None:
        if spec.checkpoint is None:
            return None
        tiers = [s.name for s in cluster.storage] if cluster else []
        to = spec.checkpoint.to
        if tiers and to not in (*tiers, "nvme"):
            hint = did_you_mean(to, [*tiers, "nvme"]) or f"known: {', '.join([*tiers, 'nvme'])}"
            self._error((*loc, "checkpoint", "to"), f"the cluster has no storage '{to}', {hint}")
        return Checkpoint(spec.checkpoint.every, to, spec.checkpoint.mode)

    def _deployment(self, spec: ServingSpec, loc: Loc, cluster: Cluster | None) -> Deployment | None:
        model, framework = self._software(spec, loc, "serving")
        plan = serving_plan(spec.deployment.plan)
        answers = Answers.of(model)
        self._report(loc, answers.problems(spec))
        if not self._tainted((*loc, "deployment", "plan")):
            self._report((*loc, "deployment"), checks.check_model(plan, model))
        requests = self._requests(answers.adapted(spec), loc)
        if requests is None:
            return None
        deployment = answers.fitted(build_deployment(spec, model, framework, answers.table(requests, spec)), spec)
        if not self._tainted((*loc, "deployment")):
            self._report((*loc, "deployment"), deployment_problems(deployment, spec.deployment, cluster))
        return self._sharing(deployment, spec, loc, cluster) if spec.deployment.sharing else deployment

    def _sharing(
        self, deployment: Deployment, spec: ServingSpec, loc: Loc, cluster: Cluster | None
    ) -> Deployment | None:  # fmt: skip
        """The deployment with the other models on its replicas, each read like a deployment of its own."""
        asked = spec.deployment
        assert asked.sharing is not None
        others = []
        for number, member in enumerate(asked.sharing.models):
            plain = asked.model_copy(update={"sharing": None})
            slo = spec.slo.model_copy(update={"e2e": member.deadline or spec.slo.e2e})
            changes = {"model": member.model, "requests": member.requests, "deployment": plain, "slo": slo}
            place: Loc = (*loc, "deployment", "sharing", "models", number)
            others.append(self._deployment(spec.model_copy(update=changes), place, cluster))
        found = [other for other in others if other is not None]
        return shared(deployment, asked, found) if len(found) == len(others) else None

    def _requests(self, spec: ServingSpec, loc: Loc) -> RequestTable | None:
        if self._tainted((*loc, "requests")):
            return None
        try:
            table, notes = read_requests_of(spec.requests, self.spec.seed, self.base, self.skip_bad_rows)
        except ConfigError as error:
            for issue in error.issues:
                if issue.file:
                    self.issues.extend([issue])
                else:
                    self._error((*loc, "requests", *filter(None, issue.path.split("."))), issue.message)
            return None
        self.warnings += [f"{spec.serving}: {note}" for note in notes]
        return table

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

    def _report(self, loc: Loc, problems: Iterator[checks.Problem] | list[checks.Problem]) -> None:
        for path, message in problems:
            self._error((*loc, *path), message)

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


def _training_plan(spec: PlanSpec, framework: Framework, given: int) -> Plan | None:
    """The plan with what was left out filled in; ``None`` when no data-parallel degree fits the accelerators."""
    rest = spec.tensor_parallel * spec.context_parallel * spec.pipeline_parallel
    data_parallel = spec.data_parallel
    if data_parallel is None:
        if given < rest or given % rest:
            return None
        data_parallel = given // rest
    zero = framework.distributed_optimizer_default if spec.zero_stage is None else spec.zero_stage
    schedule = spec.schedule or ("interleaved-1f1b" if spec.virtual_stages > 1 else "1f1b")
    chosen = {family: name for family in FAMILIES if (name := getattr(spec, family)) is not None}
    if spec.communication:
        chosen["communication"] = "+".join(spec.communication)
    return Plan(
        tensor_parallel=spec.tensor_parallel, context_parallel=spec.context_parallel,
        pipeline_parallel=spec.pipeline_parallel, data_parallel=data_parallel, expert_parallel=spec.expert_parallel,
        sequence_parallel=spec.sequence_parallel, virtual_stages=spec.virtual_stages, schedule=schedule,
        zero_stage=zero, recompute=spec.recompute, precision=spec.precision, offload=spec.offload,
        options=frozen({**spec.options, **chosen}),
    )  # fmt: skip
