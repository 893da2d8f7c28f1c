"""Gradients that travel smaller than they are: 1-bit, top-k, random sparsification with quantisation, low rank.

A compressed reduction sends ``volume`` times the bytes of the plain one in the same pattern (all-to-all, sum at the
owner, all-gather, each of compressed chunks). Encoding reads the gradient and the error kept from the last step and
writes both; that memory and that time are counted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import ClassVar

from simulator.registry import Claim, register
from simulator.strategies.communication.base import CommunicationPass, gradient_reductions, number, positive_options
from simulator.strategies.protocols import CommunicationTraits
from simulator.workload.framework import Framework
from simulator.workload.model import ModelSpec
from simulator.workload.ops import DTYPE_BYTES, Block, Op, OpKind, Phase, Stream, Tensor
from simulator.workload.plan import Plan

__all__ = ["CocktailSGD", "CompressedGradients", "OneBitAdam", "OneBitLamb", "OptimusCC", "TopK", "ZeroOneAdam"]

Limits = dict[str, tuple[float, float, float]]

INDEX_BITS = 32


class CompressedGradients(CommunicationPass, ABC):
    """Base: subclasses say how many bits of each gradient element travel on average."""

    changes = "compression"
    error_feedback: ClassVar[bool] = True
    limits: ClassVar[Limits] = {}

    @abstractmethod
    def bits(self, plan: Plan, plain: float) -> float:
        """Bits on the wire per gradient element, of ``plain`` bits uncompressed."""

    def every(self, plan: Plan) -> int:
        """Steps per synchronisation."""
        return 1

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """Gradients must be reduced once per step, whole."""
        if plan.zero_stage >= 2:
            return f"{self.name} keeps the error of whole gradients: use zero_stage 0 or 1, have {plan.zero_stage}"
        return positive_options(plan, self.limits)

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """Encode, send less, and keep the error."""
        compressed: list[Tensor] = []

        def change(op: Op) -> tuple[Op, ...]:
            plain = 8 * DTYPE_BYTES[op.reads[0].dtype]
            volume = min(1.0, self.bits(plan, plain) / plain)
            if volume == 1.0 and self.every(plan) == 1:
                return (op,)
            every = max(op.wire.every, self.every(plan))
            wire = replace(op.wire, volume=op.wire.volume * volume, every=every)
            sent = replace(op, wire=wire)
            if volume == 1.0:
                return (sent,)
            errors = tuple(self._error(t) for t in op.reads) if self.error_feedback else ()
            compressed.extend(errors)
            encode = Op(
                f"{op.name}.encode",
                OpKind.ELEMENTWISE,
                Phase.OPTIMIZER,
                "fp32",
                (*op.reads, *errors),
                errors,
                stream=Stream.COMPUTE,
                wire=replace(op.wire, every=every),
            )
            return (encode, sent)

        changed = gradient_reductions(block, change)
        return replace(changed, states=(*changed.states, *compressed))

    def _error(self, gradient: Tensor) -> Tensor:
        return replace(gradient, name=f"{gradient.name}.error", dtype="fp32")


_TANG = "Tang et al. 2021 (1-bit Adam), arXiv 2102.02888"


@register(
    "1-bit-adam",
    kind="pass",
    area="training",
    family="communication",
    cites=(_TANG,),
    catalogue=("1-bit Adam / LAMB, 0/1 Adam",),
    claims=(
        Claim(
            "up to 5 times less communication over a whole training, warm-up included",
            "arXiv 2102.02888 abstract; deepspeed.ai/tutorials/onebit-adam",
        ),
    ),
    validated_by="closed_form",
)
class OneBitAdam(CompressedGradients):
    """One bit per element after a warm-up: ``warmup_share`` of the steps (0: the compressed stage alone) are plain."""

    limits: ClassVar[Limits] = {"warmup_share": (0.0, 0.0, 1.0)}
    quality = (
        "same convergence as Adam is claimed after a warm-up that lets the variance settle (arXiv "
        "2102.02888); sample efficiency outside its experiments is not known"
    )

    def bits(self, plan: Plan, plain: float) -> float:
        """Mean over warm-up and compressed steps."""
        warm = number(plan, "warmup_share", 0.0)
        return warm * plain + (1 - warm)


@register(
    "1-bit-lamb",
    kind="pass",
    area="training",
    family="communication",
    cites=("Li et al. 2021 (1-bit LAMB), arXiv 2104.06069",),
    catalogue=("1-bit Adam / LAMB, 0/1 Adam",),
    claims=(Claim("overall communication reduced by up to 4.6 times", "deepspeed.ai/tutorials/onebit-lamb"),),
    validated_by="closed_form",
)
class OneBitLamb(OneBitAdam):
    """1-bit Adam's compression under LAMB, for large batches."""

    quality = (
        "same sample efficiency as LAMB is claimed for BERT-Large (deepspeed.ai/tutorials/onebit-lamb); not "
        "known elsewhere"
    )


