"""Predictions for serving cases: a load on the clock, a static batch, the size of the cache; and the plain roofline."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from simulator.serving.estimate import ServingCost, check_deployment, replica_cost
from simulator.serving.front_end import FrontEnd, front_end_of
from simulator.serving.iteration import ReplicaCost
from simulator.serving.launch_queue import time_through
from simulator.serving.memory import cache_size
from simulator.serving.metrics import summarize
from simulator.serving.setup import policies
from simulator.serving.simulate import simulate_deployment
from simulator.strategies.protocols import BatchShape
from simulator.validation.cases import Subject
from simulator.validation.power_runs import static_power
from simulator.workload.jobs import Deployment
from simulator.workload.requests.arrivals import ClosedLoop, Poisson
from simulator.workload.requests.files import load_workload
from simulator.workload.requests.generators import generate_requests
from simulator.workload.requests.lengths import Fixed, LengthSpec, LogNormal, Quantiles, Uniform
from simulator.workload.requests.table import RequestTable

__all__ = ["prompt_seconds", "run_capacity", "run_serving", "run_static"]

Prediction = dict[str, float]


def _checked(subject: Subject) -> tuple[Deployment, str]:
    assert subject.deployment is not None and subject.cluster is not None
    return subject.deployment, "; ".join(check_deployment(subject.deployment, subject.cluster))


def _cost(deployment: Deployment, subject: Subject) -> ReplicaCost | None:
    """Iteration times of a plain decoder; ``None`` of a model with more around it (an encoder, towers, drafts)."""
    assert subject.cluster is not None
    found = replica_cost(deployment, subject.cluster)
    return found if isinstance(found, ReplicaCost) else None


def run_capacity(subject: Subject) -> tuple[Prediction, str]:
    """Tokens of KV cache of a replica."""
    deployment, reason = _checked(subject)
    assert subject.cluster is not None
    node = subject.cluster.groups[0].node
    cache = cache_size(deployment, node)
    weights = sum(cache.ledger.stages[0].by_class.get(k, 0.0) for k in ("param",))
    naive = (node.accelerator.memory_usable * deployment.memory_utilization - weights) / max(cache.bytes_per_token, 1.0)
    return {"kv_tokens": float(cache.tokens), "baseline.kv_tokens": naive}, reason or cache.reason


# -- static batches ------------------------------------------------------------------------------------------------


def run_static(subject: Subject) -> tuple[Prediction, str]:
    """One batch prefilled and decoded to its end, or the points of a latency fit."""
    deployment, reason = _checked(subject)
    assert subject.cluster is not None
    cache = cache_size(deployment, subject.cluster.groups[0].node)
    if reason or cache.reason:
        return {}, reason or cache.reason
    cost = _cost(deployment, subject)
    if cost is None:
        return {}, f"static batches of {deployment.model.family} are not simulated: it is no plain decoder"
    if points := subject.setting("points"):
        return _points(cost, deployment, points), ""  # type: ignore[arg-type]
    batch, prompt, output = (int(float(str(subject.setting(k)))) for k in ("batch", "isl", "osl"))
    prefill, naive_prefill = prompt_seconds(cost, deployment.max_num_batched_tokens, batch, prompt)
    contexts = np.linspace(prompt + 1, prompt + max(output - 1, 1), 9)
    shapes = [BatchShape((), batch, int(batch * c), int(c)) for c in contexts]
    token = float(np.mean([cost.iteration(s) for s in shapes]))
    naive = float(np.mean([cost.floor(s) for s in shapes]))
    steps = max(output - 1, 0)
    found = {"prefill": prefill, "token": token, "e2e": prefill + steps * token}
    found |= static_power(cost, subject.cluster.groups[0].node.accelerator, (batch, prompt, steps), prefill, shapes)
    found |= {"prefill_tokens_per_s": batch * prompt / prefill, "decode_tokens_per_s": batch / token}
    base = {"prefill": naive_prefill, "token": naive, "e2e": naive_prefill + steps * naive}
    base |= {"power_peak": 1.0, "power_mean": 1.0}  # the rating
    base |= {"prefill_tokens_per_s": batch * prompt / naive_prefill, "decode_tokens_per_s": batch / naive}
    return found | {f"baseline.{k}": v for k, v in base.items()}, ""


def prompt_seconds(cost: ReplicaCost, budget: int, batch: int, prompt: int) -> tuple[float, float]:
    """Seconds until every prompt of the batch is through all stages, and the roofline of the same iterations.

    Prompts follow each other in chunks of at most ``budget`` tokens.
    """
    budget, left = max(budget, 1), [(prompt, 0)] * batch
    times, floor = list[list[float]](), 0.0
    while left:
        chunks, room = list[tuple[int, int]](), budget
        rest = list[tuple[int, int]]()
        for tokens, done in left:
            take = min(tokens, room)
            if take:
                chunks.append((take, done))
                room -= take
            if tokens > take:
                rest.append((tokens - take, done + take))
        shape = BatchShape(tuple(chunks), 0, 0)
        times.append(cost.stage_times(shape))  # one chunk in a stage, the next in the one before
        floor += cost.floor(shape)
        left = rest
    depth = cost.framework.launch_queue
    kernels = cost.kernels(min(budget, batch * prompt)) if depth else [0] * cost.stages
    return time_through(times, kernels, depth, cost.framework.launch_chunks), floor


def _points(cost: ReplicaCost, deployment: Deployment, points: tuple[tuple[str, int, int], ...]) -> Prediction:
    found: Prediction = {}
    for kind, batch, length in points:
        if kind == "prefill":
            seconds, floor = prompt_seconds(cost, deployment.max_num_batched_tokens, batch, length)
        else:
            shape = BatchShape((), batch, batch * length, length)
            seconds, floor = cost.iteration(shape), cost.floor(shape)
        found[f"{kind}_{batch}x{length}"], found[f"baseline.{kind}_{batch}x{length}"] = seconds, floor
    return found


# -- loads on the clock --------------------------------------------------------------------------------------------


def load_table(subject: Subject) -> RequestTable:
    """The requests that the settings describe, under seed 0."""
    count = int(str(subject.setting("count")))
    concurrency, rate = int(str(subject.setting("concurrency", 0))), float(str(subject.setting("rate", 0.0)))
    arrival = Poisson(rate) if rate else ClosedLoop(concurrency or count)
    prompt, output = (_lengths(subject, name) for name in ("isl", "osl"))
    table = generate_requests(arrival, prompt, output, count=count, seed=0)
    if not subject.setting("like", ""):
        return table
    return replace(
        table,
        input_tokens=_of_mean(table.input_tokens, float(str(subject.setting("isl")))),
        output_tokens=_of_mean(table.output_tokens, float(str(subject.setting("osl")))),
    )


def _of_mean(tokens: NDArray[np.int32], mean: float) -> NDArray[np.int32]:
    """Lengths stretched so that they have this mean: a benchmark prints the mean of the very requests it sent, and a
    hundred drawn ones miss it by a tenth."""
    return np.asarray(np.maximum(1, np.rint(tokens * (mean / tokens.mean()))), dtype=np.int32)


def _lengths(subject: Subject, name: str) -> LengthSpec:
    """Law of lengths: that of a shipped workload at the stated mean, log-normal with ``spread``, uniform from ``range``
    times the length to the length, or fixed."""
    length = float(str(subject.setting(name)))
    if like := str(subject.setting("like", "")):
        return _shipped_law(like, name, length)
    spread, share = float(str(subject.setting("spread", 0.0))), float(str(subject.setting("range", 1.0)))
    if spread:
        return LogNormal.from_mean(length, spread)
    if share < 1.0:
        return Uniform(max(1, int(share * length)), max(1, round(length)))
    return Fixed(max(1, round(length)))


def _shipped_law(workload: str, name: str, mean: float) -> LengthSpec:
    """The quantiles of a shipped workload, stretched to the mean of the record."""
    shipped = load_workload(workload)
    law = shipped.input_tokens if name == "isl" else shipped.output_tokens
    assert isinstance(law, Quantiles)
    stretch = mean / law.mean()
    return Quantiles(law.levels, tuple(max(1.0, stretch * tokens) for tokens in law.tokens))


def run_serving(subject: Subject) -> tuple[Prediction, str]:
    """A load run to its end: the figures of vLLM's benchmark."""
    deployment, reason = _checked(subject)
    assert subject.cluster is not None
    table = load_table(subject)
    deployment = replace(deployment, requests=table)  # windows hold less of long requests
    node = subject.cluster.groups[0].node
    cache = cache_size(deployment, node)
    if reason or cache.reason:
        return {}, reason or cache.reason
    cost = replica_cost(deployment, subject.cluster)
    run = simulate_deployment(
        table,
        cost,
        kv_blocks=cache.blocks,
        block_size=deployment.block_size,
        replicas=deployment.replicas,
        **policies(replace(deployment, router="least-outstanding"), 0),
        max_num_batched_tokens=deployment.max_num_batched_tokens,
        max_num_seqs=deployment.max_num_seqs,
        max_model_len=deployment.max_model_len,
        pipeline_stages=deployment.plan.pipeline_parallel,
        front_end=None if subject.setting("offline") else _front_end(deployment, node.host_speed),
    )
    summary = summarize(run, gpus_per_replica=deployment.plan.accelerators)
    if not summary["requests"]:
        return {}, f"no request was completed: {summary['rejections']}"
    found = {k: float(v) for k, v in summary.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return found | _roofline(cost, deployment, subject, table, cache.tokens), ""


def _front_end(deployment: Deployment, speed: float) -> FrontEnd | None:
    return front_end_of(deployment.framework, deployment.replicas, deployment.renders_chats, speed)


def _roofline(
    cost: ServingCost, deployment: Deployment, subject: Subject, table: RequestTable, capacity: int
) -> Prediction:
    """Plain roofline: prefill of one prompt, decode of as many requests as are there, no host, no queue."""
    prompt, output = float(table.input_tokens.mean()), float(table.output_tokens.mean())
    asked = int(str(subject.setting("concurrency", 0))) or len(table)
    batch = max(1, min(-(-asked // deployment.replicas), deployment.max_num_seqs, int(capacity / (prompt + output))))
    context = prompt + output / 2
    token = cost.floor(BatchShape((), batch, int(batch * context), int(context)))
    first = cost.floor(BatchShape(((max(1, round(prompt)), 0),), 0, 0))
    rate = deployment.replicas * batch / (first * batch / max(batch, 1) + output * token) if token else math.nan
    base = {"ttft_mean": first, "ttft_median": first, "tpot_mean": token, "tpot_median": token}
    base |= {"output_tokens_per_s": rate * output, "total_tokens_per_s": rate * (prompt + output)}
    base["duration"] = len(table) / rate if rate else math.nan
    return {f"baseline.{k}": v for k, v in base.items()}
