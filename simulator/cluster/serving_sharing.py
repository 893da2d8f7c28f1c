"""Which deployments share links with others, their processes, and what that cost them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from simulator.cluster.contention import contention_table
from simulator.cluster.serving_engine import Engine
from simulator.cluster.serving_links import SharedIterations, WatchedReplica
from simulator.cluster.tenants import Commons
from simulator.engine.clock import Clock
from simulator.network.built import never_blocks
from simulator.results.tables import Columns
from simulator.serving.deployment import DeploymentProcess
from simulator.serving.estimate import replica_cost
from simulator.serving.limits import EngineLimits
from simulator.serving.linked_deployment import LinkedDeployment, LinkedPools
from simulator.serving.message_links import ReplicaWays
from simulator.strategies.protocols import IterationCost
from simulator.workload.jobs import Deployment
from simulator.workload.requests.table import RequestTable

__all__ = ["held_up_tables", "linked_pools", "linked_process", "shared_engines", "slow_down_columns"]


def shared_engines(deployment: Deployment, engines: Sequence[Engine], commons: Commons) -> list[SharedIterations]:
    """The engines whose replicas span scale-up domains, on links where they may meet somebody; mostly none.

    Behind switches that never block a replica has the ports of its nodes to itself, unless requests move over them.
    """
    scenario = commons.scenario
    cluster = scenario.cluster
    others = (scenario.training, scenario.queues, scenario.functions, scenario.background, cluster.fabric.faults)
    alone = len(scenario.deployments) == 1 and sum(len(e.replicas) for e in engines) == 1 and not any(others)
    moves = deployment.movable or deployment.pools is not None
    if alone or (never_blocks(cluster) and not moves and not cluster.fabric.faults):
        return []
    return [_shared(engine, commons) for engine in engines if engine.spans_domains]


def _shared(engine: Engine, commons: Commons) -> SharedIterations:
    scenario, name = commons.scenario, engine.deployment.name
    topology, numbers = commons.fabric.topology, list(engine.replicas)
    costs = [replica_cost(engine.deployment, scenario.cluster_of(name, number)) for number in numbers]
    ways = [
        ReplicaWays(topology, cost.priced[0].layout, cost.stages, scenario.placement(name, number).first)
        for number, cost in zip(numbers, costs, strict=True)
    ]
    return SharedIterations(name, commons.fabric, numbers, costs, ways)


def linked_process(
    shared: Sequence[SharedIterations], clock: Clock, requests: RequestTable, costs: Sequence[IterationCost],
    limits: EngineLimits | list[EngineLimits], **options: Any,
) -> DeploymentProcess:  # fmt: skip
    """The process of a deployment that shares links; a replica that does has its own cost."""
    watchers = _watchers(shared)
    mine = [watchers[number].cost if number in watchers else cost for number, cost in enumerate(costs)]
    process = LinkedDeployment(clock, requests, mine, limits, watchers=watchers, **options)
    for engines in shared:
        engines.start(process)
    return process


def linked_pools(shared: Sequence[SharedIterations], *arguments: Any, **options: Any) -> LinkedPools:
    """The same of pools."""
    watchers = _watchers(shared)
    costs = {number: watcher.cost for number, watcher in watchers.items()}
    process = LinkedPools(*arguments, watchers=watchers, costs=costs, **options)
    for engines in shared:
        engines.start(process)
    return process


def _watchers(shared: Sequence[SharedIterations]) -> dict[int, WatchedReplica]:
    return {watcher.number: watcher for engines in shared for watcher in engines.replicas}


def slow_down_columns(shared: Sequence[SharedIterations], busy: float) -> dict[str, Any]:
    """Time that iterations took longer for their links, and how many times longer they took."""
    if not shared:
        return {}
    lost = sum(replica.lost for engines in shared for replica in engines.replicas)
    return {"lost_network": lost, "contention_slow_down": busy / (busy - lost) if busy > lost else 1.0}


def held_up_tables(shared: Sequence[SharedIterations]) -> Mapping[str, Columns]:
    """Links that held up the iterations, and who else was on them."""
    if not any(replica.lost > 0 for engines in shared for replica in engines.replicas):
        return {}
    return {"contention": contention_table(shared[0].fabric, shared[0].tag)}
