"""Everything of a scenario on one clock: whatever shares the cluster, side by side on one fabric."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simulator.cluster.background_tenant import BackgroundTenant
from simulator.cluster.functions_tenant import FunctionsTenant
from simulator.cluster.queue_tenant import QueueTenant
from simulator.cluster.serving_tenants import serving_tenant
from simulator.cluster.tenants import ClusterScenario, Commons, Progress, Tenant
from simulator.cluster.training_tenant import TrainingTenant
from simulator.engine.clock import Clock
from simulator.results.sketch import QuantileSketch
from simulator.results.tables import Result, concat
from simulator.serving.summary import ServingSummary

__all__ = ["run_cluster"]


def run_cluster(scenario: ClusterScenario, progress: Progress | None = None) -> Result:
    """Run all workloads until they are done, or until the scenario's end.

    A workload that does not fit or cannot be scheduled is refused before anything is simulated and reported with its
    reason; the others run.
    """
    tenants = _tenants(scenario)
    commons = Commons(Clock(), scenario, progress)
    clock = commons.clock
    waits = [done for tenant in tenants if (done := tenant.start(commons)) is not None]
    if commons.failing is not None:
        commons.failing.start()
    if commons.power is not None:
        commons.power.start()
    if waits:
        everything = clock.all_of(waits)
        end = everything if scenario.until is None else clock.any_of([everything, clock.timeout(scenario.until)])
        clock.run_until(end)
    parts = [tenant.tables() for tenant in tenants]
    warnings = [warning for tenant in tenants for warning in tenant.warnings]
    if commons.power is not None:
        parts.append((commons.power.tables(), {}))
        warnings += commons.power.warnings
    names = dict.fromkeys(name for tables, _ in parts for name in tables)
    details: dict[str, Any] = {}
    for _, more in parts:
        details |= more
    return Result(
        tables={name: concat(tables[name] for tables, _ in parts if name in tables) for name in names},
        warnings=tuple(dict.fromkeys(warnings)),
        sketches=_sketches(details),
        details=details,
        provenance={"simulated_seconds": clock.now, "clock_events": clock.events},
    )


def _tenants(scenario: ClusterScenario) -> list[Tenant]:
    """Every workload, in the order in which result rows appear; other traffic last."""
    return [
        *(TrainingTenant(job, scenario) for job in scenario.training),
        *(serving_tenant(deployment, scenario, number) for number, deployment in enumerate(scenario.deployments)),
        *(FunctionsTenant(work, scenario, number) for number, work in enumerate(scenario.functions)),
        *(QueueTenant(stream, scenario) for stream in scenario.queues),
        *(BackgroundTenant(traffic, scenario) for traffic in scenario.background),
    ]


def _sketches(details: Mapping[str, Any]) -> dict[str, QuantileSketch]:
    """Latencies of deployments that kept no rows, by ``workload.metric``."""
    runs = {name.removesuffix(".run"): run for name, run in details.items() if isinstance(run, ServingSummary)}
    return {f"{name}.{metric}": sketch for name, run in runs.items() for metric, sketch in run.sketches.items()}
