"""Time of one block: its Ops priced and run on streams, so that what overlaps and what is exposed is found out."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from simulator.constants import Constant, Trust
from simulator.cost.device import DeviceCost
from simulator.cost.host import HostCost
from simulator.cost.network import CommGroup, NetworkCost
from simulator.cost.priced import Priced
from simulator.cost.tiers import TierCost
from simulator.engine.streams import run_streams, run_streams_with_interference
from simulator.strategies.rank_layout import RankLayout
from simulator.training.sustained import sustained_share
from simulator.workload.framework import Framework
from simulator.workload.ops import Block, Collective, Op, OpKind, Phase, Stream, Tier, Work
from simulator.workload.plan import base_axis
from simulator.workload.work import work_of

__all__ = ["BlockPricer", "PhaseTime", "PricedOp", "combine", "dependencies", "runs_beside"]

COMMUNICATION = (OpKind.COLLECTIVE, OpKind.P2P)
CATEGORY_OF_AXIS = {
    "tp": "tensor_parallel",
    "cp": "context_parallel",
    "ep": "expert_parallel",
    "dpcp": "data_parallel",
    "edp": "data_parallel",
}

DATA_AXES = ("dpcp", "edp")
"""Axes over which states are sharded: what runs on them belongs to no micro-batch's critical data flow."""

HOST_STREAMS = (Stream.H2D, Stream.D2H)

TIER_DISTANCE = {Tier.HBM: 0, Tier.PEER: 1, Tier.HOST: 2, Tier.NVME: 3, Tier.REMOTE: 4}
"""How far a tier is from the compute units: a copy that comes nearer is a fetch, one that goes away an eviction."""


@dataclass(frozen=True)
class PricedOp:
    """An Op with its price, for traces and explanations."""

    op: Op
    priced: Priced
    flops: float
    bytes: float


@dataclass(frozen=True)
class PhaseTime:
    """Time of one pass through one block (or through a chunk of blocks).

    Attributes
    ----------
    seconds
        From first start to last end, host launches included.
    floor
        Roofline bound of its computation [s].
    parts
        Exposed seconds by category: ``forward``, ``backward``, ``recompute``, ``tensor_parallel`` ..., ``host``.
    traffic
        Bytes by link class.
    trust
        Seconds by trust of the constants they rest on.
    flops
        Executed FLOPs.
    constants
        Ids used.
    """

    seconds: float = 0.0
    floor: float = 0.0
    parts: Mapping[str, float] = field(default_factory=dict)
    traffic: Mapping[str, float] = field(default_factory=dict)
    trust: Mapping[Trust, float] = field(default_factory=dict)
    flops: float = 0.0
    constants: frozenset[str] = frozenset()

    def __add__(self, other: PhaseTime) -> PhaseTime:
        return combine(((self, 1), (other, 1)))

    def times(self, count: float) -> PhaseTime:
        """``count`` of these in a row."""
        return combine(((self, count),))


def combine(terms: Iterable[tuple[PhaseTime, float]]) -> PhaseTime:
    """Passes one after another, each counted a number of times."""
    seconds = floor = flops = 0.0
    parts: dict[str, float] = {}
    traffic: dict[str, float] = {}
    trust: dict[Trust, float] = {}
    constants: frozenset[str] = frozenset()
    for term, count in terms:
        seconds += count * term.seconds
        floor += count * term.floor
        flops += count * term.flops
        constants |= term.constants
        for total, mine in ((parts, term.parts), (traffic, term.traffic)):
            for key, value in mine.items():
                total[key] = total.get(key, 0.0) + count * value
        for kind, value in term.trust.items():
            trust[kind] = trust.get(kind, 0.0) + count * value
    return PhaseTime(seconds, floor, parts, traffic, trust, flops, constants)


