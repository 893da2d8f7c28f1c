"""From the keys of a deployment to what the serving floor runs, and what does not work together in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from simulator.errors import ConfigError
from simulator.hardware.types import Cluster
from simulator.registry import lookup
from simulator.scenario.fleets import fleet_of, fleet_problems
from simulator.scenario.instances import instance_problems, on_instances
from simulator.scenario.placement import Demand
from simulator.scenario.spec import ServingSpec
from simulator.scenario.spec_deployment import (
    DeploymentSpec,
    EngineSpec,
    GroupSpec,
    PoolSpec,
    ServingPlanSpec,
    SparsitySpec,
)
from simulator.serving.options import FAMILIES, option_problems
from simulator.strategies.options import unknown_options
from simulator.workload.framework import Framework
from simulator.workload.jobs import CascadeChoice, Deployment, Member, Pools, ServiceLevel, Sharing
from simulator.workload.model import ModelSpec
from simulator.workload.plan import Plan
from simulator.workload.requests.table import RequestTable

__all__ = ["build_deployment", "demands_of", "deployment_problems", "frozen", "serving_plan", "shared"]

Problem = tuple[tuple[str, ...], str]

OWN_KEYS = (*FAMILIES, "swap_space")
"""Options of the serving floor that have a key of their own in a scenario."""


def frozen(options: Mapping[str, Any]) -> tuple[tuple[str, object], ...]:
    """Options as a sorted, hashable value."""

    def freeze(value: Any) -> object:
        if isinstance(value, Mapping):
            return frozen(value)
        return tuple(freeze(v) for v in value) if isinstance(value, list) else value

    return tuple(sorted((k, freeze(v)) for k, v in options.items()))


def serving_plan(spec: ServingPlanSpec, sparsity: SparsitySpec | None = None) -> Plan:
    """How one replica is spread, and which of its weights remain."""
    options = dict(spec.options)
    if sparsity is not None:
        given = sparsity.model_dump(exclude_none=True)
        options |= {"sparsity": given.pop("method")} | {f"sparsity_{key}": value for key, value in given.items()}
    return Plan(**{**spec.model_dump(), "options": frozen(options)})


def build_deployment(
    spec: ServingSpec, model: ModelSpec, framework: Framework, requests: RequestTable, cluster: Cluster | None = None
) -> Deployment:
    """The deployment with the framework's defaults filled in; its pools or groups are deployments of their own.

    ``cluster`` is asked for the layouts of a plan that follows its machines.
    """
    asked = spec.deployment
    whole = Deployment(
        name=spec.serving, model=model, framework=framework, plan=serving_plan(asked.plan, asked.sparsity),
        requests=requests, replicas=asked.autoscaling.max_replicas if asked.autoscaling else asked.replicas,
        router=asked.router, preemption=asked.preemption, admission=asked.admission, endpoint=asked.endpoint,
        slo=ServiceLevel(spec.slo.ttft, spec.slo.tpot, spec.slo.e2e, spec.slo.percentile),
        options=frozen(_options(asked)), early_exit=tuple(asked.early_exit or ()), **fleet_of(asked),
        **_sizes(asked, model, framework),
    )  # fmt: skip
    if asked.pools is not None:
        first, second = _pool(whole, asked, asked.pools.prefill), _pool(whole, asked, asked.pools.decode)
        pools = Pools(asked.pools.policy, first, second, frozen(asked.pools.options))
        return replace(whole, pools=pools, plan=second.plan, replicas=first.replicas + second.replicas)
    if asked.cascade is not None:
        return _cascade(whole, asked, framework)
    if asked.instances is not None:
        return on_instances(whole, asked.instances, cluster)
    if asked.groups:
        groups = tuple(_group(whole, group) for group in asked.groups)
        return replace(whole, groups=groups, plan=groups[0].plan, replicas=sum(group.replicas for group in groups))
    return whole


def shared(whole: Deployment, spec: DeploymentSpec, others: Sequence[Deployment]) -> Deployment:
    """The deployment with the models that share its replicas, itself the first; ``others`` in the order written."""
    asked = spec.sharing
    assert asked is not None
    own = Member(whole, asked.urgent, asked.family, asked.accuracy, asked.cost, asked.wanted_accuracy)
    rest = [
        Member(other, m.urgent, m.family, m.accuracy, m.cost, m.wanted_accuracy)
        for m, other in zip(asked.models, others, strict=True)
    ]
    return replace(whole, sharing=Sharing(asked.policy, (own, *rest), frozen(asked.options)))


def demands_of(name: str, spec: DeploymentSpec, cluster: Cluster | None = None) -> list[Demand]:
    """What the replicas of a deployment ask of the cluster, part by part; instances are all of its nodes."""
    plan = spec.plan
    if spec.instances is not None:
        return [Demand(name, cluster.accelerator_count)] if cluster is not None else []
    if spec.pools is not None:
        sides = (spec.pools.prefill, spec.pools.decode)
        parts = [(s.plan if "plan" in s.model_fields_set else plan, s.replicas, s.profile) for s in sides]
    elif spec.cascade is not None:
        small = spec.cascade.small
        parts = [(small.plan, small.replicas, small.profile), (plan, spec.replicas, None)]
    elif spec.groups:
        parts = [(group.plan or plan, group.count, group.profile) for group in spec.groups]
    else:
        parts = [(plan, spec.autoscaling.max_replicas if spec.autoscaling else spec.replicas, None)]
    found: list[Demand] = []
    first = 0
    for part, replicas, profile in parts:
        found.append(Demand(name, serving_plan(part).accelerators, replicas, first, profile))
        first += replicas
    return found


def _sizes(asked: EngineSpec, model: ModelSpec, framework: Framework) -> dict[str, Any]:
    """Policies and sizes of an engine."""

    def pick(value: Any, default: Any) -> Any:
        return default if value is None else value

    return {
        "batching": pick(asked.batching, framework.batching),
        "kv_cache": asked.kv_cache or ("prefix-tiered" if getattr(asked, "kv_tiers", None) else framework.kv_cache),
        "max_num_batched_tokens": pick(asked.max_batched_tokens, framework.max_num_batched_tokens),
        "max_num_seqs": pick(asked.max_num_seqs, framework.max_num_seqs),
        "max_model_len": pick(asked.max_model_len, model.max_position_embeddings),
        "block_size": pick(asked.block_size, framework.block_size),
        "memory_utilization": pick(asked.memory_utilization, framework.memory_utilization),
        "kv_dtype": pick(asked.kv_dtype, "bf16"),
    }


def _pool(whole: Deployment, deployment: DeploymentSpec, pool: PoolSpec) -> Deployment:
    """The replicas of one pool: its own keys, then those of the deployment, then the framework's."""
    names = set(EngineSpec.model_fields)
    values = {key: getattr(pool if key in pool.model_fields_set else deployment, key) for key in names}
    engine = EngineSpec.model_construct(**values)
    sizes = _sizes(engine, whole.model, whole.framework)
    return replace(
        whole, plan=serving_plan(engine.plan, engine.sparsity), replicas=pool.replicas, autoscaling=None, spot=None,
        migration=None, **sizes,
    )  # fmt: skip


