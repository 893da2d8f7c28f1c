"""From the keys of a deployment to what the serving floor runs, and what does not work together in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from simulator.errors import ConfigError
from simulator.hardware.types import Cluster
from simulator.registry import lookup
from simulator.scenario.spec import ServingSpec
from simulator.scenario.spec_deployment import AutoscalingSpec, DeploymentSpec, ServingPlanSpec
from simulator.workload.fleets import Autoscaling, SpotMarket
from simulator.workload.framework import Framework
from simulator.workload.jobs import Deployment, ServiceLevel
from simulator.workload.model import ModelSpec
from simulator.workload.plan import Plan
from simulator.workload.requests.table import RequestTable

__all__ = ["build_deployment", "deployment_problems", "frozen", "most_replicas", "serving_plan"]

Problem = tuple[tuple[str, ...], str]


def frozen(options: Mapping[str, Any]) -> tuple[tuple[str, object], ...]:
    """Options as a sorted, hashable value."""

    def freeze(value: Any) -> object:
        if isinstance(value, Mapping):
            return frozen(value)
        return tuple(freeze(v) for v in value) if isinstance(value, list) else value

    return tuple(sorted((k, freeze(v)) for k, v in options.items()))


def serving_plan(spec: ServingPlanSpec) -> Plan:
    """How one replica is spread."""
    return Plan(**{**spec.model_dump(), "options": frozen(spec.options)})


def most_replicas(spec: DeploymentSpec) -> int:
    """Replicas there may be at once: accelerators are set aside for all of them."""
    return spec.autoscaling.max_replicas if spec.autoscaling else spec.replicas


def build_deployment(
    spec: ServingSpec, model: ModelSpec, framework: Framework, requests: RequestTable
) -> Deployment:  # fmt: skip
    """The deployment with the framework's defaults filled in."""
    asked = spec.deployment

    def pick(value: Any, default: Any) -> Any:
        return default if value is None else value

    return Deployment(
        name=spec.serving, model=model, framework=framework, plan=serving_plan(asked.plan), requests=requests,
        replicas=most_replicas(asked), batching=pick(asked.batching, framework.batching), router=asked.router,
        max_num_batched_tokens=pick(asked.max_batched_tokens, framework.max_num_batched_tokens),
        max_num_seqs=pick(asked.max_num_seqs, framework.max_num_seqs),
        max_model_len=pick(asked.max_model_len, model.max_position_embeddings),
        block_size=pick(asked.block_size, framework.block_size),
        memory_utilization=pick(asked.memory_utilization, framework.memory_utilization),
        kv_dtype=pick(asked.kv_dtype, "bf16"), preemption=asked.preemption, kv_cache=asked.kv_cache or "",
        admission=asked.admission,
        slo=ServiceLevel(spec.slo.ttft, spec.slo.tpot, spec.slo.e2e, spec.slo.percentile),
        options=frozen(asked.options), autoscaling=_autoscaling(asked),
        spot=SpotMarket(asked.spot.mean_life, asked.spot.grace, asked.spot.price) if asked.spot else None,
    )  # fmt: skip


def _autoscaling(spec: DeploymentSpec) -> Autoscaling | None:
    asked = spec.autoscaling
    if asked is None:
        return None
    initial = asked.min_replicas if asked.initial_replicas is None else asked.initial_replicas
    return Autoscaling(
        asked.policy, asked.min_replicas, asked.max_replicas, initial, asked.interval, asked.startup or 0.0,
        asked.load_from, asked.options,
    )  # fmt: skip


def deployment_problems(deployment: Deployment, spec: DeploymentSpec, cluster: Cluster | None) -> Iterator[Problem]:
    """What is wrong with a deployment, as (path below ``deployment``, message)."""
    from simulator.serving.options import option_problems

    for message in option_problems(deployment):
        yield ("options",), message
    if spec.autoscaling is not None:
        if "replicas" in spec.model_fields_set:
            yield (
                ("replicas",),
                "autoscaling says how many replicas there are, leave it out or use min and max_replicas",
            )
        yield from _scaling_problems(spec.autoscaling, cluster)


def _scaling_problems(spec: AutoscalingSpec, cluster: Cluster | None) -> Iterator[Problem]:
    low, high, first = spec.min_replicas, spec.max_replicas, spec.initial_replicas
    if low > high:
        yield ("autoscaling", "min_replicas"), f"{low} is more than max_replicas {high}"
    elif first is not None and not low <= first <= high:
        yield ("autoscaling", "initial_replicas"), f"{first} is not between min_replicas {low} and max_replicas {high}"
    try:
        lookup("autoscaling", spec.policy)(**spec.options)
    except (ConfigError, TypeError) as error:
        yield ("autoscaling", "options"), f"'{spec.policy}' does not take these parameters ({error})"
    if cluster is None:
        return
    known = [
        "host",
        *(["nvme"] if all(g.node.nvme for g in cluster.groups) else []),
        *(s.name for s in cluster.storage),
    ]
    if spec.load_from not in known:
        where = ("autoscaling", "load_from")
        yield where, f"the cluster has no '{spec.load_from}' to load weights from, known: {', '.join(known)}"
