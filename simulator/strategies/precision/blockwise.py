"""FP8 with a scale per tile or block, as DeepSeek-V3 was trained: casts and transposes are kernels of their own.

Activations are scaled per token and 128 channels, weights per block of 128 x 128 (DeepSeek-AI, arXiv 2412.19437,
section 3.3). Which kernels that takes was read in the trace DeepSeek published (github.com/deepseek-ai/profile-data
@4496024, train.json): before a linear layer its input is cast; in the backward the gradient of its output is cast and
its weight transposed for the input gradient, and both operands of the weight gradient are cast along the tokens. The
activation function writes what the next layer reads in FP8 itself. What is kept for the backward is kept in FP8, and
what enters the activation function's backward is cast back first. Tensor cores want the scales of a GEMM's rows
transposed: one more small kernel before each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from simulator.registry import Claim, register
from simulator.strategies.precision.mixed import FP8
from simulator.workload.framework import Framework
from simulator.workload.ops import Block, Dim, Op, OpKind, Phase, Tensor, TensorClass
from simulator.workload.plan import Plan

__all__ = ["BlockwiseFP8"]

GEMMS = (OpKind.GEMM, OpKind.GROUPED_GEMM)
MESSAGES = (OpKind.COLLECTIVE, OpKind.P2P)
GROUP = 128
"""Channels of a row that share a scale."""
HIGH_PRECISION = (".router", ".shared_gate")
"""Linear layers that stay in 16 bits: gates, besides embedding, head, norms and attention (section 3.3.1)."""


@register(
    "fp8-blockwise", kind="pass", area="training", family="precision",
    cites=("DeepSeek-AI 2024 (DeepSeek-V3), arXiv 2412.19437 §3.3", "deepseek-ai/profile-data @4496024 train.json"),
    catalogue=("bf16, FP8 (TE, FP8-LM), Campo",),
    claims=(
        Claim("a pair of four DeepSeek-V3 layers in 129.0 ms, kernel by kernel", "deepseek-ai/profile-data @4496024"),
    ),
    validated_by="published",
)  # fmt: skip
class BlockwiseFP8(FP8):
    """fp8 GEMMs scaled per tile: casts and transposes cost time, kept activations are fp8, Adam's moments bf16.

    Working weights are fp8, master weights and gradients fp32. The output of the attention, which its own backward
    needs as well as the next layer's, is kept in 12 bits (E5M6, section 3.3.3), packed and unpacked by kernels.
    """

    optimizer = (("master", "fp32"), ("exp_avg", "bf16"), ("exp_avg_sq", "bf16"))

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """Cast, transpose and keep less, then add the states."""
        if block.name == "layer":
            walk = _Walk(block)
            forward = tuple(walk.forward())
            block = replace(block, forward=forward, backward=tuple(walk.backward()))
        return super().apply(block, plan, framework)

    def _typed(self, op: Op) -> Op:
        typed = super()._typed(op)
        return typed if op.kind not in GEMMS or op.reads[0].dtype == "fp8" else replace(typed, dtype=op.dtype)


def _is_linear(op: Op) -> bool:
    """A layer whose operands are cast: a GEMM with a weight, gates excepted."""
    if op.kind not in GEMMS or "batched" in op.tags or op.dtype != "bf16" or op.name.endswith(HIGH_PRECISION):
        return False
    return op.reads[1].cls is TensorClass.PARAM


def _is_activation(op: Op) -> bool:
    """The non-linear function between two linear layers of an MLP."""
    return op.kind is OpKind.ELEMENTWISE and op.name.endswith("act")


def _fp8(tensor: Tensor, suffix: str = "fp8") -> Tensor:
    """The copy of ``tensor`` in FP8 under another name."""
    return replace(tensor, name=f"{tensor.name}|{suffix}", cls=TensorClass.ACTIVATION, dtype="fp8")


def _kernel(name: str, phase: Phase, read: Tensor, write: Tensor) -> Op:
    """A cast or a transposition."""
    return Op(name, OpKind.ELEMENTWISE, phase, "bf16", (read,), (write,))


def _scales(name: str, phase: Phase, rows: Tensor) -> Op:
    """The transposition of the scales of a GEMM's rows, one per 128 channels."""
    width = Dim.of("scales", max(1, rows.dims[-1].size // GROUP))
    read = replace(rows, name=f"{rows.name}.scales", dims=(*rows.dims[:-1], width), dtype="fp32")
    return _kernel(f"{name}.scales", phase, read, replace(read, name=f"{read.name}|turned"))


class _Walk:
    """One walk over a layer's Ops, forward before backward."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self.linear = {op.name for op in block.forward if _is_linear(op)}
        outputs = {t.name for op in block.forward if op.name in self.linear for t in op.writes}
        saving = [op for op in block.forward if op.name not in self.linear]
        self.cached = {t.name for op in saving if _is_activation(op) for t in op.saves if t.name in outputs}
        """Inputs of activation functions, which are kept in FP8."""
        self.kept = {t.name for op in saving for t in op.saves} - self.cached
        """What something else keeps in 16 bits for its own backward."""
        self.sent = {t.name for op in block.ops if op.kind in MESSAGES for t in op.reads if t.dtype == "fp8"}
        self.packed = {
            t.name: replace(t, name=f"{t.name}|e5m6", dtype="e5m6")
            for op in block.forward
            if op.kind is OpKind.ATTENTION
            for t in op.writes
            if t.dtype == "bf16" and any(s.name == t.name for s in op.saves)
        }
        """Outputs of attention kernels, which are kept in 12 bits."""
        self.small: dict[str, Tensor] = {}
        """The FP8 copies there are, by the name of the original."""
        self.arrived: set[str] = set()
        """Originals that exist in FP8 only, because they were sent so."""

    def forward(self) -> Iterator[Op]:
        """Inputs of linear layers in FP8, and what is kept."""
        for op in self.block.forward:
            if op.name in self.linear:
                source, weight = op.reads[0], replace(op.reads[1], dtype="fp8")
                yield from self._cast(source, op.phase)
                saves = tuple(
                    self.small.get(t.name, t) for t in op.saves if t.name not in self.kept | self.packed.keys()
                )
                yield _scales(op.name, op.phase, self.small[source.name])
                yield replace(op, reads=(self.small[source.name], weight, *op.reads[2:]), saves=saves)
                for tensor in op.writes:
                    if tensor.name in self.cached:
                        yield from self._cast(tensor, op.phase)
            elif _is_activation(op):
                for tensor in op.writes:
                    self.small[tensor.name] = _fp8(tensor)
                yield self._in_fp8(op)
            elif op.kind is OpKind.ATTENTION and self.packed:
                yield replace(op, saves=tuple(self.packed.get(t.name, t) for t in op.saves))
                for tensor in op.writes:
                    if tensor.name in self.packed:
                        yield _kernel(f"{tensor.name}.pack", op.phase, tensor, self.packed[tensor.name])
            else:
                yield from self._other(op)

    def backward(self) -> Iterator[Op]:
        """Gradients cast for both products, weights and inputs transposed."""
        waiting = dict(self.packed)
        for op in self.block.backward:
            for tensor in op.reads:
                if packed := waiting.pop(tensor.name, None):
                    yield _kernel(f"{tensor.name}.unpack", Phase.BACKWARD, packed, tensor)
            name, _, kind = op.name.rpartition(".")
            if name in self.linear and kind == "backward":
                gradient, weight = op.reads[0], replace(op.reads[1], dtype="fp8")
                yield from self._cast(gradient, op.phase)
                turned = _fp8(weight, "turned")
                yield _kernel(f"{name}.weight.transpose", op.phase, weight, turned)
                yield _scales(op.name, op.phase, self.small[gradient.name])
                yield replace(op, reads=(self.small[gradient.name], turned, *op.reads[2:]))
            elif name in self.linear and kind == "weight_gradient":
                operands = op.reads[:2]
                for tensor in operands:
                    yield _kernel(f"{tensor.name}.turn", op.phase, self._source(tensor), _fp8(tensor, "turned"))
                yield replace(op, reads=(*(_fp8(t, "turned") for t in operands), *op.reads[2:]))
            elif name.endswith("act") and kind == "backward":
                for tensor in op.reads:
                    if tensor.name in self.cached:
                        yield _kernel(f"{tensor.name}.uncast", op.phase, self.small[tensor.name], tensor)
                yield op
            else:
                yield from self._other(op)

    def _other(self, op: Op) -> Iterator[Op]:
        """Messages in FP8, the kernels that write them, and the sort of what has arrived."""
        if (op.kind in MESSAGES and op.reads[0].dtype == "fp8") or op.reads[0].name in self.arrived:
            arriving = [t for t in op.writes if t.dtype != "fp8"]
            self.arrived |= {t.name for t in arriving}
            reads = tuple(self.small[t.name] if t.name in self.arrived else t for t in op.reads)
            self.small |= {t.name: _fp8(t) for t in arriving}
            yield replace(op, reads=reads, writes=tuple(self.small.get(t.name, t) for t in op.writes))
        elif any(t.name in self.sent for t in op.writes):
            row = next(t for t in reversed(op.reads) if t.dtype == "bf16")
            yield from self._cast(row, op.phase)
            reads = tuple(self.small[t.name] if t is row else t for t in op.reads)
            yield replace(op, reads=reads, writes=tuple(self._as_sent(t) for t in op.writes))
        else:
            yield op

    def _as_sent(self, tensor: Tensor) -> Tensor:
        return replace(tensor, dtype="fp8") if tensor.name in self.sent else tensor

    def _in_fp8(self, op: Op) -> Op:
        """``op`` on the FP8 copies of its tensors."""

        def small(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return tuple(self.small.get(t.name, t) for t in tensors)

        return replace(op, reads=small(op.reads), writes=small(op.writes), saves=small(op.saves))

    def _cast(self, tensor: Tensor, phase: Phase) -> Iterator[Op]:
        if tensor.name not in self.small:
            self.small[tensor.name] = _fp8(tensor)
            yield _kernel(f"{tensor.name}.cast", phase, tensor, self.small[tensor.name])

    def _source(self, tensor: Tensor) -> Tensor:
        """What an operand of a weight gradient is turned from: FP8 if it was kept or has arrived so."""
        gradient = tensor.name.endswith((".grad", ".grad|experts"))
        small = tensor.name in self.arrived if gradient else tensor.name not in self.kept
        return self.small[tensor.name] if small else tensor