@register(
    "0/1-adam",
    kind="pass",
    area="training",
    family="communication",
    cites=("Lu et al. 2022 (0/1 Adam), arXiv 2202.06009",),
    catalogue=("1-bit Adam / LAMB, 0/1 Adam",),
    claims=(
        Claim(
            "up to 2 times the throughput of 1-bit Adam, up to 87 % less data in up to 54 % fewer rounds, BERT-Large",
            "arXiv 2202.06009 abstract",
        ),
    ),
    validated_by="ratio",
)
class ZeroOneAdam(OneBitAdam):
    """One bit per element, and only every ``local_steps``-th step synchronises."""

    limits: ClassVar[Limits] = {"warmup_share": (0.0, 0.0, 1.0), "local_steps": (1, 1, 1e6)}
    quality = (
        "same final quality is claimed on BERT, GPT-2 and ImageNet (deepspeed.ai/tutorials/zero-one-adam); "
        "local steps are stale"
    )

    def every(self, plan: Plan) -> int:
        """Rounds are skipped."""
        return int(number(plan, "local_steps", 1))


@register(
    "top-k",
    kind="pass",
    area="training",
    family="communication",
    cites=("Lin et al. 2018 (Deep gradient compression), arXiv 1712.01887",),
    catalogue=("CocktailSGD",),
    validated_by="closed_form",
)
class TopK(CompressedGradients):
    """The largest ``density`` (1 %) of the elements travel, each with its 32-bit index; density 1 is the plain sum."""

    limits: ClassVar[Limits] = {"density": (0.01, 0.0, 1.0)}
    quality = (
        "sparsified gradients converge with error feedback, momentum correction and warm-up (arXiv "
        "1712.01887); check the loss"
    )

    def bits(self, plan: Plan, plain: float) -> float:
        """Value and index of those that travel."""
        density = number(plan, "density", 0.01)
        return density * (plain + INDEX_BITS) if density < 1 else plain


@register(
    "cocktail-sgd",
    kind="pass",
    area="training",
    family="communication",
    cites=("Wang et al. 2023 (CocktailSGD), ICML",),
    catalogue=("CocktailSGD",),
    validated_by="closed_form",
)
class CocktailSGD(CompressedGradients):
    """Random sparsification, top-k of what is left, quantisation: ``random_share`` · ``top_share`` · bits and an index.

    The random part needs no indices (a shared seed); inside it an index takes as many bits as a bitmap or a list
    needs, whichever is less. Defaults 0.1, 0.2 and 4 bits.
    """

    limits: ClassVar[Limits] = {
        "random_share": (0.1, 0.0, 1.0),
        "top_share": (0.2, 0.0, 1.0),
        "quantized_bits": (4, 1, 32),
    }
    quality = "aggressive compression during fine-tuning; the loss must be checked against the uncompressed run"

    def bits(self, plan: Plan, plain: float) -> float:
        """Bits of one element in the mean; with both shares 1 and full width the plain sum."""
        drawn, top = number(plan, "random_share", 0.1), number(plan, "top_share", 0.2)
        width = min(plain, number(plan, "quantized_bits", 4))
        index = min(1.0, top * INDEX_BITS) if top < 1 else 0.0
        return drawn * (top * width + index)


@register(
    "optimus-cc",
    kind="pass",
    area="training",
    family="communication",
    cites=("Song et al. 2023 (Optimus-CC), arXiv 2301.09830",),
    catalogue=("Optimus-CC",),
    validated_by="closed_form",
)
class OptimusCC(CompressedGradients):
    """Low-rank gradients where they are on the critical path: data-parallel sums and messages between stages.

    Options: ``compression_ratio`` of data-parallel gradients (8), ``stage_share`` of the stages whose gradients are
    compressed (1), ``backprop_ratio`` of gradients sent between stages (1 = plain).
    """

    limits: ClassVar[Limits] = {
        "compression_ratio": (8, 1, 1e4),
        "stage_share": (1, 0, 1),
        "backprop_ratio": (1, 1, 1e4),
    }
    quality = (
        "low-rank compression with lazy error propagation; whether quality holds must be checked, limiting it"
        " to the critical path is meant to keep it (arXiv 2301.09830)"
    )

    def bits(self, plan: Plan, plain: float) -> float:
        """Ratio on the compressed stages, plain on the others, in the mean."""
        share = number(plan, "stage_share", 1)
        return plain * (share / number(plan, "compression_ratio", 8) + 1 - share)

    def traits(self, plan: Plan) -> CommunicationTraits:
        """Backward messages shrink."""
        return CommunicationTraits(pipeline_volume=1 / number(plan, "backprop_ratio", 1))
