"""Operators of a model's graph as kernels of their own: engines that build a graph and run it node by node.

Fused engines project queries, keys and values by one product and gate and value by another, and their other kernels
read and write each activation once. Here every node is a kernel: a product per weight, the norm and the product with
its weight, the rotation of queries and of keys, copies into the cache, the activated gate and its product with the
value, the copy that puts heads side by side. Activations between kernels are in fp32 (ggml-org/llama.cpp
``llama.cpp`` build_llama and ``ggml-cuda.cu`` of May 2024). What products cast is priced with them
(:mod:`simulator.cost.own_kernels`).
"""

from __future__ import annotations

from dataclasses import replace

from simulator.workload.ops import Block, Dim, Op, OpKind, Tensor, TensorClass

__all__ = ["operators_apart"]

_WIDE = "fp32"
_HALF = ("bf16", "fp16")


def operators_apart(block: Block) -> Block:
    """The forward Ops of ``block``, each operator of the graph apart."""
    found = list[Op]()
    for op in block.forward:
        if op.kind is OpKind.GEMM:
            found += _products(op)
        elif op.kind is OpKind.ELEMENTWISE:
            found += [_widened(one) for one in _passes(op)]
        else:
            found.append(op)
            if op.kind is OpKind.ATTENTION:
                found.append(_widened(_pass(f"{op.name}.merge", op, op.writes[:1], _renamed(op.writes[0], "merged"))))
    return replace(block, forward=tuple(found))


def _products(op: Op) -> list[Op]:
    """A product per part of a merged projection: each casts what it reads."""
    written = op.writes[0]
    parts = written.dims[-1].parts
    if len(parts) == 1:
        return [op]
    found = []
    for number, part in enumerate(parts):
        outer = Dim(written.dims[-1].name, (part,))
        reads = tuple(
            replace(t, name=f"{t.name}.{number}", dims=(*t.dims[:-1], outer)) if t.cls is TensorClass.PARAM else t
            for t in op.reads
        )
        out = replace(written, name=f"{written.name}.{number}", dims=(*written.dims[:-1], outer))
        dims = (*op.flop_dims[:-1], outer)
        found.append(replace(op, name=f"{op.name}.{number}", reads=reads, writes=(out,), flop_dims=dims))
    return found


def _passes(op: Op) -> list[Op]:
    """The kernels of one elementwise Op of a fused engine."""
    read, written = op.reads[0], op.writes[0] if op.writes else None
    if written is None:
        return [op]
    weights = tuple(t for t in op.reads if t.cls is TensorClass.PARAM)
    if op.name.endswith("norm") and weights:
        normed = _renamed(written, "normed")
        return [_pass(f"{op.name}.normed", op, (read,), normed), _pass(op.name, op, (normed, *weights), written)]
    parts = read.dims[-1].parts
    if op.name.endswith("rotary") and len(parts) > 1 and read.dims[-1] == written.dims[-1]:
        twice, kept = {"kernels": str(len(parts) - 1)}, _of(written, parts[1:])
        reads = (_of(read, parts[:-1]), *op.reads[1:])
        turned = replace(op, reads=reads, writes=(_of(written, parts[:-1]),), tags=twice)
        copied = _pass(f"{op.name}.cache", op, (kept,), replace(_renamed(kept, "cached"), cls=TensorClass.KV))
        return [turned, replace(copied, tags=twice)]
    if op.name.endswith("act") and len(parts) == 2:
        gated = _renamed(written, "gate")
        gate = _pass(f"{op.name}.gate", op, (_of(read, parts[:1]),), gated)
        return [gate, _pass(op.name, op, (gated, _of(read, parts[1:])), written)]
    return [op]


def _pass(name: str, op: Op, reads: tuple[Tensor, ...], write: Tensor) -> Op:
    return replace(
        op, name=name, kind=OpKind.ELEMENTWISE, reads=reads, writes=(write,), flop_dims=write.dims,
        flop_coefficient=1.0, attention=None, tags={},
    )  # fmt: skip


def _renamed(tensor: Tensor, part: str) -> Tensor:
    return replace(tensor, name=f"{tensor.name}.{part}")


def _of(tensor: Tensor, parts: tuple[tuple[int, int], ...]) -> Tensor:
    return replace(tensor, dims=(*tensor.dims[:-1], Dim(tensor.dims[-1].name, parts)))


def _widened(op: Op) -> Op:
    def wide(tensor: Tensor) -> Tensor:
        half = tensor.cls is TensorClass.ACTIVATION and tensor.dtype in _HALF
        return replace(tensor, dtype=_WIDE) if half else tensor

    return replace(op, dtype=_WIDE, reads=tuple(map(wide, op.reads)), writes=tuple(map(wide, op.writes)))