class BlockPricer:
    """Prices the Ops of blocks on one device type and runs them on streams.

    Parameters
    ----------
    device, network
        Cost of computation and of communication.
    layout
        Where the ranks of each mesh axis sit.
    framework
        Host time to launch a layer.
    """

    def __init__(
        self,
        device: DeviceCost,
        network: NetworkCost,
        layout: RankLayout,
        framework: Framework,
        scale: Mapping[str, float] | None = None,
    ) -> None:
        self.device, self.network, self.layout, self.framework = device, network, layout, framework
        self.mesh = layout.plan.mesh
        self.tiers = TierCost(layout.node, layout.plan.accelerators, scale)
        self.host = HostCost(framework, scale)
        self.host_ids = {c.id for c in self.host.constants}
        beside = framework.constants.get("compute_interference")
        self.interference_id = beside.id if beside else ""
        factor = 1.0 + (beside.value if beside else 0.0) * (scale or {}).get(self.interference_id, 1.0)
        self.interference: dict[tuple[Hashable, Hashable], float] = (
            {(Stream.COMPUTE, s): factor for s in (Stream.SCALE_UP, Stream.SCALE_OUT)} if factor > 1.0 else {}
        )
        self._shares: dict[str, Constant | None] = {}
        self._ops: dict[int, tuple[Op, PricedOp]] = {}
        self._passes: dict[tuple[int, str], tuple[Block, PhaseTime]] = {}

    def price(self, op: Op) -> PricedOp:
        """One Op of one rank."""
        known = self._ops.get(id(op))
        if known is None:
            if op.kind in COMMUNICATION:
                group = self.layout.group(op.axis)
                work = work_of(op, self.mesh, group.ranks)
                priced = self._on_wire(work, group, op.wire.piece or work.message * op.wire.blocks)
            elif op.kind is OpKind.COPY and op.reads[0].tier is not op.writes[0].tier:
                work = work_of(op, self.mesh)
                priced = self._between_tiers(op, work)
            else:
                work = work_of(op, self.mesh)
                priced = self.device.price(work)
                if op.kind in (OpKind.GEMM, OpKind.GROUPED_GEMM):
                    priced = self._sustained(priced, work.dtype)
            known = self._ops[id(op)] = (op, PricedOp(op, priced, work.flops, work.bytes))
        return known[1]

    def _sustained(self, priced: Priced, dtype: str) -> Priced:
        """The price under continuous load: kernel benchmarks are too short for the power limit to bite."""
        if dtype not in self._shares:
            self._shares[dtype] = sustained_share(self.device.accelerator, dtype)
        constant = self._shares[dtype]
        if constant is None or priced.bound != "compute":
            return priced
        used = list(priced.constants)
        share = min(1.0, self.device.shared(constant, used))
        return replace(priced, seconds=priced.seconds / share, constants=tuple(used))

    def _on_wire(self, work: Work, group: CommGroup, piece: float) -> Priced:
        """Price of a message that travels in pieces of ``piece`` bytes, its share of a bundle if it is smaller."""
        if piece == work.message:
            return self.network.price(work, group)
        one = self.network.price(replace(work, message=piece, bytes=piece), group)
        pieces = work.message / piece
        return replace(one, seconds=one.seconds * pieces, floor=one.floor * pieces)

    def _between_tiers(self, op: Op, work: Work) -> Priced:
        """Price of a copy from one memory tier to another; peers are reached over the scale-up network."""
        source, target = op.reads[0].tier, op.writes[0].tier
        if Tier.PEER in (source, target):
            send = Work(OpKind.P2P, work.dtype, collective=Collective.SEND_RECV.value, message=work.message, ranks=2)
            return self.network.price(send, CommGroup(2, 2, 1))
        return self.tiers.copy(source, target, work.message, float(op.tags.get("page_size", 0.0)))

    def message_seconds(self, op: Op, message: float) -> float:
        """Time of the collective of ``op`` with another message size [s]."""
        group = self.layout.group(op.axis)
        work = replace(work_of(op, self.mesh, group.ranks), message=message, bytes=message)
        return self.network.price(work, group).seconds

    def forward(self, block: Block) -> PhaseTime:
        """Forward of one micro-batch, parameter gathers (ZeRO-3) included."""
        return self._pass(block, "forward", (*block.gather_forward, *block.forward))

    def backward(self, block: Block) -> PhaseTime:
        """Whole backward: recomputation, input and weight gradients."""
        return self._pass(block, "backward", (*block.gather_backward, *block.backward, *block.reduce_each))

    def input_gradient(self, block: Block) -> PhaseTime:
        """Backward without the weight gradients ("B" of split schedules)."""
        ops = tuple(op for op in block.backward if op.phase is not Phase.WEIGHT_GRADIENT)
        return self._pass(block, "input_gradient", (*block.gather_backward, *ops))

    def recompute(self, block: Block) -> PhaseTime:
        """What of the backward is a forward run again."""
        return self._pass(block, "recompute", tuple(op for op in block.backward if op.phase is Phase.RECOMPUTE))

    def weight_gradient(self, block: Block) -> PhaseTime:
        """Weight gradients only ("W"), and what takes them away in every micro-batch."""
        ops = tuple(op for op in block.backward if op.phase is Phase.WEIGHT_GRADIENT)
        return self._pass(block, "weight_gradient", (*ops, *block.reduce_each))

    def _pass(self, block: Block, name: str, ops: Sequence[Op]) -> PhaseTime:
        key = (id(block), name)
        known = self._passes.get(key)
        if known is None:
            known = self._passes[key] = (block, self._run(block, ops))
        return known[1]

    def _run(self, block: Block, ops: Sequence[Op]) -> PhaseTime:
        if not ops:
            return PhaseTime()
        if any(op.stream is not Stream.COMPUTE and runs_beside(op) for op in ops):
            return self._prefetched(block, ops)
        return self._once(block, ops)

    def _prefetched(self, block: Block, ops: Sequence[Op]) -> PhaseTime:
        """A layer among equal layers whose gathers run one layer ahead and whose reductions run behind.

        Copies of the layer are unrolled until one more adds the same time as the one before: the steady state.
        """
        ahead = max(op.wire.prefetch for op in ops)
        copies = [self._once(block, _unroll(ops, n + ahead)) for n in (2, 3)]
        steady = combine(((copies[1], 1.0), (copies[0], -1.0)))
        parts = {k: v for k, v in steady.parts.items() if abs(v) > 1e-12 * steady.seconds}  # rounding of a difference
        return replace(steady, parts=parts)

    def _once(self, block: Block, ops: Sequence[Op]) -> PhaseTime:
        """The Ops as they are, on their streams."""
        return self.run(ops, dependencies(ops), self.host_seconds(block, ops))

    def stream(self, op: Op) -> Stream:
        """Where an Op runs: messages on the links that their group uses."""
        return self.layout.stream(op) if op.kind in COMMUNICATION else op.stream

    def run(self, ops: Sequence[Op], after: Sequence[Sequence[int]], host: float) -> PhaseTime:
        """Ops on their streams, each after those it waits for; ``host`` seconds to launch them run beside."""
        priced = [self.price(op) for op in ops]
        streams = [self.stream(op) for op in ops]
        durations = [p.priced.seconds for p in priced]
        busy = set(streams)
        beside = {pair: factor for pair, factor in self.interference.items() if set(pair) <= busy}
        slowdown = beside | (self.tiers.slowdown() if set(HOST_STREAMS) <= busy else {})
        if slowdown:
            schedule = run_streams_with_interference(durations, streams, after, slowdown)
        else:
            schedule = run_streams(durations, streams, after)
        seconds = max(schedule.makespan, host)
        parts = _exposed(priced, schedule.critical_path, schedule.start, schedule.end)
        if host > schedule.makespan:
            parts["host"] = parts.get("host", 0.0) + host - schedule.makespan
        floor = sum(p.priced.floor for p in priced if p.op.kind not in (*COMMUNICATION, OpKind.COPY))
        trust: dict[Trust, float] = {}
        for p in priced:
            trust[p.priced.trust] = trust.get(p.priced.trust, 0.0) + p.priced.seconds
        own = self.host_ids | ({self.interference_id} if beside else set())
        ids = frozenset(i for p in priced for i in p.priced.constants) | own
        return PhaseTime(seconds, floor, parts, self._traffic(priced), trust, sum(p.flops for p in priced), ids)

    def host_seconds(self, block: Block, ops: Sequence[Op]) -> float:
        """Host time to launch the pass; only layers are launched faster than they run."""
        if block.name != "layer":
            return 0.0
        copies = 1 + max((int(op.name.rpartition("#")[2]) for op in ops if "#" in op.name), default=0)
        passes = {op.phase: 1.0 for op in ops}
        if Phase.RECOMPUTE in passes:
            again = sum(op.phase is Phase.RECOMPUTE for op in block.backward)
            passes[Phase.RECOMPUTE] = min(1.0, again / max(1, len(block.forward)))
        groups = [self.layout.group(op.axis).ranks for op in ops if op.kind is OpKind.COLLECTIVE]
        return self.host.layer(passes, copies, groups)

    def _traffic(self, priced: Sequence[PricedOp]) -> dict[str, float]:
        moved = {"hbm": 0.0, "scale_up": 0.0, "scale_out": 0.0}
        for p in priced:
            for link, size in self.op_traffic(p.op).items():
                moved[link] = moved.get(link, 0.0) + size
        return moved

    def op_traffic(self, op: Op) -> dict[str, float]:
        """Bytes one execution of ``op`` moves, by link class."""
        moved = self.price(op).bytes
        if op.kind not in COMMUNICATION:
            return dict.fromkeys(links_of(op), moved) or {"hbm": moved}
        return self.layout.wire_bytes(op.collective, moved, self.layout.group(op.axis))


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


