"""Figures of a step that people compare: utilisation, bubble, tokens per second, interval."""

from __future__ import annotations

from collections.abc import Mapping

from simulator.cost.sensitivity import interval
from simulator.results.estimate import Interval
from simulator.results.metrics import hfu, mfu
from simulator.training.pipelined import PipelinedJob, StepRun
from simulator.workload.counting import training_flops_per_token
from simulator.workload.ops import OpKind, Phase

__all__ = ["step_interval", "step_metrics"]

PEAK_DTYPE = {"fp32": "tf32"}
"""Type whose dense peak utilisation is quoted against; 16-bit for every 16- and 8-bit recipe (as most papers do)."""


def step_metrics(pipeline: PipelinedJob, step: StepRun) -> dict[str, float]:
    """Named figures of one step; definitions in ``results/schema.csv``."""
    job, cluster = pipeline.job, pipeline.cluster
    accelerators = job.plan.accelerators
    peak = pipeline.node_of_rank[0].accelerator.peak(PEAK_DTYPE.get(job.plan.precision, "bf16"))
    tokens, sequence = job.batch.tokens, job.batch.sequence_length
    model_flops = tokens * training_flops_per_token(job.model, sequence, causal=False)
    causal_flops = tokens * training_flops_per_token(job.model, sequence, causal=True)
    timeline = step.timeline
    return {
        "step_time": step.seconds,
        "mfu": mfu(model_flops, step.seconds, accelerators, peak),
        "mfu_causal": mfu(causal_flops, step.seconds, accelerators, peak),
        "hfu": hfu(model_flops + _recompute_flops(pipeline), step.seconds, accelerators, peak),
        "tokens_per_s": tokens / step.seconds,
        "tokens_per_s_per_accelerator": tokens / step.seconds / accelerators,
        "model_tflops_per_accelerator": model_flops / step.seconds / accelerators / 1e12,
        "bubble_over_ideal": pipeline.pipeline_seconds / float(timeline.busy.mean()) - 1.0,
        "bubble_over_total": 1.0 - float(timeline.busy.mean()) / pipeline.pipeline_seconds,
        "exposed_communication": sum(v for k, v in step.parts.items() if k.endswith("_parallel")),
        "peak_memory": pipeline.memory().worst.peak,
        "nodes": float(cluster.node_count),
    }


def _recompute_flops(pipeline: PipelinedJob) -> float:
    """FLOPs of all recomputed GEMM and attention Ops of a step, over all ranks."""
    mesh, total = pipeline.plan.mesh, 0.0
    for chunk in pipeline.chunks:
        for block, count in chunk.blocks:
            again = (op for op in block.backward if op.phase is Phase.RECOMPUTE and op.kind is not OpKind.ELEMENTWISE)
            total += count * sum(op.flops(mesh) for op in again)
    ranks = pipeline.plan.tensor_parallel * pipeline.plan.context_parallel * pipeline.plan.data_parallel
    return total * ranks * pipeline.microbatches


def step_interval(pipeline: PipelinedJob, step: StepRun) -> Interval:
    """Central 80 % interval of the step time.

    Each constant is moved by one sigma and the work is priced again; bubbles and exposed tails are kept in proportion
    to the work of the busiest rank, so the pipeline need not be run once per constant (first order).
    """
    base = _busiest_work(pipeline, step)
    per_step = pipeline.framework.constants.get("host_per_step")
    piped = pipeline.pipeline_seconds
    after = step.seconds - piped - pipeline.constant("host_per_step")

    def evaluate(scale: Mapping[str, float]) -> float:
        moved = PipelinedJob(pipeline.job, pipeline.cluster, scale, slow=pipeline.slow) if scale else pipeline
        stretch = _busiest_work(moved, step) / base if base else 1.0
        return piped * stretch + after + moved.constant("host_per_step")

    used = set().union(*(t.constants for t in (*pipeline.forward_times, *pipeline.backward_times)))
    return interval(evaluate, pipeline.constants, sorted(used | ({per_step.id} if per_step else set())))


def _busiest_work(pipeline: PipelinedJob, step: StepRun) -> float:
    """Forward and backward of one micro-batch on the busiest rank [s]."""
    return sum(
        pipeline.forward_times[p].seconds + pipeline.backward_times[p].seconds for p in pipeline.positions[step.busiest]
    )
