"""From an Op with named dimensions to the local sizes that one rank executes."""

from __future__ import annotations

import math

from simulator.workload.lowering_mlp import experts_touched
from simulator.workload.operators import EXPERTS, INDEX, SELECT, operator_of
from simulator.workload.ops import Block, Mesh, Op, OpKind, Phase, TensorClass, Work

__all__ = ["is_latent", "local_experts", "work_of"]

_WIDE, _NARROW = ("bf16", "fp16"), ("fp8", "int8", "fp6", "fp4", "int4")
_WEIGHTS = (TensorClass.PARAM, TensorClass.WORKSPACE)


def work_of(op: Op, mesh: Mesh, ranks: int = 1) -> Work:
    """Local work of ``op`` on one rank of ``mesh``.

    Parameters
    ----------
    op
        The Op, sharded by the passes.
    mesh
        Axis sizes.
    ranks
        Size of the group a collective runs over.
    """
    if op.kind in (OpKind.COLLECTIVE, OpKind.P2P, OpKind.COPY):
        message = sum(t.bytes(mesh) for t in op.reads)
        name = op.collective.value if op.collective else ""
        if name == "all_gather":  # the convention is the full buffer; the Op reads the shard
            message = sum(t.bytes(mesh) for t in op.writes)
        message *= op.wire.volume
        return Work(op.kind, op.dtype, collective=name, message=message, bytes=message, axis=op.axis, ranks=ranks)
    flops, moved = op.flops(mesh), _bytes(op, mesh)
    if op.kind is OpKind.ATTENTION and op.attention is not None:
        shape = op.attention
        batch, query = (op.local(d, mesh) for d in op.flop_dims[:2])
        kv_heads = op.local(shape.kv_heads, mesh) // shape.head_dim
        return Work(
            op.kind,
            op.dtype,
            flops,
            moved,
            batch=batch,
            q_len=query,
            kv_len=shape.kv_len,
            heads=op.local(shape.q_heads, mesh) // shape.head_dim,
            kv_heads=max(1, kv_heads),
            head_dim=shape.head_dim,
            causal=shape.causal,
            backward=op.phase is Phase.BACKWARD,
        )
    if op.kind in (OpKind.GEMM, OpKind.GROUPED_GEMM):
        m, n, k, groups = _gemm_shape(op, mesh)
        casts = op.dtype in ("fp8", "fp4") and op.reads[0].dtype != op.dtype
        unpacks = op.dtype in _WIDE and any(t.dtype in _NARROW for t in op.reads if t.cls in _WEIGHTS)
        operator = operator_of(op)
        gathers = op.kind is OpKind.GROUPED_GEMM and op.contracts == ("hidden",)
        return Work(
            op.kind, op.dtype, flops, moved, m, n, k, groups, operator=operator, casts=casts, unpacks=unpacks,
            experts=op.tags.get(EXPERTS, ""), gathers=gathers,
        )  # fmt: skip
    operator = operator_of(op)
    if operator.startswith("cast") and {t.dtype for t in op.reads} == {t.dtype for t in op.writes}:
        return Work(op.kind, op.dtype, operator=operator)  # to the type it already has: no kernel runs
    launches = int(op.tags.get("kernels_backward" if op.phase is Phase.BACKWARD else "kernels", 1))
    if not launches:
        return Work(op.kind, op.dtype, operator=operator)  # a view: no kernel runs
    rows = int(op.tags.get("selections", 1)) * _rows(op, mesh) if operator in (SELECT, INDEX) else 0
    inside = op.tags.get(EXPERTS, "")
    return Work(op.kind, op.dtype, flops, moved, operator=operator, kernels=launches, rows=rows, experts=inside)


def _rows(op: Op, mesh: Mesh) -> int:
    """Rows of what an Op writes: all its dimensions but the last."""
    written = op.writes[0]
    return written.elements(mesh) // written.dims[-1].size


def _gemm_shape(op: Op, mesh: Mesh) -> tuple[int, int, int, int]:
    """(m, n, k, groups): contracted dimensions make k, the last free one n, the others m."""
    if "batched" in op.tags:  # one small GEMM per sequence and head
        batch, query, keys, units = (op.local(d, mesh) for d in op.flop_dims)
        depth, groups = int(op.tags["depth"]), batch * units
        if op.name.endswith("values"):
            return groups * query, depth, keys, groups
        return groups * query, keys, depth, groups
    contracted = set(op.contracts)
    k = math.prod(op.local(d, mesh) for d in op.flop_dims if d.name in contracted)
    free = [op.local(d, mesh) for d in op.flop_dims if d.name not in contracted]
    groups = 1
    if op.kind is OpKind.GROUPED_GEMM:
        # Experts without a row take no tile.
        groups = max(1, round(local_experts(op, mesh) * _touched_share(op, mesh)))
    return math.prod(free[:-1]), free[-1] if free else 1, k, groups


def local_experts(op: Op, mesh: Mesh) -> int:
    """Experts of a grouped GEMM that one rank holds."""
    total = int(op.tags["experts"])
    return next((op.local(d, mesh) for t in (*op.reads, *op.writes) for d in t.dims if d.name == "experts"), total)


def is_latent(block: Block) -> bool:
    """Whether a layer projects keys and values up from a low rank."""
    return any(op.name.endswith(".kv_b") for op in block.forward)


def _bytes(op: Op, mesh: Mesh) -> float:
    """Bytes moved, with lookups reading rows instead of tables and idle experts left alone."""
    skip = op.tags.get("lookup")
    total = sum(t.bytes(mesh) for t in (*op.reads, *op.writes) if t.name != skip)
    if op.kind is OpKind.GROUPED_GEMM:
        share = _touched_share(op, mesh)
        weights = sum(t.bytes(mesh) for t in (*op.reads, *op.writes) if t.cls in (TensorClass.PARAM, TensorClass.GRAD))
        total -= weights * (1 - share)
    return total


def _touched_share(op: Op, mesh: Mesh) -> float:
    """Share of the experts that at least one token selects."""
    experts, per_token = int(op.tags["experts"]), int(op.tags["per_token"])
    routed = next((op.local(d, mesh) for d in op.flop_dims if d.name == "routed"), 0)
    spread = any(("experts", "ep") in t.sharding for t in op.reads)  # whole experts have rows of every rank
    tokens = routed * (mesh.get("ep", 1) if spread else 1) // max(1, per_token)
    return experts_touched(experts, per_token, tokens, float(op.tags["routing"])) / experts
