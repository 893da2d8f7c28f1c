"""Mixed-precision recipes: compute type, parameter copies, gradients and Adam states."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from simulator.registry import Claim, register
from simulator.strategies.protocols import PassStage
from simulator.workload.framework import Framework
from simulator.workload.model import ModelSpec
from simulator.workload.ops import Block, Op, OpKind, Phase, Tensor, TensorClass, changed
from simulator.workload.plan import Plan

__all__ = ["BF16", "FP8", "FP8LM", "FP16", "FP32", "NVFP4", "PrecisionRecipe"]

_MICIKEVICIUS = "Micikevicius et al. 2018, arXiv 1710.03740"


class PrecisionRecipe:
    """Types per tensor class; subclasses only state facts.

    ``storage`` is the type of parameters and activations, ``arithmetic`` that of GEMMs, ``optimizer`` the types of
    the states Adam keeps per parameter besides the parameter itself (master copy, first and second moment).
    """

    name: str
    stage = PassStage.PRECISION
    storage: ClassVar[str] = "bf16"
    arithmetic: ClassVar[str] = "bf16"
    optimizer: ClassVar[tuple[tuple[str, str], ...]] = (("master", "fp32"), ("exp_avg", "fp32"), ("exp_avg_sq", "fp32"))

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """Every model can be trained in every recipe."""
        return ""

    def gradient(self, framework: Framework) -> str:
        """Type in which gradients are accumulated and reduced."""
        return framework.gradient_dtype if self.storage != "fp32" else "fp32"

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """Set the types of Ops and tensors and add gradient and optimizer states."""
        typed = block.map(self._typed)
        gradient = self.gradient(framework)
        halves = framework.keeps_half_gradients and gradient != self.storage
        replicas = plan.data_parallel * plan.context_parallel if plan.zero_stage == 0 else 1
        buckets = framework.keeps_gradient_buckets and replicas > 1
        tables = {op.tags["lookup"] for op in typed.forward if "lookup" in op.tags}
        states: list[Tensor] = []
        sums: list[Op] = []
        for parameter in typed.parameters:
            states.append(parameter)
            if not parameter.trainable:
                continue
            total = changed(parameter, name=f"{parameter.name}.grad", cls=TensorClass.GRAD, dtype=gradient)
            states.append(total)
            if halves:
                half = changed(total, name=f"{parameter.name}.half_grad", dtype=self.storage)
                states.append(half)
                sums.append(_accumulate(half, total))
            elif framework.adds_gradients != "none" and parameter.name in tables:
                sums.append(_whole_table(replace(total, name=f"{total.name}|made", dtype=self.storage), total))
            elif framework.adds_gradients == "all":
                sums.append(_accumulate(replace(total, name=f"{total.name}|made", dtype=self.storage), total))
            if buckets:
                states.append(changed(total, name=f"{parameter.name}.bucket", dtype=self.storage))
            states += [
                changed(parameter, name=f"{parameter.name}.{n}", cls=TensorClass.OPTIM, dtype=d)
                for n, d in self.optimizer
            ]
        backward = (*typed.backward, *sums)
        return replace(typed, boundary=self._retype(typed.boundary), backward=backward, states=tuple(states))

    def _typed(self, op: Op) -> Op:
        gemm = op.kind in (OpKind.GEMM, OpKind.GROUPED_GEMM) and "batched" not in op.tags
        return changed(
            op,
            dtype=(self.arithmetic if gemm else self.storage) if op.dtype == "bf16" else op.dtype,
            reads=tuple(map(self._retype, op.reads)),
            writes=tuple(map(self._retype, op.writes)),
            saves=tuple(map(self._retype, op.saves)),
        )

    def _retype(self, tensor: Tensor) -> Tensor:
        # Lowering marks 16-bit tensors as bf16; masks, logits, statistics and gradients keep their own types.
        return changed(tensor, dtype=self.storage) if tensor.dtype == "bf16" and self.storage != "bf16" else tensor


def _accumulate(half: Tensor, total: Tensor) -> Op:
    """Add a 16-bit gradient to its accumulator, one kernel per parameter."""
    name = f"{total.name}.accumulate"
    return Op(name, OpKind.ELEMENTWISE, Phase.WEIGHT_GRADIENT, total.dtype, (half, total), (total,))


def _whole_table(made: Tensor, total: Tensor) -> Op:
    """Set the gradient of a whole table to zero, of which a lookup fills a few rows, and add it to its accumulator.

    ``embedding_dense_backward`` of PyTorch, then the hook of the parameter (NVIDIA/Megatron-LM
    @293e104 megatron/core/distributed/distributed_data_parallel.py: ``param.main_grad.add_(param.grad.data)``).
    """
    name = f"{total.name}.accumulate"
    return Op(
        name, OpKind.ELEMENTWISE, Phase.WEIGHT_GRADIENT, total.dtype, (made, total), (made, total),
        tags={"kernels": "2"},
    )  # fmt: skip


@register(
    "bf16", kind="pass", area="training", family="precision",
    cites=(_MICIKEVICIUS, "Kalamkar et al. 2019, arXiv 1905.12322"),
    catalogue=("bf16, FP8 (TE, FP8-LM), Campo",), validated_by="closed_form",
)  # fmt: skip
class BF16(PrecisionRecipe):
    """bf16 parameters and arithmetic, fp32 master weights and Adam moments (no loss scaling)."""


@register(
    "fp16", kind="pass", area="training", family="precision", cites=(_MICIKEVICIUS,),
    catalogue=("Mixed precision (Micikevicius)",), validated_by="closed_form",
)  # fmt: skip
class FP16(PrecisionRecipe):
    """fp16 parameters and arithmetic, fp32 master weights and Adam moments, loss scaling."""

    storage = "fp16"
    arithmetic = "fp16"


@register(
    "bf16-pure", kind="pass", area="training", family="precision",
    cites=("Zamirai et al. 2020 (Revisiting BFloat16 Training), arXiv 2010.06192",),
    catalogue=("bf16, FP8 (TE, FP8-LM), Campo",), validated_by="closed_form",
)  # fmt: skip
class PureBF16(PrecisionRecipe):
    """Everything in bf16: 8 bytes per parameter with Adam, no master copy (a model that was cast as a whole)."""

    optimizer = (("exp_avg", "bf16"), ("exp_avg_sq", "bf16"))

    def gradient(self, framework: Framework) -> str:
        """Gradients have the type of the parameters."""
        return self.storage


@register(
    "fp32",
    kind="pass",
    area="training",
    family="precision",
    cites=("Kingma and Ba 2015, arXiv 1412.6980",),
    validated_by="closed_form",
)
class FP32(PrecisionRecipe):
    """Everything in fp32: 16 bytes per parameter with Adam, no separate master copy."""

    storage = "fp32"
    arithmetic = "fp32"
    optimizer = (("exp_avg", "fp32"), ("exp_avg_sq", "fp32"))


@register(
    "fp8", kind="pass", area="training", family="precision",
    cites=("NVIDIA Transformer Engine user guide (delayed scaling)", "Peng et al. 2023 (FP8-LM), arXiv 2310.18313"),
    catalogue=("bf16, FP8 (TE, FP8-LM), Campo",),
    claims=(
        Claim(
            "Transformer Engine 1.28 times (first version 1.40) BF16 Megatron: GPT-175B on H100",
            "arXiv 2310.18313 abstracts, by division",
        ),
    ),
    validated_by="ratio",
)  # fmt: skip
class FP8(PrecisionRecipe):
    """fp8 GEMMs with bf16 storage: each casts its 16-bit operands, one scale per tensor; master weights stay fp32."""

    arithmetic = "fp8"


@register(
    "nvfp4", kind="pass", area="training", family="precision",
    cites=("NVIDIA 2025 (Pretraining Large Language Models with NVFP4), arXiv 2509.25149",), validated_by="closed_form",
)  # fmt: skip
class NVFP4(PrecisionRecipe):
    """fp4 GEMMs with bf16 storage: each casts its operands, one scale per 16 elements; master weights stay fp32.

    Layers that a recipe keeps in 16 bits, and Hadamard transforms before weight gradients, are not modelled.
    """

    arithmetic = "fp4"


@register(
    "fp8-lm", kind="pass", area="training", family="precision",
    cites=("Peng et al. 2023 (FP8-LM), arXiv 2310.18313", "MS-AMP documentation, optimization levels"),
    catalogue=("bf16, FP8 (TE, FP8-LM), Campo",),
    claims=(
        Claim(
            "first moment in FP8, second in FP16: up to 62.5 % less optimizer memory", "MS-AMP documentation, O2"
        ),
    ),
    validated_by="ratio",
)  # fmt: skip
class FP8LM(FP8):
    """fp8 GEMMs, gradients and first moment, fp16 master weights and second moment; bf16 working weights."""

    optimizer = (("master", "fp16"), ("exp_avg", "fp8"), ("exp_avg_sq", "fp16"))

    def gradient(self, framework: Framework) -> str:
        """Gradients are produced and reduced in fp8 with a scale per tensor."""
        return "fp8"
