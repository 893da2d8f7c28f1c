"""Checks of a plan against model, batch and cluster that need no simulation: degrees, divisibility, limits.

Every check yields ``(path inside the workload, message)``; a message names what would work.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from simulator.strategies.pipeline.choice import schedule_of
from simulator.workload.jobs import Batch
from simulator.workload.model import ModelSpec
from simulator.workload.plan import Plan

__all__ = ["check_batch", "check_degrees", "check_model", "check_schedule", "divisors_near", "nearest_degrees"]

Problem = tuple[tuple[str | int, ...], str]


def divisors_near(number: int, wanted: int) -> list[int]:
    """The divisors of ``number`` next below and next above ``wanted``."""
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    divisors = sorted({*small, *(number // d for d in small)})
    below, above = [d for d in divisors if d <= wanted], [d for d in divisors if d > wanted]
    return below[-1:] + above[:1]


def multiples_near(step: int, wanted: int) -> list[int]:
    """The multiples of ``step`` next below and next above ``wanted``."""
    low = wanted // step * step
    return [low, low + step] if low else [step]


def nearest_degrees(sizes: Mapping[str, int], given: int) -> str:
    """``; use tensor_parallel 2 or 4``: one degree changed so that a replica divides ``given``; or nothing."""
    found = []
    for name, size in sizes.items():
        others = math.prod(sizes.values()) // size
        if size > 1 and given % others == 0:
            found.append(f"{name} {_or(divisors_near(given // others, size))}")
    return f"; use {', or '.join(found)}" if found else ""


def _or(numbers: list[int]) -> str:
    return " or ".join(map(str, numbers))


def check_degrees(plan: Plan, given: int, where: str) -> Iterator[Problem]:
    """The product of the degrees against the accelerators the job is given (``where`` says which those are)."""
    if plan.accelerators == given:
        return
    rest = plan.accelerators // plan.data_parallel
    if given < rest:
        cure = "use lower degrees, fewer replicas beside it, or more nodes"
    elif given % rest == 0:
        cure = f"data_parallel: {given // rest} would use all of them"
    else:
        cure = f"{rest} accelerators per data-parallel replica do not divide {given}"
    degrees = " × ".join(
        f"{name} {size}"
        for name, size in (
            ("tensor_parallel", plan.tensor_parallel),
            ("context_parallel", plan.context_parallel),
            ("pipeline_parallel", plan.pipeline_parallel),
            ("data_parallel", plan.data_parallel),
        )
        if size > 1 or name != "context_parallel"
    )
    yield ("plan",), f"{degrees} = {plan.accelerators} accelerators, but {where}: {cure}"


def check_model(plan: Plan, model: ModelSpec) -> Iterator[Problem]:
    """Heads, experts and layers against tensor, expert and pipeline parallelism."""
    tp, pp, v = plan.tensor_parallel, plan.pipeline_parallel, plan.virtual_stages
    heads = {a.num_attention_heads for layer, _ in model.layers if (a := layer.attention) is not None}
    for count in sorted(heads):
        if count % tp:
            near = _or(divisors_near(count, tp))
            yield ("plan", "tensor_parallel"), f"{count} attention heads are not divisible by {tp}, use {near}"
    experts = {m.num_experts for layer, _ in model.layers if (m := layer.mlp) is not None and m.is_moe}
    ep = plan.expert_parallel
    if ep > 1 and not experts:
        yield ("plan", "expert_parallel"), f"{model.name} has no experts, leave expert_parallel out"
    for count in sorted(experts):
        if count % ep and not plan.option("redundant_experts"):  # the strategy counts copies itself
            near = _or(divisors_near(count, ep))
            yield ("plan", "expert_parallel"), f"{count} experts are not divisible by {ep}, use {near}"
    ranks = plan.expert_ranks
    if ep > 1 and ranks % ep and plan.option("expert") != "tensor-ranks":
        near, over = _or(divisors_near(ranks, ep)), "tensor_parallel × " * plan.folds_experts
        message = f"expert_parallel {ep} must divide {over}data_parallel × context_parallel = {ranks}, use {near}"
        yield ("plan", "expert_parallel"), message
    layers, chunks = model.num_hidden_layers, pp * v
    if layers < chunks:
        yield (
            ("plan", "pipeline_parallel"),
            f"{layers} layers cannot fill {pp} stages × {v} chunks = {chunks}, use fewer",
        )
    elif v > 1 and layers % chunks:
        fitting = [n for n in divisors_near(layers // pp, v) if n > 1] if layers % pp == 0 else []
        cure = f"virtual_stages {_or(fitting)}" if fitting else f"pipeline_parallel {_or(divisors_near(layers, pp))}"
        message = (
            f"interleaving needs equal chunks, and {layers} layers do not divide into {pp} × {v} = {chunks}; use {cure}"
        )
        yield ("plan", "virtual_stages"), message


def check_batch(plan: Plan, batch: Batch, model: ModelSpec) -> Iterator[Problem]:
    """Batch and sequence against data, context and tensor parallelism."""
    step, size = batch.micro_batch_size * plan.data_parallel, batch.global_batch_size
    if size % step:
        yield (
            ("batch", "global_batch_size"),
            (
                f"{size} is not divisible by micro_batch_size {batch.micro_batch_size} × data_parallel "
                f"{plan.data_parallel} = {step}, use {_or(multiples_near(step, size))}"
            ),
        )
    shares = {"context_parallel": plan.context_parallel}
    if plan.sequence_parallel:
        shares["tensor_parallel"] = plan.tensor_parallel
    parts = math.prod(shares.values())
    if batch.sequence_length % parts:
        names = " × ".join(shares)
        near = _or(multiples_near(parts, batch.sequence_length))
        yield (
            ("batch", "sequence_length"),
            f"{batch.sequence_length} tokens do not divide by {names} = {parts}, use {near}",
        )
    limit = model.learned_positions
    if limit and batch.sequence_length > limit:
        yield (
            ("batch", "sequence_length"),
            f"{model.name} has {limit} learned positions, {batch.sequence_length} do not fit",
        )


def check_schedule(plan: Plan, microbatches: int) -> Iterator[Problem]:
    """What the pipeline schedule itself demands of ranks, micro-batches and chunks."""
    if plan.pipeline_parallel == 1 or microbatches < 1:
        return
    reason = schedule_of(plan).check(plan.pipeline_parallel, microbatches, plan.virtual_stages)
    if reason:
        yield ("plan", "schedule"), f"{plan.schedule}: {reason}"
