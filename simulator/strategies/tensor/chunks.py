"""A collective and the GEMM beside it in chunks, so that one chunk travels while another is multiplied."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from simulator.workload.ops import Collective, Dim, Op, OpKind, Tensor

__all__ = ["REDUCTION_CHUNKS", "chunked", "on_slice"]

REDUCTION_CHUNKS = 4
"""Chunks in which Transformer Engine reduces what a GEMM has left ("4x splits", one of which stays exposed; performance
guide of NVIDIA-NeMo/Megatron-Bridge @0bc9334). Gathers go around a ring, a chunk per rank."""

REDUCTIONS = (Collective.REDUCE_SCATTER, Collective.ALL_REDUCE)


def chunked(ops: Sequence[Op], gathers: int, reductions: int) -> Iterator[Op]:
    """The Ops, with a gather and the GEMM behind it, and a GEMM and the reduction behind it, in chunks of the sequence.

    Parameters
    ----------
    ops
        In program order, collectives on a queue of their own.
    gathers, reductions
        Chunks of either pair; 1: whole.
    """
    index = 0
    while index < len(ops):
        pair = ops[index : index + 2]
        parts = _parts(pair[0], pair[1], gathers, reductions) if len(pair) == 2 else 1
        if parts > 1:
            for part in range(parts):
                # Chunks write the same names in turn: each consumer waits for the chunk before it.
                first, second = (on_slice(op, f"{op.name}.chunk{part}", "seq", parts) for op in pair)
                saves = (pair[0].saves, pair[1].saves) if part == 0 else ((), ())
                yield replace(first, saves=saves[0])
                yield replace(second, saves=saves[1])
            index += 2
        else:
            yield ops[index]
            index += 1


def _parts(first: Op, second: Op, gathers: int, reductions: int) -> int:
    """Chunks of a pair that can be pipelined; 1 for any other."""
    written = {t.name for t in first.writes}
    if not any(t.name in written and "seq" in t.dim_names for t in second.reads):
        return 1
    if first.collective is Collective.ALL_GATHER and second.kind is OpKind.GEMM:
        return gathers
    return reductions if first.kind is OpKind.GEMM and second.collective in REDUCTIONS else 1


def on_slice(op: Op, name: str, dim: str, parts: int) -> Op:
    """``op`` on one of ``parts`` slices of ``dim``, under another name."""

    def cut(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(replace(t, dims=tuple(_divided(d, dim, parts) for d in t.dims)) for t in tensors)

    return replace(
        op, name=name, reads=cut(op.reads), writes=cut(op.writes), saves=cut(op.saves),
        flop_dims=tuple(_divided(d, dim, parts) for d in op.flop_dims),
    )  # fmt: skip


def _divided(dim: Dim, name: str, parts: int) -> Dim:
    if dim.name != name:
        return dim
    return Dim(dim.name, tuple((-(-units // parts), size) for units, size in dim.parts))
