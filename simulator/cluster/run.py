"""Everything of a scenario on one clock: training jobs and deployments side by side on one fabric."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from simulator.cluster.economics import Bill, Draw, bill, mean_draw
from simulator.cluster.failures import FailureProcess
from simulator.engine.clock import Clock
from simulator.hardware.types import Cluster
from simulator.registry import lookup
from simulator.results.estimate import Estimate
from simulator.results.from_estimate import estimate_tables
from simulator.results.from_serving import serving_tables
from simulator.results.tables import Columns, Result, concat
from simulator.serving.deployment import DeploymentProcess
from simulator.serving.estimate import estimate_deployment, replica_cost, typical_batch
from simulator.serving.memory import CacheSize, cache_size
from simulator.serving.metrics import summarize
from simulator.serving.run import ServingRun
from simulator.serving.setup import engine_limits, policies
from simulator.training.ledger import CAUSES, TrainingRun
from simulator.training.process import Survival, TrainingProcess
from simulator.training.step import estimate_step
from simulator.training.tables import timeline_tables
from simulator.workload.failures.model import FailureModel
from simulator.workload.jobs import Deployment, TrainingJob

if TYPE_CHECKING:
    import simpy

    from simulator.network.fabric import Fabric

__all__ = ["ClusterScenario", "run_cluster"]


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
    def failures(self) -> FailureModel | None:
        """What fails, or ``None``."""

    @property
    def until(self) -> float | None:
        """End of the run [s], or ``None``: until all work is done."""

    def cluster_of(self, workload: str, replica: int = 0) -> Cluster:
        """The part of the cluster a workload runs on."""

    def placement(self, workload: str, replica: int = 0) -> Any:
        """Where a workload runs: ``first_node`` and ``nodes``."""


@dataclass
class _Job:
    """A training job under way."""

    job: TrainingJob
    cluster: Cluster
    estimate: Estimate
    process: TrainingProcess | None = None


@dataclass
class _Served:
    """A deployment under way."""

    deployment: Deployment
    cluster: Cluster
    estimate: Estimate
    cache: CacheSize
    process: DeploymentProcess | None = None
    details: dict[str, Any] = field(default_factory=dict)


def run_cluster(scenario: ClusterScenario) -> Result:
    """Run all workloads until they are done, or until the scenario's end.

    A workload that does not fit or cannot be scheduled is refused before anything is simulated and reported with its
    reason; the others run.
    """
    clock = Clock()
    jobs = [_prepare_job(job, scenario.cluster_of(job.name)) for job in scenario.training]
    served = [_prepare_deployment(d, _cluster_of_replicas(scenario, d)) for d in scenario.deployments]
    fabric = _fabric(clock, scenario) if any(j.job.checkpoint for j in jobs if j.estimate.feasible) else None
    waits: list[simpy.Event] = []
    failing = _failures(clock, scenario)
    for entry in jobs:
        if entry.estimate.feasible:
            place = scenario.placement(entry.job.name)
            nodes = range(place.first_node, place.first_node + place.nodes)
            survival = _survival(entry, scenario.failures)
            entry.process = TrainingProcess(clock, entry.job, entry.estimate, entry.cluster, nodes, fabric, survival)
            waits.append(entry.process.start())
            if failing is not None:
                failing.watch(entry.process, nodes)
    for number, service in enumerate(served):
        if service.estimate.feasible:
            service.process = _start_deployment(clock, service, scenario.seed + number)
            waits.append(service.process.start())
    if failing is not None:
        failing.start()
    if waits:
        everything = clock.all_of(waits)
        if scenario.until is None:
            clock.run(everything)
        else:
            clock.run(clock.any_of([everything, clock.timeout(scenario.until)]))
    parts = [_job_tables(entry) for entry in jobs] + [_deployment_tables(service) for service in served]
    names = dict.fromkeys(name for tables, _ in parts for name in tables)
    tables = {name: concat(tables[name] for tables, _ in parts if name in tables) for name in names}
    details: dict[str, Any] = {}
    for _, more in parts:
        details |= more
    warnings = [f"{e.job.name}: {w}" for e in jobs for w in e.estimate.warnings]
    warnings += [f"{s.deployment.name}: {w}" for s in served for w in s.estimate.warnings]
    return Result(
        tables=tables,
        warnings=tuple(dict.fromkeys(warnings)),
        details=details,
        provenance={"simulated_seconds": clock.now, "clock_events": clock.events},
    )


def _cluster_of_replicas(scenario: ClusterScenario, deployment: Deployment) -> Cluster:
    """The nodes of the first replica; replicas are equal, their number scales the cost."""
    return scenario.cluster_of(deployment.name)


def _fabric(clock: Clock, scenario: ClusterScenario) -> Fabric:
    from simulator.network.fabric import Fabric
    from simulator.network.topology import build

    return Fabric(clock, build(scenario.cluster))


def _failures(clock: Clock, scenario: ClusterScenario) -> FailureProcess | None:
    """The process that fails nodes; deployments keep theirs."""
    if scenario.failures is None:
        return None
    sizes = [group.node.accelerators for group in scenario.cluster.groups for _ in range(group.count)]
    places = [scenario.placement(d.name, replica) for d in scenario.deployments for replica in range(d.replicas)]
    reserved = {node for place in places for node in range(place.first_node, place.first_node + place.nodes)}
    return FailureProcess(clock, scenario.failures, sizes, reserved, scenario.seed)


def _survival(entry: _Job, model: FailureModel | None) -> Survival | None:
    if model is None:
        return None
    recovery: Any = lookup("recovery", entry.job.recovery)()
    mttf = model.mttf(entry.job.plan.accelerators, entry.cluster.groups[0].node.accelerators)
    return Survival(recovery, mttf, model.detection, model.restart, model.regroup)


# -- training ------------------------------------------------------------------------------------------------------


def _prepare_job(job: TrainingJob, cluster: Cluster) -> _Job:
    return _Job(job, cluster, estimate_step(job, cluster, "step"))


def _job_tables(entry: _Job) -> tuple[Mapping[str, Columns], dict[str, Any]]:
    job, estimate = entry.job, entry.estimate
    named: dict[str, Any] = {}
    details: dict[str, Any] = dict(estimate.details)
    if estimate.feasible:
        details |= timeline_tables(details["pipeline"], details["run"])
    answer = Estimate(**{**{f: getattr(estimate, f) for f in estimate.__dataclass_fields__}, "details": details})
    tables = dict(
        estimate_tables(
            job.name,
            answer,
            plan=str(job.plan),
            accelerators=job.plan.accelerators,
            steps=job.steps,
            tokens=job.batch.tokens,
            samples=job.batch.global_batch_size,
        )
    )
    if entry.process is not None:
        run = entry.process.close()
        row = {key: values[0] for key, values in tables["summary"].items()}
        row |= {"depth": "run", "steps": run.steps, "training_seconds": run.end - run.start}
        row |= {"effective_time_ratio": run.effective_time_ratio, "interruptions": run.interrupted}
        row |= {f"lost_{cause}": run.lost[cause] for cause in CAUSES}
        named[f"{job.name}.run"] = run
        charge = training_bill(job, entry.cluster, estimate, run.end - run.start)
        tokens = run.steps * job.batch.tokens
        row |= _money(charge, run.end - run.start, tokens)
        tables["summary"] = {key: [value] for key, value in row.items()}
        tables["costs"] = _rows(charge.items)
        if run.checkpoints or run.events:
            tables["events"] = _events(job.name, run)
    return tables, {job.name: answer, **named}


def _events(name: str, run: TrainingRun) -> Columns:
    """Checkpoints, failures and recoveries of a job in time order."""
    rows = [(begin, "checkpoint written", f"{end - begin:.6g} s") for begin, end in run.checkpoints]
    rows = sorted([*rows, *((e.time, e.event, e.detail) for e in run.events)], key=lambda row: row[0])
    return {
        "time": [time for time, _, _ in rows],
        "workload": [name] * len(rows),
        "replica": [0] * len(rows),
        "event": [event for _, event, _ in rows],
        "detail": [detail for _, _, detail in rows],
    }


def training_bill(job: TrainingJob, cluster: Cluster, estimate: Estimate, seconds: float) -> Bill:
    """Energy and money of ``seconds`` of training steps."""
    accelerators = job.plan.accelerators
    device = cluster.groups[0].node.accelerator
    compute = estimate.metrics.get("hfu", 0.0)
    memory = estimate.traffic.by_link.get("hbm", 0.0) / estimate.seconds / device.memory_bandwidth
    draw = mean_draw(cluster, accelerators, compute, memory)
    return bill(job.name, cluster, accelerators, seconds, draw.energy(seconds, 0.0))


# -- serving -------------------------------------------------------------------------------------------------------


def _prepare_deployment(deployment: Deployment, cluster: Cluster) -> _Served:
    from dataclasses import replace

    # The part of the cluster handed in holds one replica; feasibility of one is feasibility of all.
    one = replace(deployment, replicas=1)
    estimate = estimate_deployment(one, cluster, "step")
    return _Served(deployment, cluster, estimate, cache_size(deployment, cluster.groups[0].node))


def _start_deployment(clock: Clock, service: _Served, seed: int) -> DeploymentProcess:
    d = service.deployment
    limits = engine_limits(d, service.cache, service.cluster.groups[0].node)
    cost = replica_cost(d, service.cluster)
    service.details["cost"] = cost
    return DeploymentProcess(clock, d.requests, cost, limits, replicas=d.replicas, seed=seed, **policies(d, seed))


def _deployment_tables(service: _Served) -> tuple[Mapping[str, Columns], dict[str, Any]]:
    d, estimate = service.deployment, service.estimate
    accelerators = d.plan.accelerators * d.replicas
    base = estimate_tables(d.name, estimate, plan=str(d.plan), accelerators=accelerators)
    shared: dict[str, Columns] = {name: base[name] for name in ("memory", "time", "traffic", "sources") if name in base}
    if service.process is None:
        tables = serving_tables(
            d.name,
            {},
            {},
            accelerators=accelerators,
            replicas=d.replicas,
            plan=str(d.plan),
            feasible=False,
            reason=estimate.reason,
        )
        return {**tables, **shared}, {d.name: estimate}
    done = service.process.done
    # A deployment that has served everything is judged at that moment, not at the end of its neighbours.
    run = done.value if done is not None and done.triggered else service.process.result()
    assert isinstance(run, ServingRun)
    summary = summarize(run, slo=d.slo, gpus_per_replica=d.plan.accelerators)
    summary |= {"kv_capacity_tokens": service.cache.tokens}
    summary |= _iteration_row(estimate)
    charge = serving_bill(service, run)
    summary |= _money(charge, _span(run), summary["output_tokens"])
    columns = {
        name: getattr(run, name)
        for name in (
            "arrival",
            "scheduled",
            "first_token",
            "finish",
            "input_tokens",
            "output_tokens",
            "preemptions",
            "replica",
            "rejected",
        )
    }
    samples = [(usage.index, *sample) for usage in run.replicas for sample in usage.samples]
    tables = serving_tables(
        d.name,
        summary,
        columns,
        accelerators=accelerators,
        replicas=d.replicas,
        plan=str(d.plan),
        samples=samples,
        kv_blocks=service.cache.blocks,
        rejections=run.reasons,
    )
    return {**tables, **shared, "costs": _rows(charge.items)}, {d.name: estimate, f"{d.name}.run": run}


def _iteration_row(estimate: Estimate) -> dict[str, float]:
    """One decode iteration of a full engine, with its interval and floor, beside the run's figures."""
    interval = estimate.interval
    return {
        "seconds": estimate.seconds,
        "seconds_low": interval.low if interval else math.nan,
        "seconds_high": interval.high if interval else math.nan,
        "floor_seconds": estimate.floor,
    }


