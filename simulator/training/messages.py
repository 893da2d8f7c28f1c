"""What pipeline ranks send each other: boundary activations and their gradients, and activations moved to a partner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from simulator.training.memory import ChunkMemory
from simulator.workload.ops import Collective, OpKind, Work

if TYPE_CHECKING:
    from simulator.training.pipelined import PipelinedJob

__all__ = ["message_counts", "send_seconds", "slice_of_boundary", "swap_seconds"]


def send_seconds(pipeline: PipelinedJob) -> float:
    """Sending the boundary activation of one micro-batch (or piece of one) to the next stage [s]."""
    if pipeline.ranks == 1:
        return 0.0
    pricer, split = pipeline.pricer(0), _is_split(pipeline)
    mean = (1 + pipeline.sending.pipeline_volume) / 2 / pipeline.traits.items_per_microbatch
    boundary, message = pipeline.boundary_bytes * mean, slice_of_boundary(pipeline) * mean
    send = Work(OpKind.P2P, "bf16", collective=Collective.SEND_RECV.value, message=message, axis="pp", ranks=2)
    seconds = pricer.network.price(send, pricer.layout.neighbour("pp")).seconds
    if split:  # each rank sends its slice over its own NIC and the slices are joined again inside the node
        group = pricer.layout.group("tp")
        join = Work(
            OpKind.COLLECTIVE,
            "bf16",
            collective=Collective.ALL_GATHER.value,
            message=boundary,
            axis="tp",
            ranks=group.ranks,
        )
        seconds += pricer.network.price(join, group).seconds
    return seconds


def slice_of_boundary(pipeline: PipelinedJob) -> float:
    """What one rank sends to the next stage for one micro-batch [B]: all of it, or a slice per tensor rank."""
    return pipeline.boundary_bytes / (pipeline.plan.tensor_parallel if _is_split(pipeline) else 1)


def _is_split(pipeline: PipelinedJob) -> bool:
    asked, plan = pipeline.sending.pipeline_split, pipeline.plan
    scatter = pipeline.framework.p2p_scatter_gather if asked is None else asked
    return scatter and plan.tensor_parallel > 1 and not plan.sequence_parallel


def swap_seconds(pipeline: PipelinedJob, memory: Sequence[ChunkMemory]) -> NDArray[np.float64]:
    """Moving one micro-batch's activations to the partner rank, where a schedule does so [virtual stage] [s]."""
    seconds = np.zeros(len(memory))
    if pipeline.traits.partner is None:
        return seconds
    for chunk, held in zip(pipeline.chunks, memory, strict=True):
        rank = pipeline.rank_of_position[chunk.position]
        distance = abs(pipeline.traits.partner(rank, pipeline.ranks) - rank)
        if distance:
            pricer = pipeline.pricer(rank)
            work = Work(OpKind.P2P, "bf16", collective=Collective.SEND_RECV.value, message=held.activations, ranks=2)
            seconds[chunk.position] = pricer.network.price(work, pricer.layout.neighbour("pp", distance)).seconds
    return seconds


def message_counts(pipeline: PipelinedJob, rank: int) -> tuple[int, int]:
    """Activations and gradients of activations a rank sends to other ranks in a step.

    The last virtual stage sends nothing forward, the first nothing backward, and neighbours on one rank nothing.
    """
    mine, last = set(pipeline.positions[rank]), len(pipeline.chunks) - 1
    work = pipeline.work_of(rank)
    forward = sum(p < last and p + 1 not in mine for p in work)
    backward = sum(p > 0 and p - 1 not in mine for p in work)
    return forward * pipeline.microbatches, backward * pipeline.microbatches
