"""What the tasks of a job's pipeline cost, and how long a step keeps a pipeline busy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from simulator.strategies.pipeline.asynchronous import Asynchronous
from simulator.training.messages import swap_seconds
from simulator.training.pipeline import PipelineCosts, run_schedule

if TYPE_CHECKING:
    from simulator.training.block_time import PhaseTime
    from simulator.training.pipelined import PipelinedJob

__all__ = ["job_costs", "pipeline_seconds"]


def job_costs(pipeline: PipelinedJob) -> PipelineCosts:
    """Seconds and bytes of every task.

    Notes
    -----
    A schedule that cuts micro-batches along their tokens gets pieces of equal time (TeraPipe, arXiv 2102.07988,
    chooses their lengths so); that smaller kernels run less efficiently is not part of it.
    """
    memory, split = pipeline.chunk_memories, pipeline.traits.splits_backward
    pieces = pipeline.traits.items_per_microbatch

    def seconds(times: Sequence[PhaseTime]) -> NDArray[np.float64]:
        return np.array([t.seconds for t in times]) / pieces

    kinds = list(dict.fromkeys(pipeline.boundaries))
    one = len(kinds) == 1 and kinds[0].forward == kinds[0].backward
    host = pipeline.pricer(0).host.message
    p2p = [(b.forward + host, b.backward + host) for b in pipeline.boundaries]
    return PipelineCosts(
        forward=seconds(pipeline.forward_times),
        backward=seconds(pipeline.backward_times),
        input_gradient=seconds(pipeline.chunk_times("input_gradient")) if split else None,
        weight_gradient=seconds(pipeline.chunk_times("weight_gradient")) if split else None,
        p2p=p2p[0][0] if one else p2p or 0.0,
        overlap_p2p=pipeline.framework.overlap_p2p,
        message_bytes=np.array([b.size for b in pipeline.boundaries]) / pieces if kinds else 0.0,
        activation_bytes=np.array([m.activations for m in memory]) / pieces,
        weight_gradient_bytes=np.array([m.weight_gradient_activations for m in memory]) / pieces if split else None,
        overlapped=lambda forward, backward, split: pipeline.pair_time(forward, backward, split).seconds,
        swap=swap_seconds(pipeline, memory),
        recompute=seconds(pipeline.chunk_times("recompute")) if pipeline.traits.recomputes else None,
    )


def pipeline_seconds(pipeline: PipelinedJob) -> float:
    """How long a step keeps the pipeline [s]: from empty to empty, or one period of a pipeline that never drains.

    The period is what further updates add to a run that has filled: with equal stages m(F+B), no bubble.
    """
    schedule = pipeline.schedule
    if pipeline.ranks == 1 or not isinstance(schedule, Asynchronous):
        return pipeline.timeline.makespan
    costs, chunks = job_costs(pipeline), pipeline.plan.virtual_stages
    filled = max(2, math.ceil(2 * pipeline.ranks * chunks / pipeline.microbatches))
    short, long = (
        run_schedule(schedule, costs, pipeline.ranks, pipeline.microbatches, chunks, steps).makespan
        for steps in (filled, 2 * filled)
    )
    return (long - short) / filled
