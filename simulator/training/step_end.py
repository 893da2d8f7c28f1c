"""What ends a step: gradients reduced, a tied embedding joined, updated parameters gathered again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from simulator.strategies.compile import communication_traits
from simulator.strategies.protocols import CommunicationTraits
from simulator.training.gradient_queue import (
    GradientItem,
    bulk_seconds,
    cross_step_delay,
    fused_update_end,
    gradient_items,
    publish_delay,
    send_gradients,
)
from simulator.training.link_contention import contention_delay
from simulator.workload.jobs import TrainingJob
from simulator.workload.ops import Collective, OpKind, Work

if TYPE_CHECKING:
    from simulator.training.pipelined import PipelinedJob

__all__ = ["gather_delay", "reduction_end", "sending_traits"]

MIB = 2.0**20


def sending_traits(job: TrainingJob) -> CommunicationTraits:
    """How gradients leave a rank: the plan's strategies, and buckets of the framework where they name none."""
    traits, bucket = communication_traits(job.plan), job.framework.gradient_bucket_mib * MIB
    return traits if traits.bucket or traits.piece or not bucket else replace(traits, bucket=bucket, cuts=False)


def reduction_end(pipeline: PipelinedJob, update: float) -> float:
    """When the update may begin: all gradients reduced, in the mean over local and synchronising steps [s].

    Replicas that differ in speed are waited for before the reduction.
    """
    return _mean_end(pipeline, update) + (pipeline.sending.straggling - 1.0) * pipeline.timeline.makespan


def _mean_end(pipeline: PipelinedJob, update: float) -> float:
    every = {op.wire.every for c in pipeline.chunks for block, _ in c.blocks for op in block.reduce}
    period = max(every, default=1)
    sync = max(_reduced(pipeline, rank, update, True) for rank in range(pipeline.ranks))
    if period == 1:
        return sync
    local = max(_reduced(pipeline, rank, update, False) for rank in range(pipeline.ranks))
    return ((period - 1) * local + sync) / period


def _reduced(pipeline: PipelinedJob, rank: int, update: float, sync: bool) -> float:
    """When a rank's gradients are reduced, those of a tied embedding between first and last stage included."""
    timeline, pricer, sending = pipeline.timeline, pipeline.pricer(rank), pipeline.sending
    chunks = pipeline.chunks_of_rank[rank]
    end = timeline.makespan
    tied = _tied_embedding_seconds(pipeline) if rank in (0, pipeline.ranks - 1) else 0.0
    if not _overlaps(pipeline):
        return end + bulk_seconds(chunks, pricer, sync) + tied
    items = _gradient_items(pipeline, rank, sync)
    result, travelled = send_gradients(items, sending, pricer)
    ends = timeline.backward_window[1][rank]
    slower, through = contention_delay(pipeline, rank, travelled, result, float(max(ends)))
    end += slower
    if sending.crosses_steps:
        return end + cross_step_delay(result, travelled, end) + tied
    if sending.fused_pieces and travelled:  # the update runs inside; run() adds it after everything
        return max(end, fused_update_end(travelled, update, sending.fused_pieces) - update) + tied
    return max(end, result.end, through) + tied


def _overlaps(pipeline: PipelinedJob) -> bool:
    """Whether reductions run beside the backward: as the strategy says, else as the framework does."""
    framework, asked = pipeline.framework, pipeline.sending.overlaps
    if asked is None and pipeline.plan.zero_stage == 1:
        asked = framework.overlap_shard_reduce
    return framework.overlap_grad_reduce if asked is None else asked


def _gradient_items(pipeline: PipelinedJob, rank: int, sync: bool) -> list[GradientItem]:
    """Gradients of a rank with the times they are ready and needed again."""
    ends, items = pipeline.timeline.backward_window[1][rank], list[GradientItem]()
    for chunk, end, start in zip(pipeline.chunks_of_rank[rank], ends, _first_forwards(pipeline, rank), strict=False):
        items += gradient_items(
            chunk, pipeline.pricer(rank), float(end), start, sync, pipeline.sending.deferred_layers if rank == 0 else 0
        )
    return items


def _first_forwards(pipeline: PipelinedJob, rank: int) -> list[float]:
    """Start of the first forward of each of a rank's chunks [s]."""
    tasks = pipeline.timeline.rank_tasks(rank)
    found = []
    for chunk in range(len(pipeline.chunks_of_rank[rank])):
        first = (tasks["kind"] == "F") & (tasks["chunk"] == chunk)
        found.append(float(tasks["start"][first].min()) if first.any() else 0.0)
    return found


def _tied_embedding_seconds(pipeline: PipelinedJob) -> float:
    """All-reduce of the shared embedding's gradient between the two stages that hold a copy [s]."""
    if pipeline.ranks == 1 or not pipeline.job.model.tie_word_embeddings:
        return 0.0
    pricer = pipeline.pricer(0)
    gradient = sum(
        t.bytes(pricer.mesh)
        for block, _ in pipeline.chunks[0].blocks
        for t in block.states
        if t.name == "embedding.weight.grad"
    )
    if pipeline.plan.unequal:  # the stage with fewer shards has more to send
        first, last = (pipeline.plan.stage_plans[rank].tensor_parallel for rank in (0, -1))
        gradient *= max(1.0, first / last)
    work = Work(OpKind.COLLECTIVE, "fp32", collective=Collective.ALL_REDUCE.value, message=gradient, axis="pp", ranks=2)
    return pricer.network.price(work, pricer.layout.neighbour("pp")).seconds


def gather_delay(pipeline: PipelinedJob, rank: int) -> float:
    """Delay of the step by gathering updated parameters (ZeRO-1/2)."""
    pricer, starts = pipeline.pricer(rank), []
    for chunk, at in zip(pipeline.chunks_of_rank[rank], _first_forwards(pipeline, rank), strict=True):
        for block, count in chunk.blocks:
            for _ in range(count):
                starts.append((block, at))
                at += pricer.forward(block).seconds
    return publish_delay(starts, pricer, pipeline.framework.overlap_param_gather)
