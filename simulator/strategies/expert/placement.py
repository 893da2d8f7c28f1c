"""Placement of experts by load: other ranks (SmartMoE), more copies (FlexMoE), and what a change of plan costs."""

from __future__ import annotations

from dataclasses import replace

from simulator.registry import Claim, register
from simulator.strategies.expert.exchange import ExpertExchange, Layer, Rows, layer_of
from simulator.strategies.expert.routing import (
    balanced_placement,
    imbalance,
    placement,
    rank_loads,
    replicas,
    routing_shares,
)
from simulator.workload.framework import Framework
from simulator.workload.model import ModelSpec
from simulator.workload.ops import Block, Collective, Dim, Op, OpKind, Phase, Stream, Tensor
from simulator.workload.plan import Plan

__all__ = ["PlacedExperts", "ReplicatedExperts"]

STATE_COPIES = 7
"""A moved expert takes parameters (2 B), fp32 master and two moments (12 B) along: 7 times its 16-bit parameters."""


def _every(plan: Plan) -> int:
    return max(1, int(str(plan.option("replan_every", 100))))


def _migration(block: Block, layer: Layer, plan: Plan, experts: float) -> Block:
    """The switch cost, spread over the steps between two plans: ``experts`` per rank with all their states."""
    weights = tuple(t for t in block.parameters if "experts" in t.dim_names)
    elements = (
        STATE_COPIES
        * experts
        * sum(t.elements() for t in weights)
        / layer.experts
        / plan.tensor_parallel
        / _every(plan)
    )
    if elements < 1:
        return block
    moved = Tensor(f"{layer.name}.moved", weights[0].cls, (Dim.of("moved", round(elements)),), weights[0].dtype)
    send = Op(
        f"{layer.name}.migration",
        OpKind.P2P,
        Phase.OPTIMIZER,
        moved.dtype,
        (moved,),
        (replace(moved, name=f"{moved.name}.in"),),
        collective=Collective.SEND_RECV,
        axis="ep",
        stream=Stream.SCALE_OUT,
    )
    return replace(block, reduce=(*block.reduce, send))


@register(
    "smartmoe",
    kind="pass",
    area="training",
    family="expert",
    cites=("Zhai et al. 2023 (SmartMoE), USENIX ATC'23",),
    catalogue=("SmartMoE",),
    claims=(Claim("up to 1.88 times FasterMoE on up to 64 GPUs", "USENIX ATC 2023 abstract"),),
    validated_by="ratio",
)
class PlacedExperts(ExpertExchange):
    """Experts are put on ranks by measured load every ``replan_every`` steps (100); moving them costs their bytes."""

    def loads(self, experts: int, plan: Plan) -> list[float]:
        """Loads after placing the heaviest first."""
        shares = routing_shares(plan.option("routing", "uniform"), experts)
        best = rank_loads(shares, balanced_placement(shares, plan.expert_parallel), plan.expert_parallel)
        return min(best, super().loads(experts, plan), key=imbalance)  # the plan in force stays if it is as good

    def extend(self, block: Block, layer: Layer, plan: Plan) -> Block:
        """Add the moves."""
        shares = routing_shares(plan.option("routing", "uniform"), layer.experts)
        old, new = placement(plan, layer.experts), balanced_placement(shares, plan.expert_parallel)
        if imbalance(self.loads(layer.experts, plan)) >= imbalance(super().loads(layer.experts, plan)):
            return block
        return _migration(block, layer, plan, sum(a != b for a, b in zip(old, new, strict=True)) / plan.expert_parallel)


@register(
    "flexmoe",
    kind="pass",
    area="training",
    family="expert",
    cites=("Nie et al. 2023 (FlexMoE), arXiv 2304.03946",),
    catalogue=("FlexMoE",),
    claims=(Claim("1.70 times DeepSpeed on average, up to 2.10", "arXiv 2304.03946 abstract"),),
    validated_by="ratio",
)
class ReplicatedExperts(ExpertExchange):
    """Every rank has ``expert_slots`` (1) more places for copies of hot experts, which all-reduce their gradients."""

    def slots(self, plan: Plan) -> int:
        """Further experts per rank."""
        return int(str(plan.option("expert_slots", 1)))

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """Slots are counted."""
        if self.slots(plan) < 0:
            return f"expert_slots {self.slots(plan)} is negative; use 0 for none or 1 and more"
        return super().check(model, plan)

    def loads(self, experts: int, plan: Plan) -> list[float]:
        """Loads with copies of the hottest experts."""
        ranks = plan.expert_parallel
        shares = routing_shares(plan.option("routing", "uniform"), experts)
        instances = replicas(shares, self.slots(plan) * ranks)
        return min(
            rank_loads(instances, balanced_placement(instances, ranks), ranks),
            super().loads(experts, plan),
            key=imbalance,
        )

    def rows(self, layer: Layer, plan: Plan) -> Rows:
        """What skew is left."""
        skew = imbalance(self.loads(layer.experts, plan))
        return Rows(1.0, skew, skew)

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """As usual, with more experts on every rank."""
        layer = layer_of(block)
        extra = self.slots(plan) * plan.expert_parallel
        if layer is None or plan.expert_parallel == 1 or not extra:
            return super().apply(block, plan, framework)
        more = block.map(lambda op: _more_experts(op, layer.experts, extra))
        made = super().apply(more, plan, framework)
        weights = tuple(t for t in made.parameters if "experts" in t.dim_names)
        copies = tuple(
            replace(
                t,
                name=f"{t.name}.copies",
                dims=tuple(Dim.of("copies", self.slots(plan)) if d.name == "experts" else d for d in t.dims),
            )
            for t in weights
        )
        reduce = Op(
            f"{layer.name}.copies.all_reduce",
            OpKind.COLLECTIVE,
            Phase.OPTIMIZER,
            copies[0].dtype,
            copies,
            copies,
            collective=Collective.ALL_REDUCE,
            axis="ep",
            stream=Stream.SCALE_OUT,
        )
        return _migration(replace(made, reduce=(*made.reduce, reduce)), layer, plan, float(self.slots(plan)))


def _more_experts(op: Op, experts: int, extra: int) -> Op:
    def widened(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(
            replace(t, dims=tuple(Dim.of("experts", experts + extra) if d.name == "experts" else d for d in t.dims))
            for t in tensors
        )

    return replace(op, reads=widened(op.reads), writes=widened(op.writes), saves=widened(op.saves))
