"""From ``deployment.instances`` to layouts on machines that come and go, and what does not work together in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from simulator.errors import ConfigError
from simulator.hardware.types import Cluster
from simulator.registry import lookup
from simulator.scenario.fleets import load_problem, unmovable
from simulator.scenario.spec_deployment import DeploymentSpec
from simulator.scenario.spec_instances import InstancesSpec
from simulator.serving.memory import cache_size
from simulator.strategies.compile import check_plan
from simulator.workload.fleets import Instances
from simulator.workload.jobs import Deployment
from simulator.workload.plan import Plan

__all__ = ["MOST_STAGES", "instance_problems", "on_instances"]

Problem = tuple[tuple[str, ...], str]

MOST_STAGES = 8
"""Pipeline stages of layouts that are tried where the scenario names none."""

EXCLUDES = ("pools", "groups", "sharing", "cascade", "autoscaling", "spot", "migration")
"""Keys that say otherwise how many replicas there are, or what becomes of their requests."""


def on_instances(whole: Deployment, asked: InstancesSpec, cluster: Cluster | None) -> Deployment:
    """The deployment with every layout its plan may change between, each with as many replicas as there is room for."""
    if cluster is None or not cluster.groups:
        return whole
    group = cluster.groups[0]
    size, total = group.node.accelerators, cluster.accelerator_count
    instances = Instances(
        asked.policy, cluster.node_count, size, asked.at_start,
        tuple((c.at, c.join or -(c.leave or 0)) for c in asked.changes), asked.mean_life or 0.0, asked.grace,
        asked.startup, asked.restart, asked.rate or 0.0, asked.price, asked.load_from,
    )  # fmt: skip
    layouts = []
    for tensor, stages in _degrees(whole, asked, size, total):
        count = size // tensor * cluster.node_count // stages if tensor <= size else 0
        plan = whole.plan.with_(tensor_parallel=tensor, pipeline_parallel=stages)
        layouts.append(replace(whole, plan=plan, replicas=max(1, count), instances=instances))
    if not asked.layouts:
        layouts = [part for part in layouts if not _reason(part, cluster)] or layouts[:1]
    return replace(
        whole, instances=instances, groups=tuple(layouts), plan=layouts[0].plan,
        replicas=sum(part.replicas for part in layouts),
    )  # fmt: skip


def _degrees(whole: Deployment, asked: InstancesSpec, size: int, total: int) -> list[tuple[int, int]]:
    """Tensor and pipeline degrees: those asked for, or all that make the longest stage shorter."""
    if asked.layouts:
        return [(layout.tensor_parallel, layout.pipeline_parallel) for layout in asked.layouts]
    layers = whole.model.num_hidden_layers
    stages = [p for p in range(1, min(MOST_STAGES, layers) + 1) if p == 1 or -(-layers // p) < -(-layers // (p - 1))]
    tensors = [t for t in (1, 2, 4, 8, 16, 32, 64) if size % t == 0]
    return [(t, p) for t in tensors for p in stages if t * p <= total]


def _reason(part: Deployment, cluster: Cluster) -> str:
    """Why a layout cannot be, or an empty string."""
    problems = check_plan(part.model, part.plan, "serving")
    if problems:
        return problems[0]
    try:
        return cache_size(part, cluster.groups[0].node).reason
    except ConfigError as error:
        return str(error)


def instance_problems(deployment: Deployment, spec: DeploymentSpec, cluster: Cluster | None) -> Iterator[Problem]:
    """What is wrong, as (path below ``deployment``, message)."""
    asked = spec.instances
    if asked is None:
        return
    for key in EXCLUDES:
        if getattr(spec, key):
            yield ("instances",), f"cannot be combined with '{key}' in one deployment"
    if "replicas" in spec.model_fields_set:
        yield ("replicas",), "the instances that are there say how many replicas there are, leave it out"
    for key in ("tensor_parallel", "pipeline_parallel", "data_parallel"):
        if key in spec.plan.model_fields_set:
            yield ("plan", key), "the plan follows the instances: leave it out, or write instances.layouts"
    for number, change in enumerate(asked.changes):
        if (change.join is None) == (change.leave is None):
            yield ("instances", "changes"), f"changes[{number}] needs either 'join' or 'leave'"
    if lookup("replanning", asked.policy)().carries:
        yield from ((("instances", "policy"), message) for message in unmovable(deployment, stages=True))
    if cluster is not None:
        yield from _on_cluster(deployment, asked, cluster)


def _on_cluster(deployment: Deployment, asked: InstancesSpec, cluster: Cluster) -> Iterator[Problem]:
    where = ("instances",)
    if len(cluster.groups) > 1:
        yield where, "instances are nodes of one kind, this cluster has several"
        return
    size, count = cluster.groups[0].node.accelerators, cluster.node_count
    if asked.at_start > count:
        yield (*where, "at_start"), f"{asked.at_start} instances, but the cluster has {count} nodes"
    yield from load_problem((*where, "load_from"), asked.load_from, cluster)
    for layout in asked.layouts:
        tensor, stages = layout.tensor_parallel, layout.pipeline_parallel
        if tensor > size:
            yield (*where, "layouts"), f"tensor_parallel {tensor} is more than the {size} accelerators of an instance"
        elif tensor * stages > cluster.accelerator_count:
            yield (
                (*where, "layouts"),
                (f"{tensor} × {stages} accelerators, but the cluster has {cluster.accelerator_count}: add nodes"),
            )
        elif problems := check_plan(deployment.model, Plan(tensor_parallel=tensor), "serving"):
            yield (*where, "layouts"), problems[0]
