"""A deployment as a tenant of the cluster: one engine priced, its replicas started, its tables and its bill."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from simulator.cluster.economics import Bill, Draw, bill, item_rows, mean_draw, money_columns
from simulator.cluster.tenants import ClusterScenario, Commons
from simulator.results.estimate import Estimate
from simulator.results.from_estimate import estimate_tables
from simulator.results.from_serving import serving_tables
from simulator.results.tables import Columns
from simulator.serving.deployment import DeploymentProcess
from simulator.serving.estimate import estimate_deployment, replica_cost, typical_batch
from simulator.serving.memory import cache_size
from simulator.serving.metrics import summarize, usage_columns
from simulator.serving.run import ServingRun
from simulator.serving.setup import engine_limits, policies
from simulator.serving.summary import ServingSummary
from simulator.workload.jobs import Deployment

if TYPE_CHECKING:
    import simpy

    from simulator.serving.iteration import ReplicaCost
    from simulator.serving.speculative import SpeculativeCost

__all__ = ["Outcome", "ServingTenant"]

Outcome: TypeAlias = ServingRun | ServingSummary
"""What a deployment leaves behind: rows, or counters and sketches."""

_REQUEST_COLUMNS = (
    "arrival", "scheduled", "first_token", "finish", "input_tokens", "output_tokens", "preemptions", "replica",
    "rejected",
)  # fmt: skip
_SHARED_TABLES = ("memory", "time", "traffic", "sources")


class ServingTenant:
    """One deployment; its replicas are equal, so one is priced, and their number scales the cost.

    Parameters
    ----------
    number
        Which deployment of the scenario it is; its random draws follow from it.
    """

    def __init__(self, deployment: Deployment, scenario: ClusterScenario, number: int) -> None:
        self.deployment, self.seed = deployment, scenario.seed + number
        self.cluster = scenario.cluster_of(deployment.name)  # of the first replica
        # The part of the cluster handed in holds one replica; feasibility of one is feasibility of all.
        self.estimate = estimate_deployment(replace(deployment, replicas=1), self.cluster, "step")
        self.cache = cache_size(deployment, self.cluster.groups[0].node)
        self.process: DeploymentProcess | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """Of the engine's estimate."""
        return tuple(f"{self.deployment.name}: {warning}" for warning in self.estimate.warnings)

    @property
    def accelerators(self) -> int:
        """Of all replicas."""
        return self.deployment.plan.accelerators * self.deployment.replicas

    def start(self, commons: Commons) -> simpy.Event | None:
        """Open for requests."""
        if not self.estimate.feasible:
            return None
        d = self.deployment
        limits = engine_limits(d, self.cache, self.cluster.groups[0].node)
        self.cost: ReplicaCost | SpeculativeCost = replica_cost(d, self.cluster)
        self.process = DeploymentProcess(
            commons.clock, d.requests, self.cost, limits, replicas=d.replicas, seed=self.seed, slo=d.slo,
            record=commons.scenario.record, progress=commons.progress_of(len(d.requests)), **policies(d, self.seed),
        )  # fmt: skip
        self.attach(commons, self.process)
        return self.process.start()

    # -- what kinds of deployments differ in ---------------------------------------------------------------------

    def attach(self, commons: Commons, process: DeploymentProcess) -> None:
        """Connect whatever acts on the replicas, before the first request comes."""

    def rented(self, end: float) -> float:
        """Replica seconds that are paid for up to ``end`` [s]."""
        return end * self.deployment.replicas

    @property
    def price_share(self) -> float:
        """Share of the usual price of the machines."""
        return 1.0

    def more_columns(self, run: Outcome, end: float) -> dict[str, Any]:
        """Further columns of the summary, or better values of those there are."""
        return {}

    def more_tables(self) -> dict[str, Columns]:
        """Further tables."""
        return {}

    # -- the answer ----------------------------------------------------------------------------------------------

    def tables(self) -> tuple[Mapping[str, Columns], dict[str, Any]]:
        """The engine's tables, with what became of the requests when it ran."""
        d, estimate = self.deployment, self.estimate
        size: dict[str, Any] = {"accelerators": self.accelerators, "plan": str(d.plan)}
        base = estimate_tables(d.name, estimate, **size)
        shared: dict[str, Columns] = {name: base[name] for name in _SHARED_TABLES if name in base}
        size["replicas"] = d.replicas
        if self.process is None:
            tables = serving_tables(d.name, {}, {}, feasible=False, reason=estimate.reason, **size)
            return {**tables, **shared}, {d.name: estimate}
        done = self.process.done
        # A deployment that has served everything is judged at that moment, not at the end of its neighbours.
        ended = done is not None and done.triggered
        run = cast(Outcome, done.value) if done is not None and ended else self.process.outcome()
        end = max((r.until for r in run.replicas), default=0.0)
        summary = self._summary(run)
        charge = self.charge(run, end)
        summary |= {"kv_capacity_tokens": self.cache.tokens}
        summary |= _iteration_row(estimate)
        summary |= {"clock": self.cluster.groups[0].node.accelerator.clock}
        summary |= money_columns(charge, end, summary["output_tokens"])
        summary |= self.more_columns(run, end)
        rows: dict[str, Any] = {}
        if isinstance(run, ServingRun):
            rows = {
                "requests": {name: getattr(run, name) for name in _REQUEST_COLUMNS}, "rejections": run.reasons,
                "samples": [(usage.index, *sample) for usage in run.replicas for sample in usage.samples],
            }  # fmt: skip
        tables = serving_tables(d.name, summary, rows.pop("requests", {}), kv_blocks=self.cache.blocks, **rows, **size)
        more = {**shared, "costs": item_rows(charge.items), **self.more_tables()}
        return {**tables, **more}, {d.name: estimate, f"{d.name}.run": run}

    def _summary(self, run: Outcome) -> dict[str, Any]:
        """Metrics of a run, from its rows or from its counters."""
        d, gpus = self.deployment, self.deployment.plan.accelerators
        if isinstance(run, ServingRun):
            return summarize(run, slo=d.slo, gpus_per_replica=gpus)
        row = run.to_dict()
        row |= usage_columns(run.replicas, self.cache.blocks)
        for key in ("output_tokens_per_s", "total_tokens_per_s"):
            row[f"{key}_per_gpu"] = row[key] / (gpus * len(run.replicas))
        attained = row["slo_attainment"]
        row["slo_met"] = bool(attained == attained and attained >= d.slo.percentile / 100.0)
        return row | {"rejections": run.rejections}

    def charge(self, run: Outcome, end: float) -> Bill:
        """Energy and money of what was served up to ``end`` [s], idle replicas included."""
        d, cluster = self.deployment, self.cluster
        busy, rented = sum(r.busy_time for r in run.replicas), self.rented(end)
        energy = self._draw(run, busy).energy(busy, max(0.0, rented - busy))
        return bill(d.name, cluster, d.plan.accelerators, rented, energy, self.price_share, (0.0, end))

    def _draw(self, run: Outcome, busy: float) -> Draw:
        d, cluster, cost = self.deployment, self.cluster, self.cost
        device = cluster.groups[0].node.accelerator
        batch = typical_batch(d, self.cache)
        tokens = sum(r.prefill_tokens + r.decode_tokens for r in run.replicas)
        flops = tokens * cost.flops(batch) / batch.tokens / cost.stages
        weights_and_cache = sum(r.iterations for r in run.replicas) * cost.traffic(batch)["hbm"] / cost.stages
        compute = flops / busy / device.peak(d.plan.precision) if busy else 0.0
        memory = weights_and_cache / busy / device.memory_bandwidth if busy else 0.0
        return mean_draw(cluster, d.plan.accelerators, compute, memory)


def _iteration_row(estimate: Estimate) -> dict[str, float]:
    """One decode iteration of a full engine, with its interval and floor, beside the run's figures."""
    interval = estimate.interval
    return {
        "seconds": estimate.seconds,
        "seconds_low": interval.low if interval else math.nan,
        "seconds_high": interval.high if interval else math.nan,
        "floor_seconds": estimate.floor,
    }
