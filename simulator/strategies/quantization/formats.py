"""Formats of served weights, by the names engines use."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from simulator.registry import Claim, register
from simulator.strategies.protocols import PassStage
from simulator.workload.framework import Framework
from simulator.workload.model import ModelSpec
from simulator.workload.ops import Block, Op, OpKind, Tensor, TensorClass, changed
from simulator.workload.plan import Plan

__all__ = ["WeightFormat"]

NARROW = ("norm", "embedding", "head", "router", "position", "conv")
"""Parameters whose name starts or contains one of these stay in 16 bit, as engines leave them."""


class WeightFormat:
    """Weights of linear layers in ``weights``, their GEMMs in ``arithmetic``, all else in 16 bit.

    When ``arithmetic`` is wider than ``weights`` the kernel dequantises on the fly (weight-only quantisation): bytes
    shrink, FLOPs run at the wider rate.
    """

    name: str
    stage = PassStage.PRECISION
    weights: ClassVar[str] = "bf16"
    arithmetic: ClassVar[str] = "bf16"
    activations: ClassVar[str] = ""
    """Type in which activations enter the GEMMs from memory; empty: 16 bit, converted inside the kernel."""
    quality: ClassVar[str] = ""
    """Published cost in quality, where a source was read."""

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """Every model can be stored in every format."""
        return ""

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """Retype the weights and the GEMMs that use them; a served model has no gradients or optimizer."""
        typed = block.map(self._typed)
        return replace(typed, states=typed.parameters)

    def _typed(self, op: Op) -> Op:
        if op.kind is OpKind.COLLECTIVE:  # weights that travel do so as they are stored
            return changed(op, reads=tuple(map(self._stored, op.reads)), writes=tuple(map(self._stored, op.writes)))
        if op.kind not in (OpKind.GEMM, OpKind.GROUPED_GEMM) or not any(map(self._is_quantised, op.reads)):
            return op
        return changed(op, dtype=self.arithmetic, reads=tuple(map(self._retype, op.reads)))

    def _stored(self, tensor: Tensor) -> Tensor:
        return changed(tensor, dtype=self.weights) if self._is_quantised(tensor) else tensor

    def _retype(self, tensor: Tensor) -> Tensor:
        if self._is_quantised(tensor):
            return changed(tensor, dtype=self.weights)
        narrow = self.activations and tensor.cls is TensorClass.ACTIVATION
        return changed(tensor, dtype=self.activations) if narrow else tensor

    def _is_quantised(self, tensor: Tensor) -> bool:
        # Workspace that an Op reads is a gathered copy of a weight.
        matrix = tensor.cls in (TensorClass.PARAM, TensorClass.WORKSPACE) and len(tensor.dims) >= 2
        return matrix and not any(part in tensor.name for part in NARROW)


_GPTQ = "Frantar et al. 2022 (GPTQ), arXiv 2210.17323"
_FP8 = "Micikevicius et al. 2022 (FP8 formats), arXiv 2209.05433"


@register("bf16", kind="pass", area="serving", family="quantization", cites=(), validated_by="closed_form")
class BF16Weights(WeightFormat):
    """Weights and arithmetic in bf16."""


@register("fp16", kind="pass", area="serving", family="quantization", cites=(), validated_by="closed_form")
class FP16Weights(WeightFormat):
    """Weights and arithmetic in fp16."""

    arithmetic = "fp16"


@register("fp32", kind="pass", area="serving", family="quantization", cites=(), validated_by="closed_form")
class FP32Weights(WeightFormat):
    """Weights, activations and arithmetic in fp32, as FasterTransformer served by default."""

    weights = "fp32"
    arithmetic = "fp32"

    def _typed(self, op: Op) -> Op:
        def wide(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return tuple(changed(t, dtype="fp32") if t.dtype in ("bf16", "fp16") else t for t in tensors)

        dtype = "fp32" if op.dtype in ("bf16", "fp16") else op.dtype
        return changed(op, dtype=dtype, reads=wide(op.reads), writes=wide(op.writes))


@register("fp8", kind="pass", area="serving", family="quantization", cites=(_FP8,), validated_by="closed_form")
class FP8Weights(WeightFormat):
    """fp8 weights and activations in linear layers (W8A8)."""

    weights = "fp8"
    arithmetic = "fp8"


@register(
    "fp8-weight-only", kind="pass", area="serving", family="quantization", cites=(_FP8,), validated_by="closed_form"
)
class FP8WeightOnly(WeightFormat):
    """fp8 weights, bf16 arithmetic: what engines do where the hardware has no fp8."""

    weights = "fp8"


@register(
    "int8",
    kind="pass",
    area="serving",
    family="quantization",
    cites=("Xiao et al. 2022 (SmoothQuant), arXiv 2211.10438",),
    validated_by="closed_form",
)
class Int8Weights(WeightFormat):
    """int8 weights and activations (W8A8)."""

    weights = "int8"
    arithmetic = "int8"
    quality = "negligible loss in accuracy (abstract of arXiv 2211.10438)"


@register(
    "int4",
    kind="pass",
    area="serving",
    family="quantization",
    cites=(_GPTQ, "Lin et al. 2023 (AWQ), arXiv 2306.00978"),
    validated_by="closed_form",
)
class Int4Weights(WeightFormat):
    """int4 weights, bf16 arithmetic (W4A16)."""

    weights = "int4"


@register(
    "q4-k",
    kind="pass",
    area="serving",
    family="quantization",
    cites=("ggerganov/llama.cpp ggml-cuda mmq.cu: blocks of 4-bit weights times activations quantised to q8_1",),
    validated_by="closed_form",
)
class Q4KWeights(WeightFormat):
    """4-bit weights in blocks, multiplied with 8-bit activations at the rate of int8 (Q4_K of llama.cpp)."""

    weights = "int4"
    arithmetic = "int8"


@register(
    "fp4",
    kind="pass",
    area="serving",
    family="quantization",
    cites=("OCP Microscaling Formats v1.0 (MXFP4)",),
    validated_by="closed_form",
)
class FP4Weights(WeightFormat):
    """fp4 weights and activations on hardware that has it, weight-only elsewhere."""

    weights = "fp4"
    arithmetic = "fp4"


@register(
    "fp4-mlp",
    kind="pass",
    area="serving",
    family="quantization",
    cites=("nvidia/DeepSeek-R1-0528-FP4-v2 model card: of the attention its output alone is in NVFP4",),
    validated_by="closed_form",
)
class FP4MLPs(FP4Weights):
    """fp4 in MLPs, experts and the output of attention, all else in 16 bit (NVIDIA's checkpoints of DeepSeek-R1)."""

    def _is_quantised(self, tensor: Tensor) -> bool:
        name = tensor.name
        return super()._is_quantised(tensor) and (not name.startswith("attention.") or "output" in name)


@register(
    "mxfp4",
    kind="pass",
    area="serving",
    family="quantization",
    cites=(
        "OCP Microscaling Formats v1.0 (MXFP4)",
        "openai/gpt-oss-120b config.json: quantization_config.modules_to_not_convert",
    ),
    validated_by="published",
)
class MXFP4Experts(WeightFormat):
    """Experts in fp4 with a scale for 32 elements, all else in 16 bit (gpt-oss); arithmetic as with ``fp4``."""

    weights = "mxfp4"
    arithmetic = "fp4"

    def _typed(self, op: Op) -> Op:
        return super()._typed(op) if op.kind in (OpKind.GROUPED_GEMM, OpKind.COLLECTIVE) else op


@register(
    "fp4-fp8",
    kind="pass",
    area="serving",
    family="quantization",
    cites=("OCP Microscaling Formats v1.0 (MXFP4, MXFP8)", "vLLM VLLM_USE_FLASHINFER_MOE_MXFP4_MXFP8"),
    validated_by="closed_form",
)
class FP4WeightsFP8(MXFP4Experts):
    """Experts with fp4 weights and fp8 activations, multiplied at the rate of fp8, all else in 16 bit (gpt-oss on
    Blackwell)."""

    weights = "fp4"
    arithmetic = "fp8"


@register(
    "olive",
    kind="pass",
    area="serving",
    family="quantization",
    cites=("Guo et al. 2023 (OliVe), arXiv 2304.07493",),
    catalogue=("OliVe",),
    claims=(
        Claim("4.5× faster and 4.0× less energy than GOBO, on its own accelerator", "abstract of arXiv 2304.07493"),
    ),
    validated_by="closed_form",
)
class OliVe(WeightFormat):
    """Outlier-victim pairs: 4-bit weights and activations, a quarter of the bytes of 16 bit.

    The rates are those of the device's int4 arithmetic, or of the next wider type it has: decoding outliers at full
    rate needs the hardware of the paper.
    """

    weights = "int4"
    arithmetic = "int4"
    activations = "int4"
    quality = "better accuracy than GOBO (abstract of arXiv 2304.07493); no figure against 16 bit read"