def serving_bill(service: _Served, run: ServingRun) -> Bill:
    """Energy and money of a served request list, idle replicas included."""
    d, cluster, cost = service.deployment, service.cluster, service.details["cost"]
    device = cluster.groups[0].node.accelerator
    span = _span(run)
    busy = sum(r.busy_time for r in run.replicas)
    batch = typical_batch(d, service.cache)
    tokens = sum(r.prefill_tokens + r.decode_tokens for r in run.replicas)
    flops = tokens * cost.flops(batch) / batch.tokens / cost.stages
    weights_and_cache = sum(r.iterations for r in run.replicas) * cost.traffic(batch)["hbm"] / cost.stages
    compute = flops / busy / device.peak(d.plan.precision) if busy else 0.0
    memory = weights_and_cache / busy / device.memory_bandwidth if busy else 0.0
    draw: Draw = mean_draw(cluster, d.plan.accelerators, compute, memory)
    energy = draw.energy(busy, max(0.0, span * len(run.replicas) - busy))
    return bill(d.name, cluster, d.plan.accelerators * d.replicas, span, energy)


def _span(run: ServingRun) -> float:
    return max((r.until for r in run.replicas), default=0.0)


def _money(charge: Bill, seconds: float, tokens: float) -> dict[str, float]:
    """Summary columns of energy and cost."""
    per_token = 1.0 / tokens if tokens else math.nan
    return {
        "power_mean": charge.energy / seconds if seconds else math.nan,
        "energy": charge.energy,
        "energy_per_token": charge.energy * per_token,
        "carbon": charge.carbon,
        "usd": charge.usd,
        "usd_per_million_tokens": charge.usd * per_token * 1e6,
        "usd_per_million_tokens_low": charge.low * per_token * 1e6,
        "usd_per_million_tokens_high": charge.high * per_token * 1e6,
    }


def _rows(items: tuple[dict[str, Any], ...]) -> dict[str, list[Any]]:
    return {key: [item[key] for item in items] for key in items[0]} if items else {}
