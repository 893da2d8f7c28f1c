"""What one training step sends over every link of the cluster."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from simulator.network.collectives import messages
from simulator.network.topology import Topology
from simulator.training.messages import message_counts
from simulator.training.pipelined import PipelinedJob
from simulator.training.tables import counted_ops, times_in_a_step
from simulator.workload.ops import Collective

__all__ = ["link_loads"]

Ids = NDArray[np.int64]


def link_loads(pipeline: PipelinedJob, topology: Topology, first: int = 0) -> NDArray[np.float64]:
    """Bytes on every directed link [links] in one step of a job.

    Every group of every mesh axis sends what its collectives need, sprayed over all equal ways: hidden or not, at
    whatever time. Divided by capacity and step time it is the mean utilisation of a link.

    Parameters
    ----------
    first
        Accelerator of the job's first rank; the others follow it.
    """
    found = np.zeros(len(topology.links))
    layout = pipeline.pricer(0).layout
    mesh, strides = layout.plan.mesh, layout.strides
    per_stage = strides["pp"]
    for stage in range(pipeline.ranks):
        here = stage * per_stage + np.arange(per_stage)
        sent: dict[tuple[str, Collective], float] = {}
        for axis, collective, size in _collectives(pipeline, stage):
            sent[axis, collective] = sent.get((axis, collective), 0.0) + size
        for (axis, collective), size in sent.items():
            groups = _groups(here, mesh[axis], strides[axis])
            for source, target, volume in _messages(groups, collective, size, topology, first):
                topology.add_loads(found, first + source, first + target, volume)
        _to_neighbours(found, pipeline, topology, first, stage)
    return found


def _collectives(pipeline: PipelinedJob, stage: int) -> Iterator[tuple[str, Collective, float]]:
    """Mesh axis, kind and bytes in a step, in the sense of the collective, of all its repetitions."""
    pricer = pipeline.pricer(stage)
    for block, passes, copies in times_in_a_step(pipeline, stage).values():
        for op, count in counted_ops(block, passes, copies):
            if op.collective is not None and count:
                yield op.axis, op.collective, count * float(pricer.price(op).bytes)


def _groups(ranks: Ids, size: int, stride: int) -> Ids:
    """Ranks of a stage as groups along an axis [group, place]."""
    leaders = ranks[(ranks // stride) % size == 0]
    members: Ids = leaders[:, None] + stride * np.arange(size)[None]
    return members


def _messages(
    groups: Ids, collective: Collective, size: float, topology: Topology, first: int
) -> Iterator[tuple[Ids, Ids, NDArray[np.float64]]]:
    """Who sends how much to whom in every group: hierarchically where a group has several ranks in each domain."""
    if groups.shape[1] < 2 or size <= 0:
        return
    if collective is Collective.SEND_RECV:  # once around the ring
        yield groups.ravel(), np.roll(groups, -1, axis=1).ravel(), np.full(groups.size, size)
        return
    home = topology.nodes.domain_of[first + groups]
    for group, domains in zip(groups, home, strict=True):
        edges = np.flatnonzero(np.r_[True, domains[1:] != domains[:-1], True])
        shape = np.diff(edges).tolist()
        even = len(set(shape)) == 1 and len(shape) > 1 and shape[0] > 1
        name = collective.value
        hierarchical = even and name in ("all_reduce", "all_gather", "reduce_scatter")
        source, target, volume = messages(name, size, shape, "hierarchical" if hierarchical else None)
        yield group[source], group[target], volume


def _to_neighbours(
    found: NDArray[np.float64], pipeline: PipelinedJob, topology: Topology, first: int, stage: int
) -> None:
    """Activations to the next stage and their gradients to the one before; the last wraps to the first."""
    layout = pipeline.pricer(stage).layout
    per_stage, stages = layout.strides["pp"], pipeline.ranks
    ranks = stage * per_stage + np.arange(per_stage)
    for count, step in zip(message_counts(pipeline, stage), (1, -1), strict=True):
        if count and stages > 1:
            other = (stage + step) % stages * per_stage + np.arange(per_stage)
            volume = np.full(per_stage, count * pipeline.boundary_bytes)
            topology.add_loads(found, first + ranks, first + other, volume)
