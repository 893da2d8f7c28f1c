"""Served experts whole on tensor-parallel ranks, as engines place them without data-parallel attention."""

from __future__ import annotations

from dataclasses import replace

from simulator.registry import register
from simulator.strategies.expert.exchange import INSIDE, ROUTED
from simulator.strategies.protocols import PassStage
from simulator.workload.framework import Framework
from simulator.workload.model import ModelSpec
from simulator.workload.ops import Block, Dim, Op, OpKind, Tensor
from simulator.workload.plan import Plan

__all__ = ["TensorRankExperts"]

FFN = "expert_ffn"


@register(
    "tensor-ranks",
    kind="pass",
    area="serving",
    family="expert",
    cites=("vLLM expert parallel deployment, docs.vllm.ai serving/expert_parallel_deployment",),
    validated_by="closed_form",
)
class TensorRankExperts:
    """Each tensor-parallel rank keeps 1/t of the experts whole instead of a slice of every one.

    ``expert_parallel`` equals ``tensor_parallel``. All ranks hold all tokens, so nothing is exchanged: the sum over
    ranks that tensor parallelism does anyway also joins the experts. FLOPs and bytes of the weights stay; the GEMMs
    are wider and fewer. The load is taken as balanced.
    """

    name: str
    stage = PassStage.PARTITION

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """Equal degrees that divide the experts."""
        ranks = plan.expert_parallel
        if ranks != plan.tensor_parallel:
            return (
                f"expert tensor-ranks needs expert_parallel {ranks} = tensor_parallel {plan.tensor_parallel}; for "
                "experts over data-parallel attention leave the option out"
            )
        for layer, _ in model.layers:
            if layer.mlp is not None and layer.mlp.is_moe and layer.mlp.num_experts % ranks:
                return f"expert_parallel {ranks} does not divide the {layer.mlp.num_experts} experts of {model.name}"
        return ""

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """Re-cut the routed part of a layer."""
        return block.map(lambda op: _recut(op, plan.expert_parallel)) if plan.expert_parallel > 1 else block


def _recut(op: Op, ranks: int) -> Op:
    inside = any(part in op.name for part in INSIDE) and op.kind is not OpKind.COLLECTIVE
    if not inside and ROUTED not in op.dim_names:
        return op

    def dim(one: Dim) -> Dim:
        return Dim.of(ROUTED, -(-one.size // ranks)) if one.name == ROUTED else one

    def cut(tensor: Tensor) -> Tensor:
        kept = tuple((name, axis) for name, axis in tensor.sharding if name != FFN)
        return replace(tensor, dims=tuple(map(dim, tensor.dims)), sharding=kept)

    whole = replace(
        op,
        reads=tuple(map(cut, op.reads)),
        writes=tuple(map(cut, op.writes)),
        saves=tuple(map(cut, op.saves)),
        flop_dims=tuple(map(dim, op.flop_dims)),
        sharding=tuple((name, axis) for name, axis in op.sharding if name != FFN),
    )
    return whole.shard("experts", "ep")
