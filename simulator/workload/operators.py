"""Which kernel an elementwise Op is: kernels of one name move their bytes at one rate, others do not.

A layer norm, a rotation and an addition touch memory alike but an eager framework runs each as another number of
passes. Measured tables are keyed by these names; where nothing was measured they mean nothing.
"""

from __future__ import annotations

from simulator.workload.ops import Op, OpKind, Phase, TensorClass

__all__ = ["EXPERTS", "INDEX", "JOINS", "SCALES", "SELECT", "operator_of"]

SCALES = "scales"
"""Tag of the grouped GEMMs of a mixture: ``block`` where blocks of their fp8 operands have a scale each."""

EXPERTS = "format of experts"
"""Tag of all Ops of a served expert block (:mod:`simulator.workload.expert_blocks`)."""

JOINS = "joins"
"""Tag of an addition whose terms may stay partial sums until they are added: engines reduce the routed and the shared
experts of a served layer over tensor-parallel ranks at once (``DeepseekV2MoE.forward`` of vLLM and SGLang,
``Deepseekv3MoE`` of TensorRT-LLM); training frameworks reduce them apart (``SharedExpertMLP`` of Megatron-LM)."""

SELECT, INDEX = "select", "index"
"""Kernels of a mixture whose time goes by rows: the highest scores of every token, the numbering of rows by expert."""

_BY_LAST_PART = {
    "act": "activation", "expert_act": "activation", "rotary": "rotary", "qk_norm": "rotary",
    "add": "add", "sum": "add",
    "embedding": "embedding", "position": "positions", "loss": "cross_entropy", "cast": "cast", "topk": "topk",
    "dispatch": "dispatch", "combine": "combine", "sort": "sort", "select": SELECT, "index": INDEX,
    "softmax": "softmax", "dropout": "dropout",
}  # fmt: skip


def operator_of(op: Op) -> str:
    """Name of the kernel (``rms_norm``, ``swiglu.backward``), or an empty string for one without a known name.

    GEMMs are named by direction: ``forward``, ``backward`` (input gradient) or ``weight_gradient``.
    """
    if op.kind in (OpKind.GEMM, OpKind.GROUPED_GEMM):
        directions = {Phase.BACKWARD: "backward", Phase.WEIGHT_GRADIENT: "weight_gradient"}
        return directions.get(op.phase, "forward")
    if op.kind is not OpKind.ELEMENTWISE:
        return ""
    name = op.name.removesuffix(".recompute").removesuffix(".backward").removesuffix(".backward")
    last = name.rpartition(".")[2].partition("#")[0]
    backward = op.phase in (Phase.BACKWARD, Phase.WEIGHT_GRADIENT)
    found = "norm" if last.endswith("norm") and last != "qk_norm" else _BY_LAST_PART.get(last, "")
    if found == "norm":
        weights = {t.name.rpartition(".")[2] for t in op.reads if t.cls is TensorClass.PARAM}
        found = "layer_norm" if "bias" in weights else "rms_norm"
    elif found == "activation":
        found = "swiglu" if _gated(op) else "gelu"
    return f"{found}.backward" if found and backward else found


def _gated(op: Op) -> bool:
    """The input holds gate and value side by side: twice the width of what the kernel hands on."""
    widths = sorted({t.dims[-1].size for t in (*op.reads, *op.writes) if t.dims})
    return len(widths) > 1
