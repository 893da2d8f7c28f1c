"""Figures of a step that people compare: utilisation, bubble, tokens per second, interval."""

from __future__ import annotations

from collections.abc import Mapping

from simulator.cost.sensitivity import interval
from simulator.results.estimate import Interval
from simulator.results.metrics import hfu, mfu
from simulator.training.flash_wear import wear_metrics
from simulator.training.overlapped_pairs import tasks_of_rank, work_time
from simulator.training.pipelined import PipelinedJob
from simulator.training.stages import prediction_modules
from simulator.training.step_run import StepRun
from simulator.workload.counting import training_flops_per_token
from simulator.workload.counting_prediction import prediction_flops_per_token
from simulator.workload.ops import OpKind, Phase, TensorClass

__all__ = ["step_interval", "step_metrics"]

PEAK_DTYPE = {"fp32": "tf32"}
"""Type whose dense peak utilisation is quoted against; 16-bit for every 16- and 8-bit recipe (as most papers do)."""


def step_metrics(pipeline: PipelinedJob, step: StepRun) -> dict[str, float]:
    """Named figures of one step; definitions in ``results/schema.csv``."""
    job, cluster = pipeline.job, pipeline.cluster
    accelerators = job.plan.accelerators
    peak = _mean_peak(pipeline)
    tokens = job.batch.tokens
    model_flops, causal_flops = (tokens * _flops_per_token(pipeline, causal) for causal in (False, True))
    timeline, second = step.timeline, step.second_order
    filled = {"bubble_filled": second.filled, "curvature_refresh_steps": second.refresh_steps} if second else {}
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
        "peak_memory": pipeline.memory().fullest.peak,
        "nodes": float(cluster.node_count),
        **filled,
        **wear_metrics(pipeline, step.seconds),
    }


def _mean_peak(pipeline: PipelinedJob) -> float:
    """Peak of an accelerator of the job, in the mean over all of them [FLOP/s]."""
    dtype = PEAK_DTYPE.get(pipeline.job.plan.precision, "bf16")
    peaks = [node.accelerator.peak(dtype) for node in pipeline.node_of_rank]
    if len(set(peaks)) == 1:
        return peaks[0]
    sizes = [len(seats) for seats in pipeline.seats]
    return sum(p * n for p, n in zip(peaks, sizes, strict=True)) / sum(sizes)


def _flops_per_token(pipeline: PipelinedJob, causal: bool) -> float:
    """What the model needs: 6 FLOPs per weight, 4 per frozen weight, 6 per weight of an adapter beside it."""
    model, sequence = pipeline.job.model, pipeline.job.batch.sequence_length
    held = [
        (tensor, count)
        for chunk in pipeline.chunks
        for block, count in chunk.blocks
        for tensor in block.states
        if tensor.cls is TensorClass.PARAM
    ]
    if all(tensor.trainable for tensor, _ in held):
        modules = prediction_modules(model, pipeline.plan)
        ahead = 3.0 * modules * prediction_flops_per_token(model, sequence, causal) if modules else 0.0
        return training_flops_per_token(model, sequence, causal) + ahead
    adapters = sum(count * t.elements() for t, count in held if t.trainable and len(t.dims) > 1)
    return training_flops_per_token(model, sequence, causal, frozen=True) + 6.0 * adapters


def _recompute_flops(pipeline: PipelinedJob) -> float:
    """FLOPs of all recomputed GEMM and attention Ops of a step, over all ranks."""
    total = 0.0
    for chunk in pipeline.chunks:
        rank = pipeline.rank_of_position[chunk.position]
        mesh, ranks = pipeline.mesh(rank), len(pipeline.seats[rank])
        for block, count in chunk.blocks:
            again = (op for op in block.backward if op.phase is Phase.RECOMPUTE and op.kind is not OpKind.ELEMENTWISE)
            total += ranks * count * sum(op.flops(mesh) for op in again)
    return total * pipeline.microbatches


def step_interval(pipeline: PipelinedJob, step: StepRun) -> Interval:
    """Central 80 % interval of the step time.

    Each constant is moved by one sigma and the work is priced again; bubbles and exposed tails are kept in proportion
    to the work of the busiest rank, and what is exposed of the update to its whole, so the pipeline need not be run
    once per constant (first order).
    """
    tasks = tasks_of_rank(step.timeline.program, step.busiest)
    base = work_time(pipeline, tasks).seconds
    per_step = {c.id for c in pipeline.pricer(0).host.step_constants}
    piped = pipeline.pipeline_seconds
    after = step.seconds - piped - pipeline.host_per_step
    update = pipeline.update_time(step.busiest)
    exposed = min(1.0, step.parts.get("optimizer", 0.0) / update.seconds) if update.seconds else 0.0

    def evaluate(scale: Mapping[str, float]) -> float:
        moved = pipeline.moved(scale) if scale else pipeline
        stretch = work_time(moved, tasks).seconds / base if base else 1.0
        longer = exposed * (moved.update_time(step.busiest).seconds - update.seconds)
        return piped * stretch + after + longer + moved.host_per_step

    used = update.constants.union(*(t.constants for t in (*pipeline.forward_times, *pipeline.backward_times)))
    return interval(evaluate, pipeline.constants, sorted(used | per_step))
