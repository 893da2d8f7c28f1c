"""The link queue at the end of a step: gradients leave as they appear, in buckets, pieces and by priority.

Items become ready while the backward still runs and share one in-order link. Strategies differ in how they bundle
items, in which order they leave, and whether the next step may begin before the last of them has arrived.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from simulator.strategies.protocols import CommunicationTraits
from simulator.training.block_program import COMMUNICATION
from simulator.training.block_time import BlockPricer
from simulator.training.stages import Chunk
from simulator.workload.ops import Block, Collective, Mesh, Op, OpKind, Work

__all__ = ["GradientItem", "QueueResult", "bulk_seconds", "gradient_items", "publish_delay", "run_queue"]

SHARDING = (Collective.REDUCE_SCATTER, Collective.ALL_GATHER)
"""Collectives between whole tensors and shards."""


@dataclass(frozen=True)
class GradientItem:
    """Gradients of one or more blocks on their way.

    Attributes
    ----------
    ready
        When they are complete [s].
    seconds
        Link time [s], the encoding of compressed gradients included.
    needed
        When the next forward would use the parameters they update, counted from its start [s].
    sends
        The Ops and how many bytes of each; to price bundles.
    """

    ready: float
    seconds: float
    needed: float
    sends: tuple[tuple[Op, float], ...] = ()


@dataclass(frozen=True)
class QueueResult:
    """What a queue of gradients costs.

    Attributes
    ----------
    end
        When the last item has arrived [s].
    arrivals
        When each item has arrived, in the order given [s].
    """

    end: float
    arrivals: tuple[float, ...]


def gradient_items(
    chunk: Chunk, pricer: BlockPricer, chunk_end: float, forward_start: float, sync: bool = True, deferred: int = 0
) -> list[GradientItem]:
    """Items of one chunk by model order of its blocks.

    Parameters
    ----------
    chunk_end
        End of the chunk's last backward [s].
    forward_start
        Start of its first forward in the next step [s].
    sync
        False leaves out what is not executed in every step.
    deferred
        Weight gradients of the first so many layers run after all input gradients, first layer first.
    """
    blocks = [block for block, count in chunk.blocks for _ in range(count)]
    back = [pricer.backward(b).seconds for b in blocks]
    held = [i for i, b in enumerate(blocks) if b.name == "layer"][:deferred]
    late = {i: pricer.weight_gradient(blocks[i]).seconds for i in held}
    at = chunk_end - sum(back)
    starts_of_deferred = chunk_end - sum(late.values())
    ready: dict[int, float] = {}
    for i in reversed(range(len(blocks))):
        at += back[i] - late.get(i, 0.0)
        ready[i] = at
    for i in held:
        starts_of_deferred += late[i]
        ready[i] = starts_of_deferred
    items, needed = [], forward_start
    for i, block in enumerate(blocks):
        sends = tuple((op, pricer.price(op).bytes) for op in block.reduce if sync or op.wire.every == 1)
        if sends:
            seconds = sum(pricer.price(op).priced.seconds + pricer.check_seconds(op) for op, _ in sends)
            items.append(GradientItem(ready[i], seconds, needed, sends))
        needed += pricer.forward(block).seconds
    return items


def by_parameter(items: Sequence[GradientItem], mesh: Mesh) -> list[GradientItem]:
    """Every parameter's gradient as an item of its own, last parameter of a block first."""
    found = []
    for item in items:
        for op, size in item.sends:
            whole = sum(t.bytes(mesh) for t in op.reads)
            parts = ((op, size * t.bytes(mesh) / whole) for t in reversed(op.reads))
            found += [replace(item, seconds=0.0, sends=(part,)) for part in parts]
    return found


