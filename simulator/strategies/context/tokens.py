"""What every form of context parallelism shares: cutting tokens, and the queries, keys and values of attention."""

from __future__ import annotations

from dataclasses import replace

from simulator.workload.lowering_attention import CORE_ATTENTION, mean_context, part_of
from simulator.workload.ops import Block, Dim, Op, OpKind, Phase, Tensor, TensorClass

__all__ = [
    "AXIS",
    "busiest_context",
    "core_of",
    "is_fused",
    "key_value",
    "packed_key_value",
    "query",
    "shard_tokens",
]

AXIS = "cp"
TOKEN_DIMS = ("seq", "encoder_seq", "routed")
"""Dimensions that grow with the number of tokens. Blocks are lowered with the whole sequence: the mean number of keys
a query sees is that of the whole sequence, so FLOPs are conserved when the queries are cut."""


def shard_tokens(block: Block) -> Block:
    """The block with its tokens spread over ``cp``."""

    def cut(op: Op) -> Op:
        for dim in TOKEN_DIMS:
            op = op.shard(dim, AXIS)
        return op

    return replace(block.map(cut), boundary=block.boundary.sharded("seq", AXIS))


def core_of(block: Block) -> frozenset[str]:
    """Names of the forward Ops between the projections of a mixer: softmax attention, or convolution and scan."""
    return frozenset(
        op.name for op in block.forward if op.recomputable == CORE_ATTENTION or "taps" in op.tags or "state" in op.tags
    )


def query(op: Op) -> Tensor:
    """The queries an attention Op reads: its first operand, without keys and values that share the buffer."""
    assert op.attention is not None
    units = op.attention.q_heads.parts[0][0]
    source = op.reads[0]
    return replace(source, dims=(*source.dims[:-1], Dim(source.dims[-1].name, ((units, op.attention.head_dim),))))


def key_value(op: Op) -> Tensor:
    """Keys and values of the local tokens, as one message; named like the operand that is ready last."""
    shape = op.attention
    assert shape is not None
    source = [t for t in op.reads if t.cls is TensorClass.ACTIVATION and t.dims[2:]]
    source = [t for t in source if not t.name.endswith((".grad", ".context", ".logsumexp", "|heads"))] or source
    last = source[-1]
    units = shape.kv_heads.parts[0][0]
    return replace(
        last, dims=(*last.dims[:2], Dim(last.dims[-1].name, ((units, shape.head_dim), (units, shape.v_head_dim))))
    )


def packed_key_value(op: Op) -> Tensor:
    """Keys and values that a kernel of the unfused core reads last, without the queries packed with them."""
    last = op.reads[-1]
    parts = last.dims[-1].parts
    return part_of(last, *parts[1:3]) if len(parts) >= 3 else last


def busiest_context(op: Op, ranks: int) -> float:
    """Mean keys per query on the rank that holds the last tokens, when each rank holds neighbours.

    The window is found back from the mean over the whole sequence, w − w(w−1)/(2s).
    """
    shape = op.attention
    assert shape is not None
    if not shape.causal:
        return shape.kv_len
    s = float(shape.q_len)
    half = s + 0.5
    window = half - max(0.0, half * half - 2.0 * s * shape.kv_len) ** 0.5
    return mean_context(-(-shape.q_len // ranks), shape.q_len, True, round(window) if round(window) < s else 0)


def is_fused(op: Op) -> bool:
    """Whether the Op is a fused attention kernel, which can work on one chunk of keys after the other."""
    return op.kind is OpKind.ATTENTION and op.phase in (Phase.FORWARD, Phase.BACKWARD, Phase.RECOMPUTE)
