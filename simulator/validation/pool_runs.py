"""Disaggregated runs: engines for prompts and engines for tokens, keys and values sent between them.

The two kinds of engines are deployments of their own (:class:`~simulator.workload.jobs.Pools`); keys and values leave
through the network ports of the engine that computed them, as the connectors of vLLM, SGLang and TensorRT-LLM send them
(NIXL, Mooncake), once the prompt is complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from simulator.hardware.types import Cluster, Node
from simulator.serving.estimate import check_deployment, replica_cost
from simulator.serving.front_end import front_end_of
from simulator.serving.memory import cache_size
from simulator.serving.metrics import summarize
from simulator.serving.pools import Pool, simulate_pools
from simulator.serving.pools_transfer import PointToPoint, kv_wire_bytes
from simulator.serving.run import ServingRun
from simulator.serving.setup import engine_limits, policies
from simulator.strategies.protocols import BatchShape
from simulator.validation.cases import Case, Subject
from simulator.validation.labels import scale_label
from simulator.validation.serving_runs import load_table
from simulator.workload.jobs import Deployment, Pools
from simulator.workload.requests.table import RequestTable

__all__ = ["in_pools", "run_pools"]

POLICY = "distserve"
"""Dynamo and SGLang's router: the prompt engine with the shortest queue, then the least loaded decoder pulls."""

ASSUMED = "keys and values leave through the network ports once the prompt is complete, to the least loaded decoder"


def in_pools(prompts: Case, tokens: Case) -> Case:
    """One case of the engines for prompts and those for tokens, each of a case; figures are those of ``tokens``."""
    first, second = prompts.subject, tokens.subject
    assert first.deployment is not None and second.deployment is not None
    assert first.cluster is not None and second.cluster is not None
    # Requests come to decode at any iteration: whatever an engine reserves for a prompt, its decode pool pages.
    parts = first.deployment, replace(second.deployment, kv_cache="paged", batching="chunked-prefill")
    whole = replace(second.deployment, pools=Pools(POLICY, *parts), replicas=sum(p.replicas for p in parts))
    number = sum(p.plan.accelerators * p.replicas for p in parts)
    node = second.cluster.groups[0].node
    labels = replace(
        tokens.labels, scale=scale_label(number, node.accelerators),
        strategy=f"{prompts.labels.strategy} | {tokens.labels.strategy}",
        degree=" | ".join(f"{p.replicas} x {c.labels.degree}" for p, c in zip(parts, (prompts, tokens), strict=True)),
    )  # fmt: skip
    # Each side is priced on the node it fills: an engine of four accelerators leaves the ports of the others alone.
    subject = replace(second, runner="pools", deployment=whole, settings=(*second.settings, ("prompts", first.cluster)))
    assumed = tuple(dict.fromkeys((*prompts.assumed, *tokens.assumed, ASSUMED)))
    return replace(tokens, labels=labels, subject=subject, assumed=assumed)


def run_pools(subject: Subject) -> tuple[dict[str, float], str]:
    """A load served by both pools to its end: the figures of vLLM's benchmark."""
    d, clusters = subject.deployment, (subject.setting("prompts"), subject.cluster)
    assert d is not None and d.pools is not None
    table, pools, problems = load_table(subject), list[Pool](), list[str]()
    parts = [replace(part, requests=table) for part in (d.pools.prefill, d.pools.decode)]
    for part, cluster in zip(parts, clusters, strict=True):
        assert isinstance(cluster, Cluster)
        cache = cache_size(part, cluster.groups[0].node)
        if found := check_deployment(part, cluster) or ([cache.reason] if cache.reason else []):
            problems += found
            continue
        chosen = policies(part, 0)
        limits = engine_limits(part, cache, cluster.groups[0].node)
        pools.append(
            Pool(replica_cost(part, cluster), limits, part.replicas, chosen["batching"], chosen.get("kv_cache"))
        )
    if problems:
        return {}, "; ".join(dict.fromkeys(problems))
    sender = clusters[0].groups[0].node if isinstance(clusters[0], Cluster) else None
    assert sender is not None
    rate, latency = _outward(sender, parts[0])
    served = simulate_pools(
        table, pools[0], pools[1], lambda clock: PointToPoint(clock, rate, latency),
        wire_bytes=lambda tokens: kv_wire_bytes(d.model, tokens, d.kv_dtype), layers=d.model.num_hidden_layers,
        policy=d.pools.policy, front_end=front_end_of(d.framework, parts[0].replicas, d.renders_chats),
    ).run  # fmt: skip
    assert isinstance(served, ServingRun)
    accelerators = sum(part.plan.accelerators * part.replicas for part in parts)
    summary = summarize(served, gpus_per_replica=accelerators / len(served.replicas))
    if not summary["requests"]:
        return {}, f"no request was completed: {summary['rejections']}"
    figures = {k: float(v) for k, v in summary.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return figures | _roofline(pools, parts, subject, table), ""


def _outward(node: Node, part: Deployment) -> tuple[float, float]:
    """Rate [B/s] and latency [s] out of an engine through the ports of its share of the node."""
    return node.nics * node.nic.bandwidth * part.plan.accelerators / node.accelerators, node.nic.latency


def _roofline(
    pools: Sequence[Pool], parts: Sequence[Deployment], subject: Subject, table: RequestTable
) -> dict[str, float]:
    """Plain roofline: one prompt on one side, as many decodes as there are clients on the other."""
    prompt, output = float(table.input_tokens.mean()), float(table.output_tokens.mean())
    asked = int(str(subject.setting("concurrency", 0))) or len(table)
    batch, context = max(1, asked // parts[1].replicas), prompt + output / 2
    first = pools[0].cost.floor(BatchShape(((max(1, round(prompt)), 0),), 0, 0))  # type: ignore[union-attr]
    token = pools[1].cost.floor(BatchShape((), batch, int(batch * context), int(context)))  # type: ignore[union-attr]
    base = {"ttft_mean": first, "ttft_median": first, "tpot_mean": token, "tpot_median": token}
    return {f"baseline.{k}": v for k, v in base.items()}
