"""Context parallelism that gathers all keys and values before attention."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from simulator.registry import register
from simulator.strategies.context.recurrent import pass_states
from simulator.strategies.context.tokens import AXIS, key_value, packed_key_value, query, shard_tokens
from simulator.strategies.protocols import PassStage
from simulator.workload.framework import Framework
from simulator.workload.model import ModelSpec
from simulator.workload.ops import Block, Collective, Op, OpKind, Phase, Stream, Tensor, TensorClass
from simulator.workload.plan import Plan

__all__ = ["ContextAllGather"]


@register(
    "megatron-allgather",
    kind="pass",
    area="training",
    family="context",
    cites=("Grattafiori et al. 2024 (Llama 3), arXiv 2407.21783 §3.3.2", "Sun et al. 2025 (LASP-2), arXiv 2502.07563"),
    catalogue=("Ring / Colossal sequence parallelism",),
    validated_by="closed_form",
)
class ContextAllGather:
    """Gather keys and values, attend, and reduce-scatter their gradients; nothing hides behind the attention itself.

    The tokens of a rank are a front chunk and its mirror image, so causal work is equal. Of recurrent mixers the states
    are gathered (LASP-2, arXiv 2502.07563).
    """

    name: str
    stage = PassStage.PARTITION

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """Any model."""
        return ""

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """Cut the tokens and surround each fused attention with its collectives."""
        if plan.context_parallel == 1:
            return block
        cut = shard_tokens(block)
        ranks = plan.context_parallel
        forward = tuple(s for op in cut.forward for made in _around(op) for s in pass_states(made, ranks, 2, "gather"))
        backward = tuple(
            s for op in cut.backward for made in _around(op) for s in pass_states(made, ranks, 2, "gather")
        )
        return replace(cut, forward=forward, backward=backward)


def _collective(op: Op, kind: Collective, reads: Tensor, writes: Tensor) -> Op:
    return Op(
        f"{op.name}.kv.{kind}",
        OpKind.COLLECTIVE,
        op.phase,
        reads.dtype,
        (reads,),
        (writes,),
        collective=kind,
        axis=AXIS,
        stream=Stream.SCALE_UP,
        recomputable=op.recomputable,
    )


def _around(op: Op) -> Iterator[Op]:
    scores = "batched" in op.tags and op.name.endswith((".scores", ".values.backward.0"))
    if op.kind is not OpKind.ATTENTION and not scores:
        yield op
        return
    if scores:  # kernels of separate matrices: the same gather ahead of the first that needs all keys
        local = packed_key_value(op)
        whole = replace(local.gathered(AXIS), name=f"{local.name}|all")
        yield _collective(op, Collective.ALL_GATHER, local, whole)
        yield replace(op, reads=(*op.reads, whole))
        return
    local = key_value(op)
    whole = replace(local.gathered(AXIS), name=f"{local.name}|all")
    yield _collective(op, Collective.ALL_GATHER, local, whole)
    if op.phase is not Phase.BACKWARD:
        weights = tuple(t for t in op.reads if t.cls is TensorClass.PARAM)
        yield replace(op, reads=(query(op), whole, *weights))
        return
    kept = tuple(t for t in op.reads if t.name.endswith((".grad", ".context", ".logsumexp")))
    gradient, summed = replace(whole, name=f"{op.name}.dkv"), replace(local, name=f"{op.name}.dkv|sum")
    query_gradient = replace(query(op), name=f"{op.name}.query.grad")
    yield replace(op, reads=(query(op), whole, *kept), writes=(query_gradient, gradient))
    yield _collective(op, Collective.REDUCE_SCATTER, gradient, summed)
    yield Op(
        f"{op.name}.join",
        OpKind.ELEMENTWISE,
        op.phase,
        op.dtype,
        (summed, query_gradient),
        op.writes,
        op.writes[0].dims,
        1.0,
        sharding=op.sharding,
    )
