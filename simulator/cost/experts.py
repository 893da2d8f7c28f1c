"""An expert block as benchmarks time it: the kernels that a model runs for it, one after the other.

What ``fused_experts`` of vLLM and its like take is not one grouped GEMM. Rows are sorted by expert, multiplied by gate
and value together, activated, multiplied back and summed over the experts of a token. For narrow experts (a width of
1408 split over 8) that is mostly launches and rows of hidden size written and read again, which a single GEMM of all
three matrices would not have.
"""

from __future__ import annotations

from dataclasses import replace

from simulator.workload.ops import DTYPE_BYTES, OpKind, Work

__all__ = ["GATED", "PLAIN", "expert_block", "is_block", "kernels_of", "unaligned"]

GATED, PLAIN = "experts.gated", "experts.plain"
"""Operator of a block with three matrices (gate, value, down) and with two."""

ROW = 2.0
"""Bytes of one element of a row between the kernels."""

VECTOR = 16
"""Elements that a stride has to be a multiple of for Triton to load rows in vectors: it specialises kernels for integer
arguments divisible by 16 and knows no alignment otherwise (triton-lang/triton, specialization of arguments)."""


def expert_block(dtype: str, tokens: int, per_token: int, hidden: int, width: int, touched: int, gated: bool) -> Work:
    """Work of a block: ``tokens`` with ``per_token`` experts each, ``touched`` experts of ``width`` in all."""
    rows, matrices = tokens * per_token, 3 if gated else 2
    moved = (
        touched * float(matrices) * hidden * width * DTYPE_BYTES[dtype] + rows * (2 * hidden + matrices * width) * ROW
    )
    return Work(
        OpKind.GROUPED_GEMM, dtype, 2.0 * rows * hidden * width * matrices, moved, rows, matrices * width, hidden,
        touched, operator=GATED if gated else PLAIN, rows=tokens,
    )  # fmt: skip


def is_block(work: Work) -> bool:
    """Whether a measured Work stands for a whole expert block."""
    return work.operator in (GATED, PLAIN)


def kernels_of(block: Work) -> tuple[Work, ...]:
    """The kernels of a ``block``: sorting, gate and value, activation, down, sum."""
    rows, hidden, tokens, wide = block.m, block.k, block.rows, 2 if block.operator == GATED else 1
    width, size = block.n // (wide + 1), DTYPE_BYTES[block.dtype]

    def elementwise(elements: float) -> Work:
        return Work(OpKind.ELEMENTWISE, "bf16", 0.0, ROW * elements)

    def grouped(n: int, k: int, read: int) -> Work:
        moved = float(block.groups) * n * k * size + ROW * (read * k + rows * n)
        flops = 2.0 * rows * n * k
        return replace(block, flops=flops, bytes=moved, n=n, k=k, operator="forward", rows=0)

    up, down = grouped(wide * width, hidden, tokens), grouped(hidden, width, rows)
    activation, total = elementwise((wide + 1.0) * rows * width), elementwise(float(rows + tokens) * hidden)
    return elementwise(2.0 * rows), up, activation, down, total


def unaligned(work: Work) -> bool:
    """Whether rows of the experts of a mixture start where vectors cannot. Kernels of adapters, which have no direction
    in ``operator``, are written for ranks of 8 and more and priced by mean ranks."""
    return bool(work.operator) and bool(work.n % VECTOR or work.k % VECTOR)
