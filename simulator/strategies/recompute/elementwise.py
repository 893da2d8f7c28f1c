"""Recomputation of what elementwise kernels wrote: norms and activations, as compilers and Megatron's modules do."""

from __future__ import annotations

from simulator.registry import register
from simulator.strategies.protocols import PassStage
from simulator.strategies.recompute.dropping import recompute_tensors
from simulator.workload.framework import Framework
from simulator.workload.model import ModelSpec
from simulator.workload.ops import Block, OpKind, TensorClass
from simulator.workload.plan import Plan

__all__ = ["ElementwiseRecompute"]


@register(
    "elementwise", kind="pass", area="training", family="recompute",
    cites=(
        "PyTorch functorch.compile.min_cut_rematerialization_partition reference",
        "Megatron Core, recompute_modules layernorm and moe_act",
    ),
    catalogue=("Selective recompute + SP (Korthikanti)",), validated_by="closed_form",
)  # fmt: skip
class ElementwiseRecompute:
    """Drop the outputs of elementwise kernels whose inputs are saved anyway, and run those kernels again."""

    name: str
    stage = PassStage.RECOMPUTE

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """Always possible."""
        return ""

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """The layer without the saved outputs of its norms, activations and other elementwise kernels."""
        if block.name != "layer":
            return block
        kept = {t.name for t in block.saved} | {block.boundary.name}
        dropped: set[str] = set()
        for op in block.forward:
            inputs = {t.name for t in op.reads if t.cls is TensorClass.ACTIVATION}
            if op.kind is OpKind.ELEMENTWISE and inputs and inputs <= kept - dropped:
                dropped |= {t.name for t in op.writes if t.dtype != "bool"} & kept
        return recompute_tensors(block, dropped)