def _cascade(whole: Deployment, spec: DeploymentSpec, framework: Framework) -> Deployment:
    """The deployment with the small model in front of it."""
    from simulator.workload.model_files import load_model

    asked = spec.cascade
    assert asked is not None
    model = load_model(asked.small.model)
    small = replace(
        whole, model=model, plan=serving_plan(asked.small.plan, asked.small.sparsity), replicas=asked.small.replicas,
        options=(), **_sizes(asked.small, model, framework),
    )  # fmt: skip
    choice = CascadeChoice(asked.method, small, whole, asked.reroute, asked.pruned, asked.delay)
    return replace(whole, cascade=choice, replicas=whole.replicas + small.replicas)


def _group(whole: Deployment, group: GroupSpec) -> Deployment:
    """The replicas of one group."""
    sizes = {"max_num_batched_tokens": group.max_batched_tokens, "max_num_seqs": group.max_num_seqs}
    given = {key: value for key, value in sizes.items() if value is not None}
    plan = whole.plan if group.plan is None else serving_plan(group.plan)
    return replace(whole, plan=plan, replicas=group.count, **given)  # type: ignore[arg-type]


def _options(spec: DeploymentSpec) -> dict[str, Any]:
    """Parameters of the policies, and the strategies that have keys of their own."""
    options = dict(spec.options)
    if spec.kv_tiers:
        own = options.get("kv_cache")
        options["kv_cache"] = {**(own if isinstance(own, Mapping) else {}), "tiers": [dict(t) for t in spec.kv_tiers]}
    if spec.swap_space is not None:
        options["swap_space"] = spec.swap_space
    named = {key: getattr(spec, key) for key in FAMILIES}
    return options | {key: value for key, value in named.items() if value is not None}