def bundled(items: Sequence[GradientItem], bucket: float, pricer: BlockPricer, cuts: bool = True) -> list[GradientItem]:
    """Items in the order they are ready, joined until a bucket is full.

    With ``cuts`` larger items travel bucket by bucket, else a bucket takes whole gradients of parameters.
    """
    if not bucket:
        return list(items)
    items, largest = (items, bucket) if cuts else (by_parameter(items, pricer.mesh), math.inf)
    made: list[GradientItem] = []
    held: list[GradientItem] = []
    for item in sorted(items, key=lambda i: (i.ready, -i.needed)):
        held.append(item)
        if sum(_link_bytes(i) for i in held) >= bucket:
            made.append(_joined(held, largest, pricer))
            held = []
    return [*made, _joined(held, largest, pricer)] if held else made


def _link_bytes(item: GradientItem) -> float:
    return sum(size for op, size in item.sends if op.kind in COMMUNICATION)


def _joined(items: Sequence[GradientItem], bucket: float, pricer: BlockPricer) -> GradientItem:
    groups: dict[tuple[str, str], tuple[Op, float]] = {}
    seconds = 0.0
    for op, size in (send for item in items for send in item.sends):
        if op.kind in COMMUNICATION:
            key = (op.axis, str(op.collective))
            groups[key] = (op, groups.get(key, (op, 0.0))[1] + size)
        else:
            seconds += pricer.price(op).priced.seconds
    for op, size in groups.values():
        full, rest = divmod(size, bucket)
        seconds += full * pricer.message_seconds(op, bucket) if full else 0.0
        seconds += pricer.message_seconds(op, rest) if rest else 0.0
        seconds += (full + bool(rest)) * pricer.check_seconds(op)
    return GradientItem(
        max(i.ready for i in items), seconds, min(i.needed for i in items), tuple(s for i in items for s in i.sends)
    )


