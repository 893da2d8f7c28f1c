"""1-D tensor parallelism with optional sequence parallelism, as in Megatron-LM."""

from __future__ import annotations

from dataclasses import replace

from simulator.registry import Claim, register
from simulator.strategies.protocols import PassStage
from simulator.strategies.tensor.chunks import REDUCTION_CHUNKS, chunked
from simulator.strategies.tensor.layout import beside_backward_gemms, insert_collectives
from simulator.workload.framework import Framework
from simulator.workload.lowering_layout import without_groups
from simulator.workload.model import ModelSpec
from simulator.workload.ops import Block, Collective, Op, Stream
from simulator.workload.plan import Plan

__all__ = ["MegatronTensorParallel"]

SHARDED_DIMS = ("heads", "kv_heads", "ffn", "expert_ffn", "vocab")
"""Dimensions cut over tensor-parallel ranks. Column- and row-parallel GEMMs follow from the names: whoever
produces ``heads`` or ``ffn`` is column-parallel, whoever contracts it is row-parallel."""


@register(
    "megatron-1d",
    kind="pass",
    area="training",
    family="tensor",
    cites=("Shoeybi et al. 2019, arXiv 1909.08053", "Korthikanti et al. 2022, arXiv 2205.05198"),
    catalogue=("Megatron-LM 1-D TP", "Megatron sequence parallelism (Korthikanti)", "GSPMD / Mesh-TF"),
    claims=(
        Claim(
            "activation bytes per layer sbh(10+24/t+5as/(ht)) and, with sequence parallelism, sbh(34+5as/h)/t",
            "arXiv 2205.05198 table 2",
        ),
    ),
    validated_by="published",
)
class MegatronTensorParallel:
    """Cut heads, MLP width and vocabulary over neighbouring ranks; two all-reduces per layer and direction."""

    name: str
    stage = PassStage.PARTITION

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """Heads must divide; KV heads may be fewer than the degree (they are then replicated)."""
        t = plan.tensor_parallel
        for layer, _ in model.layers:
            for mixer in (layer.attention, layer.cross_attention):
                if mixer is not None and mixer.num_attention_heads % t:
                    heads = mixer.num_attention_heads
                    works = ", ".join(str(d) for d in range(1, heads + 1) if heads % d == 0 and d <= 64)
                    return f"tensor_parallel {t} does not divide the {heads} attention heads; degrees that do: {works}"
        return ""

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """Shard the dimensions, then insert the collectives they imply, in chunks if the framework pipelines them."""
        whole = self.laid_out(block, plan, framework)
        # Transformer Engine's user buffers pipeline gathers and reductions along the sequence, no all-reduces.
        if plan.tensor_parallel == 1 or not (framework.tensor_parallel_overlap and plan.sequence_parallel):
            return whole
        # A reduction that has the next GEMM to hide beside is not cut.
        behind = 1 if framework.overlaps_linear_backward else REDUCTION_CHUNKS
        return replace(
            whole,
            forward=tuple(chunked(whole.forward, plan.tensor_parallel, REDUCTION_CHUNKS)),
            backward=tuple(chunked(whole.backward, plan.tensor_parallel, behind)),
        )

    def laid_out(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """The layout with whole collectives."""
        if plan.tensor_parallel == 1:
            return block
        sharded = block.map(lambda op: without_groups(_shard(op), plan.tensor_parallel))
        split = plan.sequence_parallel
        saved = frozenset(t.name for op in sharded.forward if op.residual for t in op.writes)
        inputs = frozenset({block.boundary.name} if split and block.name not in ("embedding",) else ())
        stream = Stream.SCALE_UP if framework.tensor_parallel_overlap else Stream.COMPUTE
        forward = insert_collectives(sharded.forward, "tp", split_residual=split, split_inputs=inputs, stream=stream)
        # In the backward the stream's gradient arrives split, and so do tensors that were saved split and the gradients
        # of what was reduced to shards. An addition has no kernel of its own there: what it added has the stream's
        # gradient.
        added = frozenset(t.name for op in sharded.forward if op.residual and len(op.reads) > 1 for t in op.reads)
        reduced = frozenset(t.name for op in forward if op.collective is Collective.REDUCE_SCATTER for t in op.writes)
        known = inputs | saved | frozenset(f"{n}.grad" for n in saved | inputs | added | reduced)
        backward = insert_collectives(sharded.backward, "tp", split_residual=split, split_inputs=known, stream=stream)
        if framework.overlaps_linear_backward:
            backward = beside_backward_gemms(backward)
        boundary = sharded.boundary.sharded("seq", "tp") if inputs else sharded.boundary
        return replace(sharded, forward=forward, backward=backward, boundary=boundary)


def _shard(op: Op) -> Op:
    for dim in SHARDED_DIMS:
        op = op.shard(dim, "tp")
    return op
