"""1-D tensor parallelism in slices, so that a collective hides under the next slice's computation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from simulator.registry import Claim, register
from simulator.strategies.tensor.chunks import chunked, on_slice
from simulator.strategies.tensor.megatron import MegatronTensorParallel
from simulator.workload.framework import Framework
from simulator.workload.model import ModelSpec
from simulator.workload.ops import Block, Op, OpKind, Tensor, TensorClass
from simulator.workload.plan import Plan

__all__ = ["AsyncTensorParallel", "Domino"]


def _sliced_framework(framework: Framework) -> Framework:
    """Collectives have a queue of their own, and stay behind the GEMM that they are cut with."""
    return replace(framework, tensor_parallel_overlap=True, overlaps_linear_backward=False)


@register(
    "domino", kind="pass", area="training", family="tensor", cites=("Wang et al. 2024 (Domino), arXiv 2409.15241",),
    catalogue=("Domino, Async-TP",),
    claims=(Claim("up to 1.3 times Megatron-LM on DGX-H100, GPT-3 and Llama-2", "arXiv 2409.15241 abstract"),),
    validated_by="ratio",
)  # fmt: skip
class Domino(MegatronTensorParallel):
    """Half-batches that do not depend on each other: one computes while the other's all-reduce is on the wire.

    A micro-batch that cannot be halved runs as plain 1-D tensor parallelism. Option ``tensor_slices`` (2).
    """

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """At least one slice, and layers whose Ops all have a batch to halve."""
        if plan.tensor_parallel > 1 and any(layer.mlp is not None and layer.mlp.is_moe for layer, _ in model.layers):
            return (
                f"domino halves dense layers, and {model.name} routes tokens; use megatron-1d or async-tensor-parallel"
            )
        return _slices_reason(plan) or super().check(model, plan)

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """Megatron's layout on each half, segment by segment in turns."""
        slices = _slices(plan, 2)
        whole = self.laid_out(block, plan, _sliced_framework(framework))
        batch = block.boundary.dims[0].size
        if plan.tensor_parallel == 1 or slices == 1 or batch % slices:
            return whole
        forward, backward = (tuple(_in_turns(ops, slices)) for ops in (whole.forward, whole.backward))
        return replace(whole, forward=forward, backward=backward)


def _in_turns(ops: Sequence[Op], slices: int) -> Iterator[Op]:
    """Segments between collectives, slice after slice."""
    segment: list[Op] = []
    for op in ops:
        segment.append(op)
        if op.kind is OpKind.COLLECTIVE:
            yield from _each(segment, slices)
            segment = []
    yield from _each(segment, slices)


def _each(segment: Sequence[Op], slices: int) -> Iterator[Op]:
    for index in range(slices):
        for op in segment:
            part = on_slice(op, f"half{index}.{op.name}", "batch", slices)
            yield replace(
                part, reads=_own(part.reads, index), writes=_own(part.writes, index), saves=_own(part.saves, index)
            )


def _own(tensors: tuple[Tensor, ...], index: int) -> tuple[Tensor, ...]:
    """Activations of a slice are its own; parameters and their gradients are common."""
    return tuple(replace(t, name=f"{t.name}|{index}") if t.cls is TensorClass.ACTIVATION else t for t in tensors)


@register(
    "async-tensor-parallel", kind="pass", area="training", family="tensor",
    cites=("Wang et al. 2023, ASPLOS'23, doi 10.1145/3567955.3567959",),
    catalogue=("ATP, Wang et al. decomposition", "Domino, Async-TP"), validated_by="closed_form",
)  # fmt: skip
class AsyncTensorParallel(MegatronTensorParallel):
    """Collective and dependent GEMM are cut into chunks of the sequence and pipelined: max of both plus one chunk.

    Option ``tensor_slices`` is the number of chunks (default: the tensor-parallel degree).
    """

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """At least one slice."""
        return _slices_reason(plan) or super().check(model, plan)

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """Megatron's layout with gathers and reductions in chunks."""
        slices = _slices(plan, plan.tensor_parallel)
        whole = self.laid_out(block, plan, _sliced_framework(framework))
        if plan.tensor_parallel == 1 or slices == 1:
            return whole
        forward, backward = (tuple(chunked(ops, slices, slices)) for ops in (whole.forward, whole.backward))
        return replace(whole, forward=forward, backward=backward)


def _slices(plan: Plan, default: int) -> int:
    value = plan.option("tensor_slices", default)
    return value if isinstance(value, int) else default


def _slices_reason(plan: Plan) -> str:
    value = plan.option("tensor_slices", 2)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        return f"tensor_slices is {value}; it is the number of slices, a whole number from 1 on"
    return ""