def deployment_problems(deployment: Deployment, spec: DeploymentSpec, cluster: Cluster | None) -> Iterator[Problem]:
    """What is wrong with a deployment, as (path below ``deployment``, message)."""
    yield from _misplaced(spec)
    for part in deployment.parts:
        for key, message in option_problems(part):
            if key in FAMILIES:
                yield (key,), message.removeprefix(f"deployment.{key}: ").removeprefix(f"deployment.{key}.")
            elif key not in OWN_KEYS:
                yield ("options", key), message
    kinds = [key for key in ("pools", "groups", "sharing", "cascade", "autoscaling") if getattr(spec, key)]
    if len(kinds) > 1:
        yield (kinds[1],), f"cannot be combined with '{kinds[0]}' in one deployment"
    if spec.early_exit:
        yield from _exit_problems(deployment, spec.early_exit)
    if "replicas" in spec.model_fields_set and (said := [k for k in kinds if k in ("pools", "groups")]):
        yield ("replicas",), f"'{said[0]}' says how many replicas there are, leave it out"
    if spec.pools is not None:
        try:
            lookup("disaggregation", spec.pools.policy)(**spec.pools.options)
        except (ConfigError, TypeError, ValueError) as error:
            yield ("pools", "options"), f"'{spec.pools.policy}' does not take these parameters ({error})"
    yield from fleet_problems(deployment, spec, cluster, kinds)
    yield from instance_problems(deployment, spec, cluster)


def _exit_problems(deployment: Deployment, exits: Sequence[float]) -> Iterator[Problem]:
    layers = deployment.model.num_hidden_layers
    if len(exits) > layers:
        yield ("early_exit",), f"{len(exits)} probabilities for {layers} layers, give one per layer at most"
    if any(p < 0.0 for p in exits) or sum(exits) > 1.0 + 1e-9:
        yield ("early_exit",), "exits are probabilities that add up to at most 1"
    if "speculation" in dict(deployment.options):
        yield ("early_exit",), "cannot be combined with 'speculation': a verification runs through all layers"


def _plans(spec: DeploymentSpec) -> Iterator[tuple[tuple[str, ...], ServingPlanSpec]]:
    """Every plan of a deployment with its path."""
    yield ("plan",), spec.plan
    if spec.pools is not None:
        yield ("pools", "prefill", "plan"), spec.pools.prefill.plan
        yield ("pools", "decode", "plan"), spec.pools.decode.plan
    if spec.cascade is not None:
        yield ("cascade", "small", "plan"), spec.cascade.small.plan
    for group in spec.groups:
        if group.plan is not None:
            yield ("groups",), group.plan


def _misplaced(spec: DeploymentSpec) -> Iterator[Problem]:
    """Parameters that have a key of their own."""
    for key in spec.options:
        if key in OWN_KEYS:
            yield ("options", key), f"write it as deployment.{key}"
    for where, plan in _plans(spec):
        for key, message in unknown_options(serving_plan(plan)):
            misplaced = key.startswith("sparsity")
            yield (*where, "options", key), "write it below deployment.sparsity" if misplaced else message
    if isinstance(cache := spec.options.get("kv_cache"), Mapping) and "tiers" in cache:
        yield ("options", "kv_cache", "tiers"), "write it as deployment.kv_tiers"
    if spec.kv_tiers and spec.kv_cache not in (None, "prefix-tiered"):
        yield ("kv_tiers",), f"kv_cache '{spec.kv_cache}' uses no tiers, write 'prefix-tiered' or leave kv_cache out"
