"""A deployment as a tenant of the cluster: one engine priced, its replicas started, its tables and its bill."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from simulator.cluster.economics import Bill, Draw, bill, item_rows, mean_draw, money_columns
from simulator.cluster.tenants import ClusterScenario, Commons
from simulator.results.estimate import Estimate
from simulator.results.from_estimate import estimate_tables
from simulator.results.from_serving import serving_tables
from simulator.results.tables import Columns
from simulator.serving.deployment import DeploymentProcess
from simulator.serving.estimate import estimate_deployment, replica_cost, typical_batch
from simulator.serving.memory import cache_size
from simulator.serving.metrics import summarize
from simulator.serving.run import ServingRun
from simulator.serving.setup import engine_limits, policies
from simulator.workload.jobs import Deployment

if TYPE_CHECKING:
    import simpy

    from simulator.serving.iteration import ReplicaCost
    from simulator.serving.speculative import SpeculativeCost

__all__ = ["ServingTenant"]

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
            commons.clock, d.requests, self.cost, limits, replicas=d.replicas, seed=self.seed, **policies(d, self.seed)
        )
        return self.process.start()

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
        run = done.value if done is not None and done.triggered else self.process.result()
        assert isinstance(run, ServingRun)
        charge = _bill(self, run)
        summary = summarize(run, slo=d.slo, gpus_per_replica=d.plan.accelerators)
        summary |= {"kv_capacity_tokens": self.cache.tokens}
        summary |= _iteration_row(estimate)
        summary |= {"clock": self.cluster.groups[0].node.accelerator.clock}
        summary |= money_columns(charge, _span(run), summary["output_tokens"])
        tables = serving_tables(
            d.name, summary, {name: getattr(run, name) for name in _REQUEST_COLUMNS},
            samples=[(usage.index, *sample) for usage in run.replicas for sample in usage.samples],
            kv_blocks=self.cache.blocks, rejections=run.reasons, **size,
        )  # fmt: skip
        return {**tables, **shared, "costs": item_rows(charge.items)}, {d.name: estimate, f"{d.name}.run": run}


def _iteration_row(estimate: Estimate) -> dict[str, float]:
    """One decode iteration of a full engine, with its interval and floor, beside the run's figures."""
    interval = estimate.interval
    return {
        "seconds": estimate.seconds,
        "seconds_low": interval.low if interval else math.nan,
        "seconds_high": interval.high if interval else math.nan,
        "floor_seconds": estimate.floor,
    }


def _bill(service: ServingTenant, run: ServingRun) -> Bill:
    """Energy and money of a served request list, idle replicas included."""
    d, cluster, cost = service.deployment, service.cluster, service.cost
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
