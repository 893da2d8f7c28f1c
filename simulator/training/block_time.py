"""Time of one block: its Ops priced and run on streams, so that what overlaps and what is exposed is found out."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from simulator.constants import Trust, both
from simulator.cost.device import DeviceCost
from simulator.cost.host import HostCost
from simulator.cost.network import CommGroup, NetworkCost
from simulator.cost.priced import Priced
from simulator.cost.tiers import TierCost
from simulator.engine.streams import run_streams, run_streams_with_interference
from simulator.strategies.rank_layout import RankLayout
from simulator.training.block_program import (
    COMMUNICATION,
    BlockProgram,
    is_pipelined,
    is_waited_for,
    links_of,
    plain,
    steady_pair,
)
from simulator.training.shard_host import slices_of_pass
from simulator.training.sustained import UnderLoad
from simulator.workload.framework import Framework
from simulator.workload.ops import Block, Collective, Op, OpKind, Phase, Stream, Tier, Work
from simulator.workload.plan import base_axis
from simulator.workload.work import is_latent, local_experts, work_of

__all__ = ["BlockPricer", "PhaseTime", "PricedOp", "combine"]

CATEGORY_OF_AXIS = {
    "tp": "tensor_parallel",
    "cp": "context_parallel",
    "ep": "expert_parallel",
    "dpcp": "data_parallel",
    "edp": "data_parallel",
}

HOST_STREAMS = (Stream.H2D, Stream.D2H)


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

    def after(self, wait: float) -> PhaseTime:
        """This pass behind so many seconds in which the device waits for its host."""
        if not wait:
            return self
        parts = {**self.parts, "host": self.parts.get("host", 0.0) + wait}
        return replace(self, seconds=self.seconds + wait, parts=parts)


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
        self.scale = dict(scale or {})
        self.tiers = TierCost(layout.node, layout.plan.accelerators, scale)
        self.host = HostCost(framework, scale)
        self.host_ids = {c.id for c in self.host.constants}
        beside = framework.constants.get("compute_interference")
        self.interference_id = beside.id if beside else ""
        factor = 1.0 + (beside.value if beside else 0.0) * self.scale.get(self.interference_id, 1.0)
        self.interference: dict[tuple[Hashable, Hashable], float] = (
            {(Stream.COMPUTE, s): factor for s in (Stream.SCALE_UP, Stream.SCALE_OUT)} if factor > 1.0 else {}
        )
        self._base: BlockPricer | None = None
        self._moved: frozenset[str] = frozenset()
        self._load = UnderLoad(device)
        self._works: dict[int, tuple[Op, Work]] = {}
        self._programs: dict[tuple[int, str], tuple[Block, tuple[BlockProgram, ...]]] = {}
        self._ops: dict[int, tuple[Op, PricedOp]] = {}
        self._passes: dict[tuple[int, str], tuple[Block, PhaseTime]] = {}

    def moved(self, scale: Mapping[str, float]) -> BlockPricer:
        """The same pricer with the constants in ``scale`` multiplied: what does not rest on them keeps its price."""
        device, network = self.device.moved(scale), self.network.moved(scale)
        other = BlockPricer(device, network, self.layout, self.framework, both(self.scale, scale))
        other._base, other._moved = self, frozenset(scale)
        other._works, other._programs = self._works, self._programs
        return other

    def unmoved(self, constants: Iterable[str]) -> bool:
        """Whether what rests on ``constants`` is as it was before they were moved."""
        return self._moved.isdisjoint(constants)

    def price(self, op: Op) -> PricedOp:
        """One Op of one rank."""
        known = self._ops.get(id(op))
        if known is None:
            found = self._base.price(op) if self._base is not None else None
            if found is None or not self.unmoved(found.priced.constants):
                found = self._price(op)
            known = self._ops[id(op)] = (op, found)
        return known[1]

    def _price(self, op: Op) -> PricedOp:
        work = self.work(op)
        if op.kind in COMMUNICATION:
            group = self.layout.group(op.axis)
            priced = self._on_wire(work, group, op.wire.piece or work.message * op.wire.blocks)
        elif op.kind is OpKind.COPY and op.reads[0].tier is not op.writes[0].tier:
            priced = self._between_tiers(op, work)
        else:
            priced = self.device.price(work)
            if op.kind in (OpKind.GEMM, OpKind.GROUPED_GEMM):
                priced = self._load.gemm(priced, work, _accumulates(op))
            elif op.kind is OpKind.ATTENTION:
                priced = self._load.attention(priced, work)
        return PricedOp(op, priced, work.flops, work.bytes)

    def work(self, op: Op) -> Work:
        """Local work of an Op on one rank."""
        known = self._works.get(id(op))
        if known is None:
            ranks = self.layout.group(op.axis).ranks if op.kind in COMMUNICATION else 1
            known = self._works[id(op)] = (op, work_of(op, self.mesh, ranks))
        return known[1]

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
        work = replace(self.work(op), message=message, bytes=message)
        return self.network.price(work, self.layout.group(op.axis)).seconds

    def check_seconds(self, op: Op) -> float:
        """Time that the group of a collective checks it on the host before it may begin [s]."""
        return self.host.check(self.layout.group(op.axis)) if op.kind is OpKind.COLLECTIVE else 0.0

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
            found = self._base._pass(block, name, ops) if self._base is not None else None
            if found is None or not self.unmoved(found.constants):
                found = self._run(block, name, ops)
                if block.name == "head" and name in ("backward", "input_gradient"):
                    found = found.after(self.host.behind_loss)
            known = self._passes[key] = (block, found)
        return known[1]

    def _run(self, block: Block, name: str, ops: Sequence[Op]) -> PhaseTime:
        """The pass on its streams, or what one more layer adds where equal layers overlap each other."""
        if not ops:
            return PhaseTime()
        key = (id(block), name)
        if key not in self._programs:
            self._programs[key] = (block, steady_pair(ops) if is_pipelined(ops, self.framework) else (plain(ops),))
        found = [self.run(p, self.host_seconds(block, p.ops, p.copies)) for p in self._programs[key][1]]
        if len(found) == 1:
            return found[0]
        steady = combine(((found[1], 1.0), (found[0], -1.0)))
        parts = {k: v for k, v in steady.parts.items() if abs(v) > 1e-12 * steady.seconds}  # rounding of a difference
        return replace(steady, parts=parts)

    def stream(self, op: Op) -> Stream:
        """Where an Op runs: messages on the links that their group uses, what is waited for among the computation."""
        if is_waited_for(op, self.framework):
            return Stream.COMPUTE
        return self.layout.stream(op) if op.kind in COMMUNICATION else op.stream

    def run(self, program: BlockProgram, host: float) -> PhaseTime:
        """Ops on their streams, each after those it waits for; ``host`` seconds to launch them run beside.

        Where every gather waits for the device, nothing has been launched ahead and the two add up.
        """
        priced = [self.price(op) for op in program.ops]
        streams = [self.stream(op) for op in program.ops]
        durations = [p.priced.seconds for p in priced]
        busy = set(streams)
        beside = {pair: factor for pair, factor in self.interference.items() if set(pair) <= busy}
        duplex = self.tiers.slowdown() if set(HOST_STREAMS) <= busy else {}
        slowdown = beside | duplex
        if slowdown:
            schedule = run_streams_with_interference(durations, streams, program.after, slowdown)
        else:
            schedule = run_streams(durations, streams, program.after)
        waits = self.framework.waits_at_gathers and any(is_waited_for(op, self.framework) for op in program.ops)
        seconds = schedule.makespan + host if waits else max(schedule.makespan, host)
        parts = _exposed(priced, schedule.critical_path, schedule.start, schedule.end)
        if seconds > schedule.makespan:
            parts["host"] = parts.get("host", 0.0) + seconds - schedule.makespan
        floor = sum(p.priced.floor for p in priced if p.op.kind not in (*COMMUNICATION, OpKind.COPY))
        trust: dict[Trust, float] = {}
        for p in priced:
            trust[p.priced.trust] = trust.get(p.priced.trust, 0.0) + p.priced.seconds
        ids = {i for p in priced for i in p.priced.constants} | self.host_ids
        ids |= {self.interference_id} if beside else set()
        ids |= {self.tiers.duplex.id} if duplex else set()
        flops = sum(p.flops for p in priced)
        return PhaseTime(seconds, floor, parts, self._traffic(priced), trust, flops, frozenset(ids))

    def host_seconds(self, block: Block, ops: Sequence[Op], copies: int = 1) -> float:
        """Host time to launch a pass through ``copies`` of a block; only layers are launched faster than they run."""
        slices = self.host.slices(slices_of_pass(ops, self.framework, self.layout))
        if block.name != "layer":
            return slices
        passes = {op.phase: 1.0 for op in ops}
        if Phase.RECOMPUTE in passes:
            again = sum(op.phase is Phase.RECOMPUTE for op in block.backward)
            passes[Phase.RECOMPUTE] = min(1.0, again / max(1, len(block.forward)))
        groups = [self.layout.group(op.axis) for op in ops if op.kind is OpKind.COLLECTIVE]
        experts = next((local_experts(op, self.mesh) for op in block.forward if op.kind is OpKind.GROUPED_GEMM), 0)
        return self.host.layer(passes, copies, groups, experts, is_latent(block)) + slices

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


def _accumulates(op: Op) -> bool:
    """Whether a GEMM adds its result to a gradient in fp32 instead of writing one in 16 bits."""
    return op.phase is Phase.WEIGHT_GRADIENT and op.writes[0].dtype == "fp32"


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