def dependencies(ops: Sequence[Op]) -> list[list[int]]:
    """Data flow: each Op waits for the last writer of everything it reads, and for what it names in ``after``."""
    writer: dict[str, int] = {}
    place: dict[str, int] = {}
    after: list[list[int]] = []
    for index, op in enumerate(ops):
        waits = {writer[t.name] for t in op.reads if t.name in writer}
        after.append(sorted(waits | {place[name] for name in op.after if name in place}))
        place[op.name] = index
        for tensor in op.writes:
            writer[tensor.name] = index
    return after


def _unroll(ops: Sequence[Op], copies: int) -> list[Op]:
    """``copies`` of a layer's Ops one after another; gathers are issued ``prefetch`` layers ahead of their use.

    With the usual limit of one, the gather of layer i waits for the end of layer i−2: two layers are resident.
    """
    gathers = [op for op in ops if _is_fetch(op)]
    body = [op for op in ops if op not in gathers]
    ahead = max((op.wire.prefetch for op in gathers), default=1)
    last = next((op.name for op in reversed(body) if op.kind not in (*COMMUNICATION, OpKind.COPY)), "")

    def renamed(op: Op, index: int, after: tuple[str, ...] = ()) -> Op:
        tag = f"#{index}"
        reads = tuple(replace(t, name=t.name + tag) for t in op.reads)
        writes = tuple(replace(t, name=t.name + tag) for t in op.writes)
        after = after or tuple(name + tag for name in op.after)
        return replace(op, name=op.name + tag, reads=reads, writes=writes, after=after)

    unrolled: list[Op] = []
    for index in range(-ahead, copies):
        if 0 <= index + ahead < copies:
            done = (f"{last}#{index - 1}",) if index > 0 and last else ()
            unrolled += [renamed(op, index + ahead, done) for op in gathers]
        if index >= 0:
            unrolled += [renamed(op, index) for op in body]
    return unrolled


def _exposed(
    priced: Sequence[PricedOp], path: Sequence[int], start: NDArray[np.float64], end: NDArray[np.float64]
) -> dict[str, float]:
    """Seconds of the critical path by category: what is hidden costs nothing."""
    parts: dict[str, float] = {}
    for index in path:
        op = priced[index].op
        if op.kind is OpKind.COPY and links_of(op):
            name = "offload"
        elif op.kind in COMMUNICATION:
            name = CATEGORY_OF_AXIS.get(base_axis(op.axis), op.axis)
        elif op.phase is Phase.WEIGHT_GRADIENT:
            name = "backward"
        else:
            name = op.phase.value
        parts[name] = parts.get(name, 0.0) + float(end[index] - start[index])
    return parts
