"""What the ranks of a job send each other in one step, by mesh axis."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simulator.results.estimate import Traffic
from simulator.training.messages import lent_by_rank, messages_of_rank
from simulator.training.tables import counted_ops, times_in_a_step

if TYPE_CHECKING:
    from simulator.training.pipelined import PipelinedJob

__all__ = ["Sent", "scale_out", "sent", "step_bytes"]


@dataclass(frozen=True)
class Sent:
    """Messages of one pipeline stage in one step.

    Attributes
    ----------
    axis
        Mesh axis or sub-axis of the group; ``pp`` for messages between stages.
    collective
        What it is; ``send_recv`` goes to the next rank of the group, or to stage ``to``.
    stage, to
        Who sends; to which stage (−1 where it stays in the stage).
    inside
        Whether they stay inside one scale-up domain.
    size
        Bytes of all of them, in the sense of the collective, per group [B].
    seconds
        How long one rank is busy with them when nobody is in the way [s].
    """

    axis: str
    collective: str
    stage: int
    to: int
    inside: bool
    size: float
    seconds: float


def sent(pipeline: PipelinedJob) -> list[Sent]:
    """Everything the ranks send each other in one step, in the mean over steps."""
    found: dict[tuple[str, str, int, int, bool], tuple[float, float]] = {}

    def add(axis: str, collective: str, stage: int, to: int, inside: bool, size: float, seconds: float) -> None:
        before = found.get((axis, collective, stage, to, inside), (0.0, 0.0))
        found[axis, collective, stage, to, inside] = (before[0] + size, before[1] + seconds)

    for stage in range(pipeline.ranks):
        pricer = pipeline.pricer(stage)
        for block, passes, copies in times_in_a_step(pipeline, stage).values():
            for op, count in counted_ops(block, passes, copies):
                if op.collective is None:
                    continue
                inside = pricer.layout.inside_domain(pricer.layout.group(op.axis))
                price, share = pricer.price(op), count / op.wire.every
                add(op.axis, op.collective.value, stage, -1, inside, share * price.bytes, share * price.priced.seconds)
    for (stage, to), inside, size, seconds in _between_stages(pipeline):
        add("pp", "send_recv", stage, to, inside, size, seconds)
    for stage in range(pipeline.ranks):
        if lent := lent_by_rank(pipeline, stage):
            add("pp", "send_recv", stage, lent.to, lent.link == "scale_up", lent.size, lent.seconds)
    return [Sent(*key, *value) for key, value in found.items() if value[0] > 0 and value[1] > 0]


def scale_out(pipeline: PipelinedJob) -> list[Sent]:
    """What of it leaves a scale-up domain."""
    return [message for message in sent(pipeline) if not message.inside]


def _between_stages(pipeline: PipelinedJob) -> Iterator[tuple[tuple[int, int], bool, float, float]]:
    """(from, to), whether that is inside a domain, bytes per sending rank and seconds of the messages of neighbours."""
    items, where = pipeline.microbatches, pipeline.rank_of_position
    volume = pipeline.sending.pipeline_volume
    for position, boundary in enumerate(pipeline.boundaries):
        here, there = where[position], where[position + 1]
        if here != there:
            inside = boundary.link == "scale_up"
            yield (here, there), inside, items * boundary.sent, items * boundary.forward
            yield (there, here), inside, items * boundary.returned * volume, items * boundary.backward


def step_bytes(pipeline: PipelinedJob) -> Traffic:
    """Bytes per accelerator and step by link class, of the rank that moves most."""
    moved, reductions = [], pipeline.traits.reductions(pipeline.microbatches)
    for rank in range(pipeline.ranks):
        pricer = pipeline.pricer(rank)
        links = dict(pipeline.step_time(rank).traffic)
        for chunk in pipeline.chunks_of_rank[rank]:
            for block, count in chunk.blocks:
                for op in (*block.reduce, *block.publish):
                    for link, size in pricer.op_traffic(op).items():
                        links[link] = links.get(link, 0.0) + reductions * count * size / op.wire.every
        for boundary, forward, backward in messages_of_rank(pipeline, rank):
            across = forward * boundary.sent + backward * pipeline.sending.pipeline_volume * boundary.returned
            links[boundary.link] = links.get(boundary.link, 0.0) + across
        if lent := lent_by_rank(pipeline, rank):
            links[lent.link] = links.get(lent.link, 0.0) + lent.size
        moved.append(links)
    return Traffic(max(moved, key=lambda m: sum(m.values())))