def run_queue(items: Sequence[GradientItem], priority: bool = False, piece: float = 0.0) -> QueueResult:
    """Send items over one link.

    Parameters
    ----------
    priority
        True: what the next forward needs first leaves first, and may overtake between pieces; False: as ready.
    piece
        Seconds after which a running item may be overtaken; 0 = at any time.
    """
    order = sorted(range(len(items)), key=lambda i: items[i].ready)
    if not priority:
        arrivals = [0.0] * len(items)
        now = 0.0
        for i in order:
            now = arrivals[i] = max(now, items[i].ready) + items[i].seconds
        return QueueResult(now, tuple(arrivals))
    left = [item.seconds for item in items]
    arrivals = [item.ready for item in items]
    waiting: list[tuple[float, int]] = []
    now, following = 0.0, 0
    while waiting or following < len(order):
        if not waiting:
            now = max(now, items[order[following]].ready)
        while following < len(order) and items[order[following]].ready <= now:
            heapq.heappush(waiting, (items[order[following]].needed, order[following]))
            following += 1
        i = waiting[0][1]
        until = items[order[following]].ready - now if following < len(order) else left[i]
        if piece:  # a piece in flight is not stopped
            until = piece * -(-until // piece)
        spent = min(left[i], until)
        now += spent
        left[i] -= spent
        if left[i] <= 0:
            arrivals[i] = now
            heapq.heappop(waiting)
    return QueueResult(now, tuple(arrivals))


def send_gradients(
    items: Sequence[GradientItem], traits: CommunicationTraits, pricer: BlockPricer
) -> tuple[QueueResult, list[GradientItem]]:
    """Bundle or cut, and send; the items that really travelled come back with the result."""
    travelling = bundled(items, traits.bucket, pricer, traits.cuts)
    if not traits.piece:
        return run_queue(travelling, traits.first_needed_first), travelling
    cut = [_joined([item], traits.piece, pricer) for item in travelling]
    grains = [i.seconds * min(1.0, traits.piece / size) for i in cut if (size := _link_bytes(i))]
    return run_queue(cut, traits.first_needed_first, max(grains, default=0.0)), cut


def cross_step_delay(result: QueueResult, items: Sequence[GradientItem], end: float) -> float:
    """Seconds by which late gradients hold up a next forward that starts at ``end`` without waiting for all of them."""
    return max([0.0, *(a - end - i.needed for a, i in zip(result.arrivals, items, strict=True))])


def fused_update_end(items: Sequence[GradientItem], update: float, pieces: int) -> float:
    """End of reductions whose pieces are updated while the next ones travel [s]: a flow shop of link and kernel."""
    total = sum(i.seconds for i in items)
    link = kernel = 0.0
    for item in sorted(items, key=lambda i: i.ready):
        share = update * item.seconds / total / pieces if total else 0.0
        link = max(link, item.ready)
        for _ in range(pieces):
            link += item.seconds / pieces
            kernel = max(kernel, link) + share
    return kernel


def bulk_seconds(chunks: Sequence[Chunk], pricer: BlockPricer, sync: bool = True) -> float:
    """All gradients of a rank reduced at once after the backward [s]: one message per axis and collective."""
    ops = [
        (op, count)
        for chunk in chunks
        for block, count in chunk.blocks
        for op in block.reduce
        if sync or op.wire.every == 1
    ]
    return _as_one_message(ops, pricer) + _copied(ops, pricer, pricer.framework.shard_copies_reduce)


def _copied(ops: Sequence[tuple[Op, int]], pricer: BlockPricer, times: int) -> float:
    """Time to copy what Ops scatter or gather into another order, so many times [s]."""
    moved = sum(count * pricer.price(op).bytes for op, count in ops if op.collective in SHARDING)
    copy = Work(OpKind.ELEMENTWISE, "fp32", bytes=2.0 * moved, operator="copy")
    return times * pricer.device.price(copy).seconds if times and moved else 0.0


def _as_one_message(ops: Iterable[tuple[Op, int]], pricer: BlockPricer) -> float:
    """Time of Ops, each so many times, whose messages of one axis and collective travel as one [s]."""
    messages: dict[tuple[str, str], tuple[Op, float]] = {}
    seconds = 0.0
    for op, count in ops:
        if op.kind not in COMMUNICATION:
            seconds += count * pricer.price(op).priced.seconds
            continue
        key = (op.axis, str(op.collective))
        known = messages.get(key, (op, 0.0))[1]
        messages[key] = (op, known + count * pricer.price(op).bytes)
    return seconds + sum(pricer.message_seconds(op, size) + pricer.check_seconds(op) for op, size in messages.values())


def _by_owner(ops: Sequence[Op], pricer: BlockPricer) -> float:
    """Time in which every rank that owns parameters broadcasts them, one after another [s].

    Whole parameters are dealt out, the next one to the rank with the least: no more ranks own some than there are.
    """
    seconds = 0.0
    for axis in dict.fromkeys(op.axis for op in ops):
        mine, group = [op for op in ops if op.axis == axis], pricer.layout.group(axis)
        owners = min(group.ranks, sum(len(op.reads) for op in mine))
        size = sum(pricer.price(op).bytes for op in mine) / max(1, owners)
        kind = Collective.BROADCAST.value
        send = Work(
            OpKind.COLLECTIVE, mine[0].dtype, collective=kind, message=size, bytes=size, axis=axis, ranks=group.ranks
        )
        seconds += owners * pricer.network.price(send, group).seconds
    return seconds


def publish_delay(starts: Sequence[tuple[Block, float]], pricer: BlockPricer, overlap: bool) -> float:
    """Seconds by which gathers of updated parameters hold up the first micro-batch.

    Parameters
    ----------
    starts
        Blocks of a rank in the order of their first use, with the time each would start without gathers.
    overlap
        Whether gathers run beside the first forward, or all before it, as one.
    """
    if not overlap:
        ops = [(op, 1) for block, _ in starts for op in block.publish]
        ranks = max((pricer.layout.group(op.axis).ranks for op, _ in ops), default=1)
        if pricer.framework.broadcasts_by_owner:
            return _by_owner([op for op, _ in ops], pricer)
        sliced = pricer.host.shards(sum(len(op.reads) for op, _ in ops), ranks)
        return _as_one_message(ops, pricer) + _copied(ops, pricer, pricer.framework.shard_copies_gather) + sliced
    seconds = [(sum(pricer.price(op).priced.seconds for op in block.publish), start) for block, start in starts]
    done, delay = 0.0, 0.0
    for cost, start in seconds:
        done += cost
        if cost:
            delay = max(delay, done - start)
    return delay
