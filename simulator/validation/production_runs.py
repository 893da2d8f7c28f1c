"""Published production throughput per node: of prompts with a share from a cache, of decoding at a speed per user.

The unit that is stated (so many expert-parallel ranks) runs its usual iteration; there is no load on a clock, because
the record states rates of a whole day and no requests. How DeepSeek serves is published with its figures
(deepseek-ai/open-infra-index @56d8685, day 6; github.com/deepseek-ai/profile-data @4496024, README): two micro-batches,
prompts of 4 K with 16 K tokens per rank, tokens to experts on four servers at most, in FP8 on the way there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simulator.serving.estimate import ServingCost, check_deployment, replica_cost
from simulator.strategies.protocols import BatchShape
from simulator.validation.cases import Measurement, Subject
from simulator.validation.inferencex_recipes import Recipe
from simulator.validation.models import IncompleteError
from simulator.workload.plan import Plan

__all__ = ["production_figures", "production_recipe", "run_production"]

PROMPT, PROMPTS = 4096, 4
"""Tokens of a prompt that are computed, and prompts of a rank in an iteration."""

MOST = 1024
"""Sequences per rank that are tried."""

ASSUMED = (
    "two micro-batches that hide each other's messages, 108 of 132 multiprocessors compute beside them in prefill",
    f"{PROMPTS} prompts of {PROMPT} computed tokens per rank and iteration",
    "experts on four servers at most, rows dispatched in FP8",
    "the middle of the stated speeds per user",
)


def production_figures(entry: Mapping[str, Any]) -> tuple[tuple[Measurement, ...], dict[str, Any]]:
    """What is compared, and the settings of the run.

    Raises
    ------
    IncompleteError
        If the record states neither prompts with their share from a cache nor decoding with its context and speed.
    """
    metrics, workload = entry["metrics"], entry["workload"]
    if not entry.get("ep"):
        raise IncompleteError("expert-parallel ranks not stated")
    if metrics.get("in_tps_per_node") and metrics.get("cache_hit") is not None:
        figure = Measurement("serving_throughput", float(metrics["in_tps_per_node"]), "input_per_node", "production")
        return (figure,), {"hit": float(metrics["cache_hit"])}
    if metrics.get("out_tps_per_node") and workload.get("kv_len_avg") and metrics.get("tps_per_user"):
        speeds = [float(v) for v in metrics["tps_per_user"]]
        figure = Measurement("serving_throughput", float(metrics["out_tps_per_node"]), "output_per_node", "production")
        return (figure,), {"context": int(workload["kv_len_avg"]), "per_user": sum(speeds) / len(speeds)}
    raise IncompleteError("states neither prompts with their share from a cache nor decoding at a speed per user")


def production_recipe(entry: Mapping[str, Any], per_node: int = 8) -> Recipe:
    """The launch of such a unit."""
    ranks, copies = int(entry["ep"]), int(entry["workload"].get("redundant_experts") or 0)
    options = {
        "expert": "node-limited", "expert_group": per_node, "node_limit": 4, "dispatch_precision": "fp8",
        "redundant_experts": copies,
    }  # fmt: skip
    plan = Plan(
        data_parallel=ranks, expert_parallel=ranks, precision="fp8", options=tuple(sorted(options.items()))
    )  # fmt: skip
    fields = {
        "plan": plan, "replicas": max(1, int(entry["n"]) // ranks), "max_num_seqs": MOST * ranks,
        "max_num_batched_tokens": PROMPT * PROMPTS * ranks,
    }  # fmt: skip
    return Recipe(fields, options=(("batch_overlap", "dual-micro-batch"),), assumed=ASSUMED)


def run_production(subject: Subject) -> tuple[dict[str, float], str]:
    """Tokens per second and node of the unit, and of the plain roofline."""
    deployment, cluster = subject.deployment, subject.cluster
    assert deployment is not None and cluster is not None
    if reason := "; ".join(check_deployment(deployment, cluster)):
        return {}, reason
    cost, ranks = replica_cost(deployment, cluster), deployment.plan.data_parallel
    nodes = ranks / cluster.groups[0].node.accelerators
    if (hit := subject.setting("hit")) is not None:
        cached = round(PROMPT * float(str(hit)) / (1 - float(str(hit))))
        shape = BatchShape(((PROMPT, cached),) * (PROMPTS * ranks), 0, 0)
        tokens = (PROMPT + cached) * PROMPTS * ranks / nodes
        seconds, floor = cost.iteration(shape), cost.floor(shape)
        return {"input_per_node": tokens / seconds, "baseline.input_per_node": tokens / floor}, ""
    context, speed = int(str(subject.setting("context"))), float(str(subject.setting("per_user")))
    each = _sequences(cost, ranks, context, speed)
    if not each:
        return {}, f"one sequence per rank is slower than {speed:g} tokens/s"
    shape = BatchShape((), each * ranks, each * ranks * context, context)
    tokens = each * ranks / nodes
    return {
        "output_per_node": tokens / cost.iteration(shape),
        "baseline.output_per_node": tokens / cost.floor(shape),
    }, ""


def _sequences(cost: ServingCost, ranks: int, context: int, speed: float) -> int:
    """Most sequences per rank that still get ``speed`` tokens per second."""
    low, high = 0, MOST
    while low < high:
        middle = (low + high + 1) // 2
        batch = middle * ranks
        fast = cost.iteration(BatchShape((), batch, batch * context, context)) * speed <= 1.0
        low, high = (middle, high) if fast else (low, middle - 1)
    return low
