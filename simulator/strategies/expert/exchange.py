"""The frame of expert parallelism: experts on ranks, rows exchanged before and after them, forward and backward.

Rows are (token, expert) pairs. Where the load is balanced a rank's rows stay as many as they were, so FLOPs are
conserved; capacity, block rounding and skew scale the rows at the experts, and memory, FLOPs and messages follow.

With tensor parallelism its ranks share the tokens: each sends its slice of the rows, the slices are gathered before
the experts (whose width is cut) and the partial sums reduce-scattered behind them, as Megatron's dispatcher does. With
``expert_tensor_parallel`` 1 the experts are spread over those ranks too and stay whole: nothing is gathered (MoE
Parallel Folding, arXiv 2504.14960).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from simulator.strategies.expert.routing import imbalance, placement, rank_loads, routing_shares
from simulator.strategies.protocols import PassStage
from simulator.workload.framework import Framework
from simulator.workload.model import ModelSpec
from simulator.workload.ops import Block, Collective, Dim, Op, OpKind, Phase, Sharding, Stream, Tensor
from simulator.workload.plan import Plan

__all__ = ["ExpertExchange", "Rows", "collective", "redundant_experts"]

ROUTED = "routed"
FFN = "expert_ffn"
INSIDE = (".expert_up", ".expert_act", ".expert_down")


@dataclass(frozen=True)
class Rows:
    """Rows relative to the mean: made by the sender, on the wire, at the experts of the busiest rank."""

    sent: float = 1.0
    wire: float = 1.0
    experts: float = 1.0


@dataclass(frozen=True)
class Layer:
    """What the exchange of one mixture-of-experts block needs to know."""

    name: str
    experts: int
    per_token: int
    rows: int
    hidden: int


def layer_of(block: Block) -> Layer | None:
    """The mixture in ``block``, or None."""
    for op in block.forward:
        if op.kind is OpKind.GROUPED_GEMM and op.name.endswith(".expert_up"):
            rows = next(d for d in op.flop_dims if d.name == ROUTED).size
            hidden = next(d for d in op.flop_dims if d.name == "hidden").size
            return Layer(
                op.name.removesuffix(".expert_up"), int(op.tags["experts"]), int(op.tags["per_token"]), rows, hidden
            )
    return None


def resized(tensor: Tensor, factor: float) -> Tensor:
    """The tensor with ``factor`` times its rows."""
    return tensor if factor == 1.0 else replace(tensor, dims=tuple(_scaled(d, factor) for d in tensor.dims))


def _scaled(dim: Dim, factor: float) -> Dim:
    if dim.name != ROUTED:
        return dim
    return Dim(dim.name, tuple((math.ceil(units * factor - 1e-9), size) for units, size in dim.parts))


def _without_width(sharding: Sharding) -> Sharding:
    return tuple((dim, axis) for dim, axis in sharding if dim != FFN)


def collective(op: Op, name: str, kind: Collective, axis: str, reads: Tensor, writes: Tensor) -> Op:
    """A collective of the same phase as ``op``."""
    return Op(
        f"{op.name}.{name}",
        OpKind.COLLECTIVE,
        op.phase,
        reads.dtype,
        (reads,),
        (writes,),
        collective=kind,
        axis=axis,
        stream=Stream.SCALE_UP,
    )


def redundant_experts(plan: Plan) -> int:
    """Copies of experts that take slots beside the model's own; below 0 where the option is no number.

    Balanced loads need no copy; they are weights that a rank holds, and let a number of ranks work that does not divide
    the experts (32 copies beside 256 experts on 144 ranks: deepseek-ai/open-infra-index @56d8685, day 6).
    """
    asked = plan.option("redundant_experts", 0)
    return asked if isinstance(asked, int) and not isinstance(asked, bool) else -1


def _with_slots(op: Op, slots: int) -> Op:
    """``op`` on weights of as many experts as there are slots."""

    def wider(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(
            replace(t, dims=tuple(Dim.of(d.name, slots) if d.name == "experts" else d for d in t.dims)) for t in tensors
        )

    return replace(op, reads=wider(op.reads), writes=wider(op.writes), saves=wider(op.saves))


def _sort(op: Op, reads: Tensor, writes: Tensor) -> Op:
    """Rows from the order of their senders to that of the local experts, or back."""
    return Op(f"{op.name}.sort", OpKind.ELEMENTWISE, op.phase, reads.dtype, (reads,), (writes,))


class ExpertExchange:
    """Common part of the strategies that move tokens to experts; they say how many rows and over which wires."""

    name: str
    stage = PassStage.PARTITION
    sorts_arrived_rows = True
    """Whether rows arrive ordered by sender, so that a framework whose experts want them in order has to sort them."""

    # -- what a strategy chooses -----------------------------------------------------------------------------------

    def rows(self, layer: Layer, plan: Plan) -> Rows:
        """Rows on the three legs; here the skew of the routing only."""
        skew = imbalance(self.loads(layer.experts, plan))
        return Rows(1.0, skew, skew)

    def wires(self, op: Op, layer: Layer, plan: Plan, read: Tensor, write: Tensor, inward: bool) -> Iterator[Op]:
        """Collectives that turn ``read`` into ``write``; ``inward`` towards the experts, in either pass."""
        yield collective(op, "all_to_all", Collective.ALL_TO_ALL, "ep", read, write)

    def extend(self, block: Block, layer: Layer, plan: Plan) -> Block:
        """Further changes of a block whose exchange is in place."""
        return block

    # -- what they share -------------------------------------------------------------------------------------------

    def loads(self, experts: int, plan: Plan) -> list[float]:
        """Share of the rows by rank."""
        shares = routing_shares(plan.option("routing", "uniform"), experts)
        return rank_loads(shares, placement(plan, experts), plan.expert_parallel)

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """Experts must divide, and the routing must be readable."""
        moe = [layer.mlp for layer, _ in model.layers if layer.mlp is not None and layer.mlp.is_moe]
        ranks = plan.expert_parallel
        if not moe:
            return (
                f"expert_parallel {ranks}: {model.name} has no routed experts; use expert_parallel 1"
                if ranks > 1
                else ""
            )
        copies = redundant_experts(plan)
        if copies < 0:
            return f"redundant_experts {plan.option('redundant_experts')!r} is not a whole number of copies"
        for spec in moe:
            if copies and (spec.num_experts + copies) % ranks:
                slots, right = f"{spec.num_experts} experts and {copies} copies", -spec.num_experts % ranks
                return f"expert_parallel {ranks} does not divide {slots}; use redundant_experts {right}"
            if spec.num_experts % ranks and not copies:
                works = ", ".join(str(d) for d in range(1, spec.num_experts + 1) if spec.num_experts % d == 0)
                return (
                    f"expert_parallel {ranks} does not divide the {spec.num_experts} experts; degrees that do: {works}"
                )
            try:
                routing_shares(plan.option("routing", "uniform"), spec.num_experts)
            except ValueError as error:
                return str(error)
        return ""

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """Experts on their ranks, exchanges around them."""
        layer = layer_of(block)
        if layer is None:
            return block
        slots = layer.experts + redundant_experts(plan)
        held = block.map(lambda op: _with_slots(op, slots)) if slots > layer.experts else block
        cut = held.map(lambda op: op.shard("experts", "ep")) if plan.expert_parallel > 1 else held
        several = slots > plan.expert_parallel
        walk = _Walk(
            self, layer, plan, self.rows(layer, plan),
            sorts=framework.sorts_arrived_rows and self.sorts_arrived_rows and several,
        )  # fmt: skip
        moved = replace(cut, forward=tuple(walk.run(cut.forward)), backward=tuple(walk.run(cut.backward)))
        return self.extend(moved, layer, plan)


class _Walk:
    """One walk over the Ops of a block in program order."""

    def __init__(self, strategy: ExpertExchange, layer: Layer, plan: Plan, rows: Rows, sorts: bool) -> None:
        self.strategy, self.layer, self.plan, self.rows, self.sorts = strategy, layer, plan, rows, sorts
        base = layer.name
        inward, outward = f"{base}.dispatch.out", f"{base}.expert_down.out"
        self.edges = {inward, outward, f"{inward}.grad", f"{outward}.grad"}
        self.arrive = {inward, f"{outward}.grad"}
        self.leave = {outward, f"{inward}.grad"}
        self.spread = plan.expert_parallel > 1
        self.tensor_ranks = self.spread and plan.tensor_parallel > 1
        self.folded = plan.folds_experts

    def run(self, ops: tuple[Op, ...]) -> Iterator[Op]:
        """The Ops with exchanges."""
        arrived: set[str] = set()
        finish: Op | None = None  # tokens-side Op whose partial sums became slices: the reduction behind it changes
        for op in ops:
            if finish is not None:
                yield from self._joined(finish, op)
                finish = None
                continue
            if not op.name.startswith(tuple(self.layer.name + part for part in INSIDE)):
                outside = self._outside(op)
                if self.tensor_ranks and ROUTED in op.dim_names and op.writes[0].name.endswith("|partial"):
                    finish = outside
                else:
                    yield outside
                continue
            for tensor in op.reads if self.spread else ():
                saved = op.phase is Phase.WEIGHT_GRADIENT  # what a weight gradient reads has been on the experts' side
                if tensor.name in self.arrive and tensor.name not in arrived and not saved:
                    arrived.add(tensor.name)
                    yield from self._exchange(op, tensor, inward=True)
            yield self._inside(op)
            for tensor in op.writes if self.spread else ():
                if tensor.name in self.leave:
                    yield from self._exchange(op, tensor, inward=False)

    def _edge(self, tensor: Tensor, factor: float) -> Tensor:
        """A row tensor on the tokens' side: a slice of the rows for each tensor-parallel rank."""
        sized = resized(tensor, factor)
        return sized.sharded(ROUTED, "tp") if self.tensor_ranks else sized

    def _experts_side(self, tensor: Tensor) -> Tensor:
        sized = resized(tensor, self.rows.experts)
        if self.folded:  # whole experts: a slice of the rows for each tensor-parallel rank instead of one of the width
            sized = replace(sized, sharding=_without_width(sized.sharding)).sharded(ROUTED, "tp")
        edge = self.spread and tensor.name in self.edges
        return replace(sized, name=f"{tensor.name}|experts") if edge else sized

    def _inside(self, op: Op) -> Op:
        def side(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return tuple(self._experts_side(t) for t in tensors)

        dims = tuple(_scaled(d, self.rows.experts) for d in op.flop_dims)
        sized = replace(op, reads=side(op.reads), writes=side(op.writes), saves=side(op.saves), flop_dims=dims)
        if self.folded:
            sized = replace(sized, sharding=_without_width(sized.sharding))
        return sized.shard(ROUTED, "tp") if self.folded else sized

    def _outside(self, op: Op) -> Op:
        """Dispatch, combine and their backward: as many rows as are sent, sliced over tensor-parallel ranks."""
        if ROUTED not in op.dim_names:
            return op
        factor = self.rows.sent

        def side(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return tuple(resized(t, factor) for t in tensors)

        sized = replace(
            op,
            reads=side(op.reads),
            writes=side(op.writes),
            saves=side(op.saves),
            flop_dims=tuple(_scaled(d, factor) for d in op.flop_dims),
        )
        return sized.shard(ROUTED, "tp") if self.tensor_ranks else sized

    def _exchange(self, op: Op, tensor: Tensor, *, inward: bool) -> Iterator[Op]:
        """The wires between the tokens' side and the experts' side of ``tensor``, and the sort at the experts' end."""
        experts = self._experts_side(tensor)
        edge, wired = (
            self._edge(tensor, self.rows.wire),
            replace(experts, name=f"{tensor.name}|slice").sharded(ROUTED, "tp"),
        )
        end = replace(experts, name=f"{tensor.name}|by_sender") if self.sorts else experts
        if self.sorts and not inward:
            yield _sort(op, experts, end)
        if not self.tensor_ranks or self.folded:
            read, write = (edge, end) if inward else (replace(edge, name=end.name), edge)
            yield from self.strategy.wires(op, self.layer, self.plan, read, write, inward)
        elif inward:
            yield from self.strategy.wires(op, self.layer, self.plan, edge, wired, inward)
            yield collective(op, "rows.all_gather", Collective.ALL_GATHER, "tp", wired, end)
        else:
            yield collective(op, "rows.reduce_scatter", Collective.REDUCE_SCATTER, "tp", end, wired)
            back = replace(edge, name=wired.name)
            yield from self.strategy.wires(op, self.layer, self.plan, back, edge, inward)
        if self.sorts and inward:
            yield _sort(op, end, experts)

    def _joined(self, op: Op, reduction: Op) -> Iterator[Op]:
        """Slices of tokens instead of partial sums: nothing to add up, at most to join."""
        result = reduction.writes[0]
        if reduction.collective is Collective.REDUCE_SCATTER:
            yield replace(op, writes=(result, *op.writes[1:]))
            return
        piece = replace(result, name=f"{result.name}|slice").sharded("seq", "tp")
        yield replace(op, writes=(piece, *op.writes[1:]))
        yield collective(op, "tokens.all_gather", Collective.ALL_GATHER, "tp", piece, result)
