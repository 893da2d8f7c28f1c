"""All-to-alls of the last backward and the gradient reductions that run beside it on the same links.

While both are on the wire they share it: what is on the critical path, the all-to-all, takes up to twice as long. A
link that prefers all-to-alls lets each of them wait for one piece of a reduction at most (Li et al. 2022, Lina,
arXiv 2210.17223). Either way the link carries both: no order of them ends before all of their bytes have passed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from simulator.training.gradient_queue import GradientItem, QueueResult
from simulator.workload.ops import Collective, Stream

if TYPE_CHECKING:
    from simulator.training.pipelined import PipelinedJob

__all__ = ["contention_delay", "shared_link_delay"]


def shared_link_delay(exchanges: Sequence[float], beside: float, piece: float) -> float:
    """Seconds that all-to-alls lose to reductions on their link.

    Parameters
    ----------
    exchanges
        Link seconds of each all-to-all alone.
    beside
        Link seconds of the reductions that are due while the backward runs [s].
    piece
        Link seconds of one piece of a reduction, which an all-to-all waits for at most; 0 = no priority: both share
        the link equally.
    """
    shared = min(sum(exchanges), beside)
    return min(shared, len(exchanges) * piece) if piece else shared


def contention_delay(
    pipeline: PipelinedJob, rank: int, items: Sequence[GradientItem], result: QueueResult, backward_end: float
) -> tuple[float, float]:
    """Seconds by which a rank's last backward ends later for sharing the link, and when the link is through [s]."""
    exchanges = list(_exchanges(pipeline, rank))
    if not exchanges or not items:
        return 0.0, 0.0
    total = sum(item.seconds for item in items)
    beside = max(0.0, total - max(0.0, result.end - backward_end))
    piece = 0.0
    if pipeline.sending.exchanges_first:
        size = sum(s for item in items for _, s in item.sends)
        piece = total * min(1.0, pipeline.sending.piece / size) if size else 0.0
    slower = shared_link_delay(exchanges, beside, piece)
    return slower, max(result.end + slower, min(item.ready for item in items) + total + sum(exchanges))


def _exchanges(pipeline: PipelinedJob, rank: int) -> Iterator[float]:
    """All-to-alls of one micro-batch's backward that leave the scale-up domain, as gradients do."""
    pricer = pipeline.pricer(rank)
    for chunk in pipeline.chunks_of_rank[rank]:
        for block, count in chunk.blocks:
            if not any(pricer.layout.stream(op) is Stream.SCALE_OUT for op in block.reduce):
                continue
            for op in block.backward:
                if op.collective is Collective.ALL_TO_ALL and pricer.layout.stream(op) is Stream.SCALE_OUT:
                    yield from [pricer.price(op).priced.seconds] * count
