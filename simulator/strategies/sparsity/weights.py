"""Weights that are pruned, stored sparsely or read only where a predictor says so."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import replace
from typing import ClassVar

from simulator.registry import Claim, register
from simulator.strategies.protocols import PassStage
from simulator.workload.framework import Framework
from simulator.workload.model import ModelSpec
from simulator.workload.ops import Block, Dim, Op, OpKind, Tensor, TensorClass
from simulator.workload.plan import Plan

__all__ = ["PIT", "DejaVu", "FlashLLM", "LLMPruner", "SparseGPT", "SparseMatrices", "WeightSparsity", "union_density"]

LINEAR = (OpKind.GEMM, OpKind.GROUPED_GEMM)
KEPT_DENSE = ("router", "head", "embedding", "gate")
"""Matrices whose name contains one of these stay dense."""


def union_density(active: float, tokens: float) -> float:
    """Share of the neurons that at least one of ``tokens`` activates: 1 − (1 − active)^tokens, tokens independent."""
    return 1.0 if active >= 1.0 else -math.expm1(tokens * math.log1p(-active))


def _scaled(dim: Dim, share: float) -> Dim:
    """The dimension with ``share`` of its units, at least one of each part."""
    return Dim(dim.name, tuple((max(1, round(units * share)), size) for units, size in dim.parts))


class WeightSparsity(ABC):
    """Base of the passes: how many of the weights remain.

    ``density`` of the plan's options is the share of the weights that remains (``sparsity_density``), 1 = dense.
    """

    name: str
    stage = PassStage.PRECISION
    default: ClassVar[float] = 1.0
    quality: ClassVar[str] = ""

    def density(self, plan: Plan) -> float:
        """Share of the weights that remains."""
        return float(str(plan.option("sparsity_density", self.default)))

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """A density that leaves something."""
        if not 0.0 < self.density(plan) <= 1.0:
            return f"sparsity_density {self.density(plan):g} is not above 0 and at most 1"
        return ""

    @abstractmethod
    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """The block with what remains of its weights."""


class SparseMatrices(WeightSparsity):
    """Base of the passes that change one matrix at a time: how many of its bytes and FLOPs remain."""

    drops: ClassVar[bool] = True
    """Whether pruned weights leave memory; otherwise they are only not read."""

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """Change every sparse linear layer."""
        changed = block.map(lambda op: self.sparse(op, block, plan) if _is_sparse(op) else op)
        return replace(changed, states=changed.parameters) if self.drops else changed

    @abstractmethod
    def sparse(self, op: Op, block: Block, plan: Plan) -> Op:
        """One linear layer."""


def _is_sparse(op: Op) -> bool:
    return op.kind in LINEAR and not any(part in op.name for part in KEPT_DENSE)


def _weight(tensor: Tensor) -> bool:
    return tensor.cls is TensorClass.PARAM and len(tensor.dims) >= 2


def stored(op: Op, share: float) -> Op:
    """The Op with weights of ``share`` times the bytes and unchanged FLOPs."""

    def smaller(tensor: Tensor) -> Tensor:
        if not _weight(tensor):
            return tensor
        # The dimension with most units is cut: rounding to whole units moves the bytes least there.
        finest = max(tensor.dims, key=lambda d: sum(units for units, _ in d.parts))
        return replace(tensor, dims=tuple(_scaled(d, share) if d is finest else d for d in tensor.dims))

    return replace(op, reads=tuple(map(smaller, op.reads)))


def narrowed(op: Op, share: float, dims: Collection[str]) -> Op:
    """The Op with ``share`` of the named dimensions in itself and all its tensors: bytes and FLOPs shrink together."""
    if share >= 1.0:
        return op

    def cut(tensor: Tensor) -> Tensor:
        return replace(tensor, dims=tuple(_scaled(d, share) if d.name in dims else d for d in tensor.dims))

    return replace(
        op, reads=tuple(map(cut, op.reads)), writes=tuple(map(cut, op.writes)), saves=tuple(map(cut, op.saves)),
        flop_dims=tuple(_scaled(d, share) if d.name in dims else d for d in op.flop_dims),
    )  # fmt: skip


@register(
    "sparsegpt",
    kind="pass",
    area="serving",
    family="sparsity",
    cites=("Frantar, Alistarh 2023 (SparseGPT), arXiv 2301.00774",),
    catalogue=("SparseGPT, Flash-LLM, PIT, LLM-Pruner",),
    claims=(
        Claim("60 % unstructured sparsity of OPT-175B and BLOOM-176B in one shot", "abstract of arXiv 2301.00774"),
    ),
    validated_by="closed_form",
)
class SparseGPT(SparseMatrices):
    """Half of the weights pruned: ``sparsity_pattern`` 2:4 halves FLOPs and stores values with 2-bit indices.

    ``unstructured``: bytes of the non-zeros and a bit mask, FLOPs dense.
    """

    default = 0.5
    quality = (
        "at least 50 % one-shot at minimal loss of accuracy, 60 % with negligible increase in perplexity "
        "(abstract of arXiv 2301.00774)"
    )

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """2:4 keeps half."""
        pattern = plan.option("sparsity_pattern", "unstructured")
        if pattern not in ("unstructured", "2:4"):
            return f"sparsity_pattern {pattern} is not known; use unstructured or 2:4"
        if pattern == "2:4" and self.density(plan) != 0.5:
            return f"sparsity_pattern 2:4 keeps half of the weights, not {self.density(plan):g}"
        return super().check(model, plan)

    def sparse(self, op: Op, block: Block, plan: Plan) -> Op:
        """Indices of 2 bits per kept value, or one bit per weight."""
        density = self.density(plan)
        if density == 1.0:
            return op
        bits = next(8.0 * t.bytes() / t.elements() for t in op.reads if _weight(t))
        if plan.option("sparsity_pattern") == "2:4":
            return replace(stored(op, 0.5 * (1.0 + 2.0 / bits)), flop_coefficient=op.flop_coefficient / 2)
        return stored(op, density + 1.0 / bits)


@register(
    "flash-llm",
    kind="pass",
    area="serving",
    family="sparsity",
    cites=("Xia et al. 2023 (Flash-LLM), arXiv 2309.10285",),
    catalogue=("SparseGPT, Flash-LLM, PIT, LLM-Pruner",),
    claims=(
        Claim(
            "tokens per GPU-second up to 3.8× over DeepSpeed and 3.6× over FasterTransformer, OPT-30B/66B/175B",
            "abstract of arXiv 2309.10285",
        ),
    ),
    validated_by="closed_form",
)
class FlashLLM(SparseMatrices):
    """Load as sparse, compute as dense: bytes of the non-zeros with 16-bit positions, FLOPs of the dense matrix.

    At 16-bit values a non-zero takes 4 bytes, so it pays below half density only.
    """

    default = 0.2

    def sparse(self, op: Op, block: Block, plan: Plan) -> Op:
        """A value and a 16-bit position per non-zero."""
        density = self.density(plan)
        if density == 1.0:
            return op
        bits = next(8.0 * t.bytes() / t.elements() for t in op.reads if _weight(t))
        return stored(op, density * (1.0 + 16.0 / bits))


@register(
    "pit",
    kind="pass",
    area="serving",
    family="sparsity",
    cites=("Zheng et al. 2023 (PIT), arXiv 2301.10936",),
    catalogue=("SparseGPT, Flash-LLM, PIT, LLM-Pruner",),
    claims=(
        Claim(
            "dynamic sparse computation up to 5.9×, on average 2.43×, over other compilers",
            "abstract of arXiv 2301.10936",
        ),
    ),
    validated_by="closed_form",
)
class PIT(SparseMatrices):
    """Dynamic sparsity: rows and columns that are zero are gathered away, so bytes and FLOPs shrink alike."""

    quality = "results do not change: only zeros are skipped (abstract of arXiv 2301.10936)"
    drops = False

    def sparse(self, op: Op, block: Block, plan: Plan) -> Op:
        """Dense tiles out of what is not zero."""
        return narrowed(op, self.density(plan), ("ffn", "expert_ffn"))


@register(
    "llm-pruner",
    kind="pass",
    area="serving",
    family="sparsity",
    cites=("Ma et al. 2023 (LLM-Pruner), arXiv 2305.11627",),
    catalogue=("SparseGPT, Flash-LLM, PIT, LLM-Pruner",),
    validated_by="closed_form",
)
class LLMPruner(WeightSparsity):
    """Coupled structures are removed: attention heads and MLP channels of every layer, dense kernels on what remains.

    The cache keeps its size here (key and value heads stay).
    """

    default = 0.8

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """Every Op of the layer narrows with its heads and channels."""
        share = self.density(plan)
        cut = block.map(
            lambda op: op if op.kind is OpKind.ATTENTION else narrowed(op, share, ("heads", "ffn", "expert_ffn"))
        )
        return replace(cut, states=cut.parameters)


@register(
    "deja-vu",
    kind="pass",
    area="serving",
    family="sparsity",
    cites=("Liu et al. 2023 (Deja Vu), ICML 2023",),
    catalogue=("Deja Vu",),
    claims=(
        Claim(
            "latency of OPT-175B over 2× lower than FasterTransformer, over 6× lower than Hugging Face",
            "README of FMInference/DejaVu @226c4c0",
        ),
    ),
    validated_by="closed_form",
)
class DejaVu(WeightSparsity):
    """A predictor picks the heads and neurons of each token; a batch reads the union of what its tokens need.

    ``sparsity_density``: share of the MLP neurons one token activates; ``sparsity_heads``: share of the attention heads
    (1 = all). With T tokens 1 − (1 − p)^T of the neurons are read and multiplied, so the gain is gone after a few
    sequences and in prefill. ``sparsity_predictor``: rank of the predictors, whose matrices are then read as well; 0 =
    not priced.
    """

    default = 0.1
    quality = "without compromising model quality (README of FMInference/DejaVu)"

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """Narrow MLP and attention projections to the union over the tokens of the iteration."""
        tokens = next((d.size for d in block.boundary.dims if d.name == "seq"), 1)
        neurons = union_density(self.density(plan), tokens)
        heads = union_density(float(str(plan.option("sparsity_heads", 1.0))), tokens)
        rank = int(str(plan.option("sparsity_predictor", 0)))
        ops: list[Op] = []
        predictors: list[Tensor] = []
        for op in block.forward:
            if rank and op.name == "mlp.up" and self.density(plan) < 1.0:
                ops.append(_predictor(op, rank))
                predictors.append(ops[-1].reads[1])
            ops.append(
                op if op.kind is OpKind.ATTENTION else narrowed(narrowed(op, neurons, ("ffn",)), heads, ("heads",))
            )
        return replace(block, forward=tuple(ops), states=(*(block.states or block.parameters), *predictors))


def _predictor(op: Op, rank: int) -> Op:
    """The two low-rank matrices that predict the active neurons of the layer, as one GEMM over both."""
    hidden, neurons = op.flop_dims[-2], op.flop_dims[-1]
    wide = Dim.of("predictor", max(1, rank * (hidden.size + neurons.size) // hidden.size))
    weight = Tensor(f"{op.name}.predictor.weight", TensorClass.PARAM, (hidden, wide), op.dtype)
    out = Tensor(f"{op.name}.predictor.out", TensorClass.ACTIVATION, (*op.flop_dims[:-2], wide), op.dtype)
    return replace(
        op, name=f"{op.name}.predictor", reads=(op.reads[0], weight), writes=(out,), saves=(),
        flop_dims=(*op.flop_dims[:-1], wide), sharding=(),
    )  # fmt: skip
