"""What a pass through one block executes, in program order and with what waits for what. No time is known here.

A layer whose gathers run ahead and whose reductions run behind is unrolled: the same Ops stand in the program once per
copy of the layer, so that everything derived from an Op (its work, its price) is derived once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from simulator.workload.framework import Framework
from simulator.workload.ops import Collective, Op, OpKind, Stream, TensorClass, Tier
from simulator.workload.plan import base_axis

__all__ = [
    "COMMUNICATION", "DATA_AXES", "BlockProgram", "dependencies", "is_waited_for", "links_of", "plain", "runs_beside",
    "steady_pair",
]  # fmt: skip

COMMUNICATION = (OpKind.COLLECTIVE, OpKind.P2P)

DATA_AXES = ("dpcp", "edp")
"""Axes over which states are sharded: what runs on them belongs to no micro-batch's critical data flow."""

TIER_DISTANCE = {Tier.HBM: 0, Tier.PEER: 1, Tier.HOST: 2, Tier.NVME: 3, Tier.REMOTE: 4}
"""How far a tier is from the compute units: a copy that comes nearer is a fetch, one that goes away an eviction."""


class BlockProgram(NamedTuple):
    """Ops in program order.

    Attributes
    ----------
    ops
        An Op of an unrolled layer stands here once per copy.
    after
        For each, the indices of those it waits for.
    copies
        Layers.
    """

    ops: tuple[Op, ...]
    after: tuple[tuple[int, ...], ...]
    copies: int = 1


class _Place(NamedTuple):
    """An Op in one copy of its layer, and the Ops (name, copy) it names as its predecessors."""

    op: Op
    copy: int
    after: tuple[tuple[str, int], ...]


def plain(ops: Sequence[Op]) -> BlockProgram:
    """The Ops as they are."""
    return BlockProgram(tuple(ops), tuple(map(tuple, dependencies(ops))))


def steady_pair(ops: Sequence[Op]) -> tuple[BlockProgram, BlockProgram]:
    """A layer unrolled so often that one more copy adds the same time as the one before, and one copy more of it."""
    ahead = max(op.wire.prefetch for op in ops)
    return _unrolled(ops, 2 + ahead), _unrolled(ops, 3 + ahead)


def dependencies(ops: Sequence[Op]) -> list[list[int]]:
    """Data flow: each Op waits for the last writer of everything it reads, and for what it names in ``after``."""
    return _data_flow(_Place(op, 0, tuple((name, 0) for name in op.after)) for op in ops)


def _data_flow(places: Iterable[_Place]) -> list[list[int]]:
    """Copies of a layer do not share tensors."""
    writer: dict[tuple[str, int], int] = {}
    known: dict[tuple[str, int], int] = {}
    after: list[list[int]] = []
    for index, (op, copy, named) in enumerate(places):
        waits = {writer[t.name, copy] for t in op.reads if (t.name, copy) in writer}
        after.append(sorted(waits | {known[name] for name in named if name in known}))
        known[op.name, copy] = index
        for tensor in op.writes:
            writer[tensor.name, copy] = index
    return after


def _unrolled(ops: Sequence[Op], copies: int) -> BlockProgram:
    """``copies`` of a layer's Ops one after another; gathers are issued ``prefetch`` layers ahead of their use.

    With the usual limit of one, the gather of layer i waits for the end of layer i−2: two layers are resident.
    """
    gathers = [op for op in ops if _is_fetch(op)]
    body = [op for op in ops if not _is_fetch(op)]
    ahead = max((op.wire.prefetch for op in gathers), default=1)
    last = next((op.name for op in reversed(body) if op.kind not in (*COMMUNICATION, OpKind.COPY)), "")

    def placed(op: Op, copy: int, after: tuple[tuple[str, int], ...] = ()) -> _Place:
        return _Place(op, copy, after or tuple((name, copy) for name in op.after))

    places: list[_Place] = []
    for index in range(-ahead, copies):
        if 0 <= index + ahead < copies:
            done = ((last, index - 1),) if index > 0 and last else ()
            places += [placed(op, index + ahead, done) for op in gathers]
        if index >= 0:
            places += [placed(op, index) for op in body]
    return BlockProgram(tuple(p.op for p in places), tuple(map(tuple, _data_flow(places))), copies)


def links_of(op: Op) -> tuple[str, ...]:
    """Link classes that a copy between memory tiers uses; none for anything else."""
    if op.kind is not OpKind.COPY or op.reads[0].tier is op.writes[0].tier:
        return ()
    ends = {op.reads[0].tier, op.writes[0].tier}
    if Tier.PEER in ends:
        return ("scale_up",)
    if Tier.NVME in ends:  # a direct path between drive and device crosses the host link as well
        return ("nvme",) if Tier.HOST in ends else ("host", "nvme")
    return ("host",)


def _is_fetch(op: Op) -> bool:
    """Brings what a layer needs, ahead of it: gathered parameters, copies from a tier further away."""
    if op.kind is OpKind.COPY:
        return bool(links_of(op)) and TIER_DISTANCE[op.writes[0].tier] < TIER_DISTANCE[op.reads[0].tier]
    return base_axis(op.axis) in DATA_AXES and op.collective is Collective.ALL_GATHER


def runs_beside(op: Op) -> bool:
    """Runs ahead of a layer or behind it: gathers, reductions, copies between tiers."""
    return base_axis(op.axis) in DATA_AXES or bool(links_of(op))


def is_waited_for(op: Op, framework: Framework) -> bool:
    """Whether nothing is computed until the Op is done although it is no computation."""
    if op.kind in COMMUNICATION:
        return framework.exposes_shards and base_axis(op.axis) in DATA_AXES
    evicted = bool(links_of(op)) and op.reads[0].cls is TensorClass.ACTIVATION
    return framework.exposes_evictions and evicted


def is_pipelined(ops: Sequence[Op], framework: Framework) -> bool:
    """Whether part of the pass moves ahead of its layer or behind it, so that equal layers overlap each other."""
    return any(op.stream is not Stream.COMPUTE and runs_beside(op) and not is_waited_for(op, framework) for op in ops)
