"""A deployment without its traffic: does it fit, how fast is one iteration, what bounds it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from simulator.constants import Constant, ConstantSet, both
from simulator.cost.sensitivity import interval
from simulator.hardware.types import Cluster, Node
from simulator.results.estimate import Estimate, Interval, MemoryLedger, TimeBreakdown, Traffic
from simulator.serving.adapters import AdapterCost, miss_share
from simulator.serving.dual_batch import DualBatchCost
from simulator.serving.iteration import ReplicaCost
from simulator.serving.memory import CacheSize, cache_size
from simulator.serving.message_links import ALONE, MessageLinks, links_of_place
from simulator.serving.options import ServedModel, option_problems, quality_notes
from simulator.serving.speculative import SpeculativeCost
from simulator.serving.trust import trust_shares
from simulator.serving.wrapped_cost import DenoisingCost, EarlyExitCost, EncoderDecoderCost, ServingBase, TowerCost
from simulator.strategies.cascade.models import EarlyExit
from simulator.strategies.compile import check_plan
from simulator.strategies.protocols import BatchShape
from simulator.workload.jobs import Deployment
from simulator.workload.model import ModelSpec
from simulator.workload.plan import Plan

__all__ = ["ServingCost", "check_deployment", "estimate_deployment", "put_on_links", "replica_cost"]

ServingCost = ServingBase
"""Iteration times with or without speculation, and what runs beside the model."""


def check_deployment(deployment: Deployment, cluster: Cluster) -> list[str]:
    """Why this deployment cannot run on this cluster as planned; empty when it can (memory is judged apart)."""
    plan = deployment.plan
    reasons = check_plan(deployment.model, plan, "serving")
    needed = plan.accelerators * deployment.replicas
    if needed > cluster.accelerator_count:
        reasons.append(
            f"{deployment.replicas} replicas of {plan.accelerators} need {needed} accelerators, the "
            f"cluster has {cluster.accelerator_count}"
        )
    if plan.pipeline_parallel > deployment.model.num_hidden_layers:
        reasons.append(
            f"pipeline_parallel {plan.pipeline_parallel} is more than the {deployment.model.num_hidden_layers} layers"
        )
    return reasons or [message for _, message in option_problems(deployment, cluster.groups[0].node)]


def replica_cost(
    deployment: Deployment, cluster: Cluster, node: Node | None = None, scale: Mapping[str, float] | None = None
) -> ServingCost:
    """Iteration times of a replica of ``deployment`` on ``node`` (the cluster's first node type by default)."""
    node = node or cluster.groups[0].node
    scale = both(cluster.factors, scale)
    served = ServedModel.of(deployment, node)
    plain = (
        deployment.model, served.plan, deployment.framework, node, cluster.fabric, deployment.kv_dtype,
        deployment.max_num_batched_tokens, scale,
    )  # fmt: skip
    cost: ServingCost
    if served.overlap is not None:
        cost = DualBatchCost(served.overlap, *plain, kept=served.kept, stream=served.stream, grid=served.grid)
    elif served.speculation is None:
        cost = ReplicaCost(*plain, kept=served.kept, stream=served.stream, grid=served.grid)
    else:
        cost = SpeculativeCost(served.speculation, *plain, kept=served.kept, stream=served.stream, grid=served.grid)
    cost = _wrapped(cost, served, deployment, scale)
    first = cost.priced[0]
    put_on_links(cost, links_of_place(first.layout, first.stages, cluster))
    return cost


def put_on_links(cost: ServingCost, links: MessageLinks) -> None:
    """From now on whatever a replica sends between domains meets this."""
    for part in cost.priced:
        part.on_links(links)


def _narrow_notes(cost: ServingCost, batch: BatchShape) -> tuple[str, ...]:
    """What the fabric costs a replica that is alone on it, in words."""
    links = cost.priced[0].links
    if links.ways is None:
        return ()
    here = cost.away(batch)
    put_on_links(cost, ALONE)
    free = cost.away(batch)
    put_on_links(cost, links)
    return tuple(
        f"{a.axis} {a.collective}: messages between nodes take {a.seconds / b.seconds:.3g} times as long as on a "
        f"fabric that never blocks; {links.ways.narrowest(a.axis, a.collective)} is the narrowest link"
        for a, b in zip(here, free, strict=True)
        if a.seconds > b.seconds
    )


def _wrapped(
    cost: ServingCost, served: ServedModel, deployment: Deployment, scale: Mapping[str, float] | None
) -> ServingCost:  # fmt: skip
    """The cost with what runs beside the model."""
    d = deployment
    if served.adapters is not None:
        base, a = cost.priced[0], served.adapters
        batch = typical_batch(d, cache_size(d, base.node))
        cost = AdapterCost(
            cost, base.device, d.model, a.tenants, a.method, tensor_parallel=d.plan.tensor_parallel,
            miss_share=miss_share(a.tenants, batch.decodes, a.method),
            host_bandwidth=base.node.accelerator.host_link.achievable,
        )  # fmt: skip
    if d.early_exit:
        cost = EarlyExitCost(cost, EarlyExit(d.early_exit), d.model.num_hidden_layers)
    if d.denoising is not None:
        cost = DenoisingCost(cost, d.denoising.tokens, d.denoising.passes)
    if d.model.encoder is not None:
        base, plan = cost.priced[0], Plan(tensor_parallel=d.plan.tensor_parallel)
        encoder = ReplicaCost(d.model.encoder, plan, d.framework, base.node, base.fabric, scale=scale)
        cost = EncoderDecoderCost(cost, encoder, _cross_attention(d.model, d.plan.tensor_parallel))
    if d.items:
        base, plan = cost.priced[0], Plan(tensor_parallel=d.plan.tensor_parallel)
        towers = [
            (ReplicaCost(t, plan, d.framework, base.node, base.fabric, scale=scale), t.patch.tokens)
            for t in d.model.towers
            if t.patch is not None
        ]
        cost = TowerCost(cost, towers, d.items)
    return cost


def _cross_attention(model: ModelSpec, ranks: int) -> tuple[int, int]:
    """Layers with cross-attention, and the width of their keys and values on one rank."""
    found = [(a, count) for layer, count in model.layers if (a := layer.cross_attention) is not None]
    width = max((-(-a.num_key_value_heads // ranks) * (a.head_dim + a.v_head_dim) for a, _ in found), default=0)
    return sum(count for _, count in found), width


def typical_batch(deployment: Deployment, cache: CacheSize) -> BatchShape:
    """The batch that the traffic's mean lengths, the token budget and the cache allow at most: a full engine.

    Of a model that generates, a decode batch; of one that answers in a single pass, whole inputs.
    """
    table = deployment.requests
    mean_input, mean_output = float(table.input_tokens.mean()), float(table.output_tokens.mean())
    if deployment.denoising is not None:
        return BatchShape((), deployment.max_num_seqs, deployment.max_num_seqs)
    if not deployment.model.is_decoder:
        size = max(1, round(mean_input))
        count = max(1, min(deployment.max_num_seqs, deployment.max_num_batched_tokens // size))
        return BatchShape(((size, 0),) * count, 0, 0)
    context = max(1.0, mean_input + mean_output / 2)
    decodes = max(1, min(deployment.max_num_seqs, int(cache.tokens // context)))
    return BatchShape((), decodes, int(decodes * context), int(context))


def estimate_deployment(
    deployment: Deployment, cluster: Cluster, depth: Literal["estimate", "step"] = "step"
) -> Estimate:
    """Memory, and the time and traffic of one decode iteration of a full engine at the traffic's mean lengths.

    Metrics: ``decode_time`` of one request alone and of the full batch, ``prefill_time`` of a mean prompt, capacity of
    the cache, and the request rate at which prefill and decode together fill the replicas.
    """
    if reasons := check_deployment(deployment, cluster):
        return _refused("; ".join(reasons), depth)
    node = cluster.groups[0].node
    cache = cache_size(deployment, node)
    if cache.reason:
        return _refused(cache.reason, depth, cache.ledger)
    cost = replica_cost(deployment, cluster)
    batch = typical_batch(deployment, cache)
    floor = cost.floor(batch)
    warnings = (*quality_notes(deployment), *_length_notes(deployment, cache))
    if depth == "estimate":
        return Estimate(
            depth, floor, floor, TimeBreakdown({"roofline": floor}), cache.ledger, _traffic(cost, batch),
            warnings=warnings,
        )  # fmt: skip
    seconds = cost.iteration(batch)
    warnings += _narrow_notes(cost, batch)
    metrics = _metrics(deployment, cost, cache, batch, seconds)
    return Estimate(
        "step",
        seconds,
        floor,
        TimeBreakdown(cost.breakdown(batch)),
        cache.ledger,
        _traffic(cost, batch),
        iteration_interval(deployment, cluster, cost, batch),
        metrics=metrics,
        shares=trust_shares(cost.priced[0], batch),
        warnings=warnings,
        details={"constants": constants_of(cost)},
    )


def iteration_interval(deployment: Deployment, cluster: Cluster, cost: ServingCost, batch: BatchShape) -> Interval:
    """Central 80 % interval of one iteration."""

    def evaluate(scale: Mapping[str, float]) -> float:
        return (replica_cost(deployment, cluster, cost.node, scale) if scale else cost).iteration(batch)

    evaluate({})
    known = ConstantSet(constants_of(cost))
    return interval(evaluate, known, sorted(cost.used & set(known)))


def constants_of(cost: ServingCost) -> dict[str, Constant]:
    """Every constant the cost rests on, by id."""
    entries: dict[str, Constant] = {}
    for part in cost.priced:
        entries |= {**part.device.constants.entries, **part.network.constants.entries}
    entries |= {c.id: c for c in cost.framework.constants.values()}
    return {name: entries[name] for name in sorted(cost.used) if name in entries}


def _length_notes(deployment: Deployment, cache: CacheSize) -> tuple[str, ...]:
    """Where ``max_model_len`` is more than the model or the cache can hold."""
    length, positions = deployment.max_model_len, deployment.model.max_position_embeddings
    notes: list[str] = []
    if not deployment.model.is_decoder:
        return ()
    if length and positions and length > positions:
        notes.append(f"max_model_len {length} is beyond the {positions} positions of {deployment.model.name}")
    per_rank = cache.tokens // deployment.plan.data_parallel
    if length > per_rank:
        notes.append(
            f"max_model_len {length} is more than the {per_rank} tokens one rank caches: vLLM refuses to start so; "
            f"set max_model_len to at most {per_rank}, or longer requests are rejected one by one"
        )
    return tuple(notes)


def _metrics(
    deployment: Deployment, cost: ServingCost, cache: CacheSize, batch: BatchShape, seconds: float
) -> dict[str, float]:
    table = deployment.requests
    mean_input, mean_output = float(table.input_tokens.mean()), float(table.output_tokens.mean())
    if not deployment.model.is_decoder:
        together = batch.decodes + len(batch.prefill)
        passes = mean_output if deployment.denoising is not None else 1.0
        return {
            "decode_batch": float(together),
            "capacity_requests_per_s": deployment.replicas * together / (seconds * passes),
        }
    prompt = max(1, round(mean_input))
    prefill = cost.iteration(BatchShape(((prompt, 0),), 0, 0))
    alone = cost.iteration(BatchShape((), 1, prompt, prompt))
    per_request = prefill + mean_output * seconds / batch.decodes
    return {
        "kv_capacity_tokens": float(cache.tokens),
        "decode_batch": float(batch.decodes),
        "decode_time_alone": alone,
        "prefill_time": prefill,
        "capacity_requests_per_s": deployment.replicas / per_request,
    }


def _traffic(cost: ServingCost, batch: BatchShape) -> Traffic:
    return Traffic(cost.traffic(batch))


def _refused(reason: str, depth: Literal["estimate", "step"], memory: MemoryLedger | None = None) -> Estimate:
    return Estimate(
        depth,
        math.nan,
        math.nan,
        TimeBreakdown({}),
        memory or MemoryLedger(()),
        Traffic({}),
        feasible=False,
        reason=reason,
    )
