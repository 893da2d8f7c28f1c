"""What pipeline ranks send each other: boundary activations and their gradients, and activations moved to a partner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from simulator.cost.network import CommGroup
from simulator.strategies.protocols import ActionKind
from simulator.strategies.rank_layout import RankLayout
from simulator.training.block_time import BlockPricer
from simulator.training.memory import ChunkMemory
from simulator.workload.ops import Collective, OpKind, Work

if TYPE_CHECKING:
    from simulator.training.pipelined import PipelinedJob

__all__ = ["Boundary", "Lent", "boundaries", "lent_by_rank", "messages_of_rank", "swap_seconds"]


@dataclass(frozen=True)
class Boundary:
    """What passes between two neighbouring virtual stages for one micro-batch.

    Attributes
    ----------
    forward, backward
        Time of the activation on its way to the later stage, and of its gradient on its way back, for one micro-batch
        or for one piece of it where the schedule cuts tokens [s].
    size
        The activation on one rank of the later stage [B].
    sent, returned
        What one rank of the earlier stage sends forward, and one of the later stage sends back [B].
    link
        ``scale_up`` or ``scale_out``.
    """

    forward: float
    backward: float
    size: float
    sent: float
    returned: float
    link: str


def boundaries(pipeline: PipelinedJob) -> list[Boundary]:
    """Between every virtual stage and the next, in model order."""
    made: dict[tuple[int, ...], Boundary] = {}
    found = []
    for position in range(len(pipeline.chunks) - 1):
        ranks = (pipeline.rank_of_position[position], pipeline.rank_of_position[position + 1])
        kinds = tuple(id(pipeline.pricer(rank)) for rank in ranks)
        key = (*kinds, *ranks) if pipeline.plan.unequal else kinds
        if key not in made:
            unequal = pipeline.plan.unequal
            made[key] = _between_unequal(pipeline, position) if unequal else _between_equal(pipeline, *ranks)
        found.append(made[key])
    return found


def _between_equal(pipeline: PipelinedJob, earlier: int, later: int) -> Boundary:
    """Stages of one mesh: every rank sends to its counterpart. The slower of two kinds of node decides."""
    block = next(b for c in reversed(pipeline.chunks) for b, _ in c.blocks if b.name in ("layer", "head"))
    held, layout = block.boundary.bytes(pipeline.mesh(later)), pipeline.pricer(earlier).layout
    plan = layout.plan
    split = _in_slices(pipeline) and plan.tensor_parallel > 1 and not plan.sequence_parallel
    piece = held / (plan.tensor_parallel if split else 1)
    mean = (1 + pipeline.sending.pipeline_volume) / 2 / pipeline.traits.items_per_microbatch
    seconds = max(
        _on_link(pricer, piece * mean, layout.neighbour("pp")) + (_joined(pricer, held * mean) if split else 0.0)
        for pricer in dict.fromkeys((pipeline.pricer(earlier), pipeline.pricer(later)))
    )
    return Boundary(seconds, seconds, held, piece, piece, _link(layout, layout.neighbour("pp")))


def _between_unequal(pipeline: PipelinedJob, position: int) -> Boundary:
    """Stages of two meshes: the activation is cut anew between them (cross-mesh resharding, arXiv 2211.05322).

    In slices, every byte crosses once, is spread over all ranks of both stages, and is joined inside the tensor ranks
    that need it whole; otherwise every rank is sent all that it needs. The stage with fewer ranks takes longest.
    """
    ends = [pipeline.rank_of_position[position + i] for i in (0, 1)]
    pricers = [pipeline.pricer(rank) for rank in ends]
    ranks = [len(pipeline.seats[rank]) for rank in ends]
    needs, whole = _needs(pipeline, position)
    near = _same_node(pipeline, ends)
    node = pricers[0].layout.node
    group = CommGroup(2, 2, 1, bridged=node.scale_up.domain >= node.accelerators) if near else CommGroup(2, 1, 2)

    def way(source: int, volume: float) -> tuple[float, float]:
        """Seconds, and bytes that a rank of the source sends."""
        sink, share = 1 - source, volume / pipeline.traits.items_per_microbatch
        copies = ranks[sink] * needs[sink] / whole
        in_slices = _in_slices(pipeline) and copies > 1
        total = whole if in_slices else ranks[sink] * needs[sink]
        message = share * total / min(ranks)
        seconds = max(_on_link(pricer, message, group) for pricer in pricers)
        return seconds + (_joined(pricers[sink], share * needs[sink]) if in_slices else 0.0), total / ranks[source]

    (there, sent), (back, returned) = way(0, 1.0), way(1, pipeline.sending.pipeline_volume)
    return Boundary(there, back, needs[1], sent, returned, _link(pricers[0].layout, group))


def _needs(pipeline: PipelinedJob, position: int) -> tuple[list[float], float]:
    """The activation on one rank of either stage, and of all ranks of one stage without copies [B]."""
    needs, whole = list[float](), 0.0
    for chunk in pipeline.chunks[position : position + 2]:
        pricer = pipeline.pricer(pipeline.rank_of_position[chunk.position])
        plan, blocks = pricer.layout.plan, [b for b, _ in chunk.blocks if b.name in ("layer", "head")]
        if blocks:
            needs.append(blocks[0].boundary.bytes(pricer.mesh))
            whole = blocks[0].boundary.bytes() * plan.data_parallel
        else:
            needs.append(0.0)  # an embedding alone: filled in from the later stage, as if tensor ranks held copies
    if not needs[0]:
        plan = pipeline.pricer(pipeline.rank_of_position[position]).layout.plan
        split = plan.tensor_parallel if plan.sequence_parallel else 1
        needs[0] = whole / (plan.data_parallel * plan.context_parallel * split)
    return needs, whole


def _same_node(pipeline: PipelinedJob, ranks: Sequence[int]) -> bool:
    """Whether both stages sit in one node."""
    begin = 0
    for group in pipeline.cluster.groups:
        held, end = group.node.accelerators, begin + group.count * group.node.accelerators
        nodes = {int(s - begin) // held if begin <= s < end else -1 for r in ranks for s in pipeline.seats[r][[0, -1]]}
        if len(nodes) == 1 and nodes != {-1}:
            return True
        begin = end
    return False


def _in_slices(pipeline: PipelinedJob) -> bool:
    asked = pipeline.sending.pipeline_split
    return pipeline.framework.p2p_scatter_gather if asked is None else asked


def _on_link(pricer: BlockPricer, message: float, group: CommGroup) -> float:
    send = Work(OpKind.P2P, "bf16", collective=Collective.SEND_RECV.value, message=message, axis="pp", ranks=2)
    return pricer.network.price(send, group).seconds


def _joined(pricer: BlockPricer, held: float) -> float:
    """Slices that came over the NICs of all tensor ranks are joined again inside the node [s]."""
    group = pricer.layout.group("tp")
    join = Work(
        OpKind.COLLECTIVE, "bf16", collective=Collective.ALL_GATHER.value, message=held, axis="tp", ranks=group.ranks
    )
    return pricer.network.price(join, group).seconds


def _link(layout: RankLayout, group: CommGroup) -> str:
    return "scale_up" if layout.inside_domain(group) else "scale_out"


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


@dataclass(frozen=True)
class Lent:
    """Activations that a rank sends to its partner in a step, or back to it.

    Attributes
    ----------
    to
        Rank that receives them.
    link
        Class of the link they cross.
    size, seconds
        Bytes of all of them [B], and what they take when nobody is in the way [s].
    """

    to: int
    link: str
    size: float
    seconds: float


def lent_by_rank(pipeline: PipelinedJob, rank: int) -> Lent | None:
    """What a rank sends its partner where a schedule moves activations between them (BPipe); None where nothing.

    Micro-batches that the rank evicts go there, those that the partner loads again go back to it.
    """
    if pipeline.traits.partner is None:
        return None
    partner = pipeline.traits.partner(rank, pipeline.ranks)
    sent = [(rank, a.chunk) for a in pipeline.orders[rank] if a.kind is ActionKind.EVICT]
    sent += [(partner, a.chunk) for a in pipeline.orders[partner] if a.kind is ActionKind.LOAD]
    if not sent or partner == rank:
        return None
    memory, seconds = pipeline.chunk_memories, swap_seconds(pipeline, pipeline.chunk_memories)
    places = [pipeline.positions[owner][chunk] for owner, chunk in sent]
    layout = pipeline.pricer(rank).layout
    return Lent(
        partner, _link(layout, layout.neighbour("pp", abs(partner - rank))),
        float(sum(memory[p].activations for p in places)), float(sum(seconds[p] for p in places)),
    )  # fmt: skip


def messages_of_rank(pipeline: PipelinedJob, rank: int) -> list[tuple[Boundary, int, int]]:
    """Activations and gradients of activations a rank sends to other ranks in a step, by the boundary they cross.

    The last virtual stage sends nothing forward, the first nothing backward, and neighbours on one rank nothing.
    """
    mine, last = set(pipeline.positions[rank]), len(pipeline.chunks) - 1
    found: dict[Boundary, list[int]] = {}
    for p in pipeline.work_of(rank):
        if p < last and p + 1 not in mine:
            found.setdefault(pipeline.boundaries[p], [0, 0])[0] += pipeline.microbatches
        if p > 0 and p - 1 not in mine:
            found.setdefault(pipeline.boundaries[p - 1], [0, 0])[1] += pipeline.microbatches
    return [(boundary, forward, backward) for boundary, (forward, backward) in found.items()]
