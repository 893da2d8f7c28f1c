"""Slices of every expert on the ranks of data-parallel attention, whose tokens are gathered for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from simulator.registry import register
from simulator.strategies.expert.exchange import FFN, ROUTED, collective
from simulator.strategies.protocols import PassStage
from simulator.workload.framework import Framework
from simulator.workload.model import ModelSpec
from simulator.workload.operators import JOINS
from simulator.workload.ops import Block, Collective, Dim, Op, Tensor, TensorClass
from simulator.workload.plan import Plan

__all__ = ["GatheredSlices"]

WIDTHS = ("ffn", FFN)
TOKENS = ("seq", ROUTED)


@register(
    "gathered-slices",
    kind="pass",
    area="serving",
    family="expert",
    cites=("SGLang v0.4 blog (data-parallel attention for DeepSeek models), lmsys.org/blog/2024-12-04-sglang-v0-4",),
    validated_by="closed_form",
)
class GatheredSlices:
    """Feed-forward layers cut over the ranks of data-parallel attention: gathered tokens in, a reduce-scatter behind.

    ``expert_parallel`` equals ``data_parallel`` and says over how many ranks; no rank has an expert whole. Each takes
    1/n of the width for the tokens of all n, as plain tensor parallelism does: where few tokens come to every expert,
    more experts are touched on a rank than if it had 1/n of them whole. Per layer, gather and reduce-scatter move
    2·(n − 1)/n·tokens·h numbers per rank, with n times the tokens of one.
    """

    name: str
    stage = PassStage.PARTITION

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """Equal degrees that divide every width; heads are not cut."""
        ranks = plan.expert_parallel
        if ranks != plan.data_parallel or plan.tensor_parallel > 1:
            return (
                f"expert gathered-slices needs expert_parallel {ranks} = data_parallel {plan.data_parallel} and "
                f"tensor_parallel 1 instead of {plan.tensor_parallel}"
            )
        for layer, _ in model.layers:
            mlp = layer.mlp
            widths = () if mlp is None else (mlp.moe_intermediate_size, mlp.shared_intermediate_size)
            for width in widths if mlp is None or mlp.is_moe else (mlp.intermediate_size,):
                if width % ranks:
                    return f"expert_parallel {ranks} does not divide the width {width} of {model.name}"
        return ""

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """Cut the widths, multiply the tokens, exchange at both ends."""
        ranks = plan.expert_parallel
        span = _feed_forward(block.forward) if ranks > 1 else None
        if span is None:
            return block
        inside = [_recut(op, ranks) for op in block.forward[span]]
        first, last = block.forward[span][0], block.forward[span][-1]
        source, target = first.reads[0], last.writes[0]
        whole, partial = inside[0].reads[0], inside[-1].writes[0]
        forward = (
            *block.forward[: span.start],
            collective(first, "tokens.all_gather", Collective.ALL_GATHER, "ep", source, whole),
            *inside,
            collective(last, "tokens.reduce_scatter", Collective.REDUCE_SCATTER, "ep", partial, target),
            *block.forward[span.stop :],
        )
        return replace(block, forward=forward, backward=())


def _feed_forward(ops: Sequence[Op]) -> slice | None:
    """Where the Ops between the norm and the addition of the feed-forward part are; nothing without one."""
    wide = [i for i, op in enumerate(ops) if any(d in WIDTHS for d in op.dim_names)]
    if not wide:
        return None
    stream = [i for i, op in enumerate(ops) if op.residual and JOINS not in op.tags]
    start = max((i + 1 for i in stream if i < wide[0]), default=0)
    stop = min((i for i in stream if i > wide[-1]), default=len(ops))
    return slice(start, stop)


def _recut(op: Op, ranks: int) -> Op:
    """``op`` on the tokens of all ranks and its rank's part of the width."""

    def dim(one: Dim) -> Dim:
        return Dim(one.name, tuple((n * ranks, size) for n, size in one.parts)) if one.name in TOKENS else one

    def gathered(tensor: Tensor) -> Tensor:
        wider = replace(tensor, dims=tuple(map(dim, tensor.dims)))
        return replace(wider, name=f"{tensor.name}|all") if tensor.cls is TensorClass.ACTIVATION else wider

    found = replace(
        op,
        reads=tuple(map(gathered, op.reads)),
        writes=tuple(map(gathered, op.writes)),
        saves=(),
        flop_dims=tuple(map(dim, op.flop_dims)),
    )
    for width in WIDTHS:
        found = found.shard(width, "ep")
    return found
