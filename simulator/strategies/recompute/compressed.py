"""Saved activations kept in fewer bits: Mesa (8 bits) and GACT (4 bits on average)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import ClassVar

from simulator.registry import register
from simulator.strategies.protocols import PassStage
from simulator.workload.framework import Framework
from simulator.workload.model import ModelSpec
from simulator.workload.ops import DTYPE_BYTES, Block, Op, OpKind, Phase, Tensor
from simulator.workload.plan import Plan

__all__ = ["GACT", "Mesa", "compress_tensors"]

QUANTISE_FLOPS = 4.0
"""Per element: scale, round, clip, convert; memory bounds the kernel either way."""


def compress_tensors(block: Block, names: Collection[str], dtype: str) -> Block:
    """The block that saves ``names`` as ``dtype``: quantised after their last write, dequantised before first use."""
    chosen = {t.name: t for t in block.saved if t.name in names and DTYPE_BYTES[t.dtype] > DTYPE_BYTES[dtype]}
    if not chosen:
        return block
    small = {n: replace(t, name=f"{n}.compressed", dtype=dtype) for n, t in chosen.items()}
    written = {t.name: i for i, op in enumerate(block.forward) for t in op.writes if t.name in chosen}

    def convert(name: str, phase: Phase) -> Op:
        away = phase is Phase.FORWARD
        reads, writes = ((chosen[name],), (small[name],)) if away else ((small[name],), (chosen[name],))
        return Op(
            f"{name}.{'quantise' if away else 'dequantise'}", OpKind.ELEMENTWISE, phase, chosen[name].dtype,
            reads, writes, chosen[name].dims, QUANTISE_FLOPS, sharding=chosen[name].sharding,
            saves=(small[name],) if away else (),
        )  # fmt: skip

    forward = [convert(n, Phase.FORWARD) for n in chosen if n not in written]
    for index, op in enumerate(block.forward):
        forward.append(replace(op, saves=tuple(t for t in op.saves if t.name not in chosen)))
        forward += [convert(n, Phase.FORWARD) for n, at in written.items() if at == index]
    backward, done = list[Op](), set[str]()
    for op in block.backward:
        for tensor in op.reads:
            if tensor.name in chosen and tensor.name not in done:
                backward.append(convert(tensor.name, Phase.BACKWARD))
                done.add(tensor.name)
        backward.append(op)
    return replace(block, forward=tuple(forward), backward=tuple(backward))


@register(
    "mesa", kind="pass", area="training", family="recompute", cites=("Pan et al. 2021 (Mesa), arXiv 2111.11124",),
    catalogue=("Mesa, GACT",), validated_by="closed_form",
)  # fmt: skip
class Mesa:
    """Saved activations in 8 bits, with quantise and dequantise kernels."""

    name: str
    stage = PassStage.RECOMPUTE
    dtype: ClassVar[str] = "int8"

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """Always possible."""
        return ""

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """Compress every saved tensor of a layer that is wider; masks and indices are not."""
        if block.name != "layer":
            return block
        return compress_tensors(block, {t.name for t in block.saved if _is_real(t)}, self.dtype)


def _is_real(tensor: Tensor) -> bool:
    return tensor.dtype not in ("bool", "int32")


@register(
    "gact", kind="pass", area="training", family="recompute", cites=("Liu et al. 2022 (GACT), arXiv 2206.11357",),
    catalogue=("Mesa, GACT",), validated_by="closed_form",
)  # fmt: skip
class GACT(Mesa):
    """Saved activations in 4 bits (the paper's average), with quantise and dequantise kernels."""

    dtype = "int4"
