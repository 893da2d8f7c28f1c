"""What the ranks of a job send between scale-up domains in one step, by mesh axis."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simulator.training.messages import slice_of_boundary
from simulator.training.tables import counted_ops, times_in_a_step

if TYPE_CHECKING:
    from simulator.training.pipelined import PipelinedJob

__all__ = ["ScaleOut", "scale_out"]


@dataclass(frozen=True)
class ScaleOut:
    """Messages of one pipeline stage between scale-up domains, in one step.

    Attributes
    ----------
    axis
        Mesh axis or sub-axis of the group; ``pp`` for messages between stages.
    collective
        What it is; ``send_recv`` goes to the next rank of the group, or to stage ``to``.
    stage, to
        Who sends; to which stage (−1 where it stays in the stage).
    size
        Bytes of all of them, in the sense of the collective, per group [B].
    seconds
        How long one rank is busy with them when nobody is in the way [s].
    """

    axis: str
    collective: str
    stage: int
    to: int
    size: float
    seconds: float


def scale_out(pipeline: PipelinedJob) -> list[ScaleOut]:
    """Everything the ranks send between scale-up domains in one step, in the mean over steps."""
    found: dict[tuple[str, str, int, int], tuple[float, float]] = {}

    def add(axis: str, collective: str, stage: int, to: int, size: float, seconds: float) -> None:
        before = found.get((axis, collective, stage, to), (0.0, 0.0))
        found[axis, collective, stage, to] = (before[0] + size, before[1] + seconds)

    for stage in range(pipeline.ranks):
        pricer = pipeline.pricer(stage)
        for block, passes, copies in times_in_a_step(pipeline, stage).values():
            for op, count in counted_ops(block, passes, copies):
                if op.collective is None or pricer.layout.inside_domain(pricer.layout.group(op.axis)):
                    continue
                price, share = pricer.price(op), count / op.wire.every
                add(op.axis, op.collective.value, stage, -1, share * price.bytes, share * price.priced.seconds)
    for (stage, to), size, count in _between_stages(pipeline):
        add("pp", "send_recv", stage, to, size, count * pipeline.p2p_seconds)
    return [ScaleOut(*key, *value) for key, value in found.items() if value[0] > 0 and value[1] > 0]


def _between_stages(pipeline: PipelinedJob) -> Iterator[tuple[tuple[int, int], float, int]]:
    """(from, to), bytes and number of the messages between neighbours in the pipeline that leave a domain."""
    layout, items = pipeline.pricer(0).layout, pipeline.microbatches
    if pipeline.ranks == 1 or layout.inside_domain(layout.neighbour("pp")):
        return
    each, where = slice_of_boundary(pipeline), pipeline.rank_of_position
    for position in range(len(pipeline.chunks) - 1):
        here, there = where[position], where[position + 1]
        if here != there:
            yield (here, there), items * each, items
            yield (there, here), items * each * pipeline.sending.pipeline_volume, items
