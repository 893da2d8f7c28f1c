"""From the keys of a fleet that changes to what the serving floor runs: autoscaling, spot machines, migration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from simulator.errors import ConfigError
from simulator.hardware.types import Cluster
from simulator.registry import lookup
from simulator.scenario.spec_deployment import AutoscalingSpec, DeploymentSpec
from simulator.serving.chosen import chosen_kv_policy
from simulator.serving.setup import policies
from simulator.workload.fleets import Autoscaling, Functions, LiveMigration, SpotMarket
from simulator.workload.jobs import Deployment

__all__ = ["fleet_of", "fleet_problems", "load_problem", "unmovable"]

Problem = tuple[tuple[str, ...], str]


def fleet_of(asked: DeploymentSpec) -> dict[str, Any]:
    """How the replicas of a deployment come, go and hand requests over, as fields of it."""
    spot, moves = asked.spot, asked.migration
    return {
        "autoscaling": _autoscaling(asked),
        "spot": SpotMarket(spot.mean_life, spot.grace, spot.price, spot.recovery or "") if spot else None,
        "migration": LiveMigration(moves.policy, moves.interval, moves.options) if moves else None,
    }


def _autoscaling(spec: DeploymentSpec) -> Autoscaling | None:
    asked = spec.autoscaling
    if asked is None:
        return None
    initial = asked.min_replicas if asked.initial_replicas is None else asked.initial_replicas
    return Autoscaling(
        asked.policy, asked.min_replicas, asked.max_replicas, initial, asked.interval, asked.startup or 0.0,
        asked.load_from, asked.options, Functions(*asked.functions.model_dump().values()) if asked.functions else None,
    )  # fmt: skip


def fleet_problems(
    deployment: Deployment, spec: DeploymentSpec, cluster: Cluster | None, kinds: Sequence[str]
) -> Iterator[Problem]:
    """What is wrong, as (path below ``deployment``, message).

    Parameters
    ----------
    kinds
        What kind of deployment it is: keys that are there and exclude each other.
    """
    for key in ("spot", "migration"):
        if getattr(spec, key) is not None and kinds and kinds[0] != "autoscaling":
            yield (key,), f"cannot be combined with '{kinds[0]}' in one deployment"
    if spec.autoscaling is not None:
        if "replicas" in spec.model_fields_set:
            yield (
                ("replicas",),
                "autoscaling says how many replicas there are, leave it out or use min and max_replicas",
            )
        yield from _scaling_problems(spec.autoscaling, cluster)
    if spec.migration is not None:
        yield from _option_problems("migration", spec.migration.policy, spec.migration.options)
        yield from ((("migration",), message) for message in unmovable(deployment))
    if spec.spot is not None and spec.spot.recovery:
        yield from ((("spot", "recovery"), message) for message in unmovable(deployment))


def unmovable(deployment: Deployment, stages: bool = False) -> Iterator[str]:
    """Why requests of a deployment cannot move while they run; with ``stages`` whole pipelines stop for it."""
    try:
        made = policies(deployment, 0)
        batching = made["batching"]
        cache = chosen_kv_policy(made.get("kv_cache"), batching)
    except ConfigError:
        return  # said of the policies themselves
    if batching.moves_requests or batching.release_together or not cache.grows:
        yield (
            f"requests move at every iteration and in pages; batching '{deployment.batching}' with kv_cache "
            f"'{cache.name}' cannot: choose 'chunked-prefill' or 'prefill-first' with 'paged'"
        )
    if deployment.plan.pipeline_parallel > 1 and not stages:
        yield "requests in flight through pipeline stages do not move: choose tensor_parallel"
    if deployment.preemption == "swap":
        yield "preemption by swapping is not modelled beside requests that move: choose 'recompute'"
    if not deployment.model.is_decoder:
        yield f"{deployment.model.name} keeps no keys and values that could move"


def _option_problems(family: str, name: str, options: Mapping[str, Any]) -> Iterator[Problem]:
    try:
        lookup(family, name)(**options)
    except (ConfigError, TypeError) as error:
        yield (family, "options"), f"'{name}' does not take these parameters ({error})"


def _scaling_problems(spec: AutoscalingSpec, cluster: Cluster | None) -> Iterator[Problem]:
    low, high, first = spec.min_replicas, spec.max_replicas, spec.initial_replicas
    if low > high:
        yield ("autoscaling", "min_replicas"), f"{low} is more than max_replicas {high}"
    elif first is not None and not low <= first <= high:
        yield ("autoscaling", "initial_replicas"), f"{first} is not between min_replicas {low} and max_replicas {high}"
    yield from _option_problems("autoscaling", spec.policy, spec.options)
    if cluster is not None:
        yield from load_problem(("autoscaling", "load_from"), spec.load_from, cluster)


def load_problem(where: tuple[str, ...], source: str, cluster: Cluster) -> Iterator[Problem]:
    """Whether the cluster has what weights are to be loaded from."""
    nvme = ["nvme"] if all(g.node.nvme for g in cluster.groups) else []
    known = ["host", *nvme, *(s.name for s in cluster.storage)]
    if source not in known:
        yield where, f"the cluster has no '{source}' to load weights from, known: {', '.join(known)}"
