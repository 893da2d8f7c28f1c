"""LoRA and QLoRA: low-rank adapters beside frozen GEMMs.

The pass works on the model's Ops before anything is cut, so tensor parallelism shards adapters by the names of their
dimensions, precision gives states to trainable parameters only, and no weight gradient of a frozen weight remains.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import cast

from simulator.registry import register
from simulator.strategies.protocols import PassStage
from simulator.workload.autodiff import differentiate
from simulator.workload.framework import Framework
from simulator.workload.model import ModelSpec
from simulator.workload.ops import Block, Dim, Op, OpKind, Phase, Tensor, TensorClass
from simulator.workload.plan import Plan

__all__ = ["Lora", "QLora"]


@register(
    "lora",
    kind="pass",
    area="training",
    family="peft",
    cites=("Hu et al. 2021 (LoRA), arXiv 2106.09685",),
    catalogue=("AMSP, LoRA/PEFT states",),
    validated_by="closed_form",
)
class Lora:
    """Frozen weights and trainable adapters of rank ``lora_rank`` (16) beside the GEMMs of ``lora_targets``.

    ``lora_targets``: ``all`` linear layers (default) or ``attention``. Trainable share φ: 2Ψ + (2 + gradient + 12)φΨ
    bytes of states.
    """

    name: str
    stage = PassStage.MODEL
    base_dtype = ""

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """Rank and targets must make sense."""
        rank, targets = plan.option("lora_rank", 16), plan.option("lora_targets", "all")
        if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
            return f"lora_rank must be a whole number from 1 on, have {rank!r}"
        return "" if targets in ("all", "attention") else f"lora_targets must be all or attention, have {targets!r}"

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """Freeze what is there, add adapters, drop what only frozen weights needed."""
        rank = Dim.of("lora_rank", cast(int, plan.option("lora_rank", 16)))
        attention_only = plan.option("lora_targets", "all") == "attention"
        frozen = block.map(self._freeze)
        forward: list[Op] = []
        extra: dict[str, tuple[Op, ...]] = {}
        for op in frozen.forward:
            wanted = _is_target(block, op) and (op.name.startswith("attention") or not attention_only)
            if not wanted:
                forward.append(_without_inputs(op) if op.kind is OpKind.GEMM and "batched" not in op.tags else op)
                continue
            adapters = _adapters(op, rank)
            forward += [op, *adapters]
            side = differentiate(Block(block.name, adapters, (), block.boundary), framework.gradient_dtype)
            extra[op.name] = side.backward
        backward: list[Op] = []
        for op in frozen.backward:
            if op.phase is Phase.WEIGHT_GRADIENT:  # of a frozen weight; the adapters' own follow their GEMM
                continue
            backward.append(replace(op, writes=tuple(t for t in op.writes if t.cls is not TensorClass.GRAD)))
            backward += extra.get(op.name.removesuffix(".backward"), ())
        return replace(frozen, forward=tuple(forward), backward=tuple(backward))

    def _freeze(self, op: Op) -> Op:
        def change(tensor: Tensor) -> Tensor:
            if tensor.cls is not TensorClass.PARAM:
                return tensor
            matrix = self.base_dtype and len(tensor.dims) > 1 and not tensor.name.startswith("embedding")
            return replace(tensor, trainable=False, dtype=self.base_dtype if matrix else tensor.dtype)

        return replace(op, reads=tuple(map(change, op.reads)), writes=tuple(map(change, op.writes)))


@register(
    "qlora",
    kind="pass",
    area="training",
    family="peft",
    cites=("Dettmers et al. 2023 (QLoRA), arXiv 2305.14314",),
    catalogue=("AMSP, LoRA/PEFT states",),
    validated_by="closed_form",
)
class QLora(Lora):
    """LoRA on a base held in 4 bits: whenever a matrix is used it is dequantised to bf16 first, in a pass of its own.

    "Whenever a QLoRA weight tensor is used, we dequantize the tensor to BFloat16, and then perform a matrix
    multiplication in 16-bit" (arXiv 2305.14314): each use reads 4 bits and writes 16 per weight before the GEMM reads
    those 16.
    """

    base_dtype = "int4"

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """As LoRA, with a dequantisation before every product with a frozen matrix."""
        made = super().apply(block, plan, framework)
        forward, backward = (
            tuple(step for op in ops for step in _dequantised(op)) for ops in (made.forward, made.backward)
        )
        return replace(made, forward=forward, backward=backward)

    def notes(self, plan: Plan) -> tuple[str, ...]:
        """What is left out."""
        return (
            "qlora: block scales (0.127 bit per weight after double quantisation, arXiv 2305.14314) are not counted",
        )


def _dequantised(op: Op) -> Iterator[Op]:
    """``op`` on 16-bit copies of its 4-bit matrices, and the kernels that make them: table lookup and scale."""
    copies: dict[str, Tensor] = {}
    for weight in op.reads:
        if weight.cls is not TensorClass.PARAM or weight.dtype != QLora.base_dtype:
            continue
        copy = replace(weight, name=f"{weight.name}|bf16", cls=TensorClass.ACTIVATION, dtype="bf16")
        copies[weight.name] = copy
        yield Op(
            f"{op.name}.dequantise.{weight.name}", OpKind.ELEMENTWISE, op.phase, "bf16",
            (weight,), (copy,), weight.dims, 2.0,
        )  # fmt: skip
    yield replace(op, reads=tuple(copies.get(t.name, t) for t in op.reads)) if copies else op


def _is_target(block: Block, op: Op) -> bool:
    return block.name == "layer" and op.kind is OpKind.GEMM and "batched" not in op.tags and len(op.reads) > 1


def _without_inputs(op: Op) -> Op:
    """A frozen GEMM without adapter need not keep its input: only the weight gradient would read it."""
    return replace(op, saves=tuple(t for t in op.saves if t.name != op.reads[0].name))


def _adapters(op: Op, rank: Dim) -> tuple[Op, Op]:
    """Down and up projection beside ``op``; the up projection accumulates into the GEMM's output."""
    source, weight, out = op.reads[0], op.reads[1], op.writes[0]
    inner = tuple(d for d in weight.dims if d.name in op.contracts)
    outer = tuple(d for d in weight.dims if d.name not in op.contracts)
    lead = tuple(d for d in op.flop_dims if d not in inner and d not in outer)
    low = Tensor(f"{op.name}.lora_out", TensorClass.ACTIVATION, (*lead, rank), out.dtype)
    down = Tensor(f"{weight.name}.lora_a", TensorClass.PARAM, (*inner, rank), "bf16")
    up = Tensor(f"{weight.name}.lora_b", TensorClass.PARAM, (rank, *outer), "bf16")
    base = replace(op, saves=(), recomputable="", tags={})
    return (
        replace(
            base,
            name=f"{op.name}.lora_a",
            reads=(source, down),
            writes=(low,),
            flop_dims=(*lead, rank, *inner),
            saves=(source,),
        ),
        replace(
            base,
            name=f"{op.name}.lora_b",
            reads=(low, up),
            writes=(out,),
            flop_dims=(*lead, *outer, rank),
            contracts=("lora_rank",),
            saves=(low,),
        ),
    )
