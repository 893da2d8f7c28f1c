"""Activations outside HBM by a fixed rule: vDNN, SuperNeurons, FlashNeuron, plain activation offload, MPress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from simulator.registry import register
from simulator.strategies.offload.copies import Route, evict_activations
from simulator.strategies.protocols import PassStage
from simulator.strategies.recompute.dropping import recompute_chain, recompute_tensors
from simulator.workload.framework import Framework
from simulator.workload.model import ModelSpec
from simulator.workload.ops import Block, Op, OpKind, Tier
from simulator.workload.plan import Plan

__all__ = ["VDNN", "ActivationOffload", "FlashNeuron", "MPress", "SuperNeurons"]


@register(
    "activation-offload", kind="pass", area="training", family="offload",
    cites=("Rajbhandari et al. 2021 (ZeRO-Infinity), arXiv 2104.07857 §5.1",), validated_by="closed_form",
)  # fmt: skip
class ActivationOffload:
    """Saved activations of every layer go to the host after use and come back a layer ahead of their backward.

    ``offload_share`` (1) is the share of the saved bytes that leaves, ``offload_prefetch`` (1) the layers ahead.
    """

    name: str
    stage = PassStage.OFFLOAD
    tier: ClassVar[Tier] = Tier.HOST
    direct: ClassVar[bool] = False

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """The share must be one."""
        share = float(str(plan.option("offload_share", 1.0)))
        return "" if 0 <= share <= 1 else f"offload_share {share} is not between 0 and 1"

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """Evict and fetch."""
        if block.name != "layer":
            return block
        share = float(str(plan.option("offload_share", 1.0)))
        route = Route(self.tier, self.direct, int(str(plan.option("offload_prefetch", 1))), share=share)
        return evict_activations(block, {t.name: route for t in block.saved})


@register(
    "vdnn", kind="pass", area="training", family="offload", cites=("Rhu et al. 2016 (vDNN), arXiv 1602.08124",),
    catalogue=("vDNN, SuperNeurons",), validated_by="closed_form",
)  # fmt: skip
class VDNN(ActivationOffload):
    """Static offload of every layer's saved activations over PCIe, prefetched in the backward."""


@register(
    "superneurons", kind="pass", area="training", family="offload",
    cites=("Wang et al. 2018 (SuperNeurons), arXiv 1801.04380",), catalogue=("vDNN, SuperNeurons",),
    validated_by="closed_form",
)  # fmt: skip
class SuperNeurons(ActivationOffload):
    """Results of cheap layers (elementwise) are computed again, those of expensive ones (GEMM, attention) offloaded.

    A result is cheap if no GEMM and no attention must run again for it, given what is offloaded.
    """

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """Drop what is cheap, then evict the rest."""
        if block.name != "layer":
            return block
        saved = {t.name for t in block.saved}
        made = {t.name for op in block.forward for t in op.writes}

        def is_cheap(name: str) -> bool:
            again = recompute_chain(block.forward, {name}, saved - {name})
            return all(op.kind is OpKind.ELEMENTWISE for op in again)

        cheap = {name for name in saved & made if is_cheap(name)}
        return super().apply(recompute_tensors(block, cheap), plan, framework)


@register(
    "flashneuron", kind="pass", area="training", family="offload", cites=("Bae et al. 2021 (FlashNeuron), FAST 21",),
    catalogue=("FlashNeuron",), validated_by="closed_form",
)  # fmt: skip
class FlashNeuron(ActivationOffload):
    """Activations go directly to NVMe, compressed to ``offload_compression`` (1 = not) of their size."""

    tier = Tier.NVME
    direct = True

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """As activation offload; compressed bytes travel."""
        block = super().apply(block, plan, framework)
        volume = float(str(plan.option("offload_compression", 1.0)))

        def smaller(ops: tuple[Op, ...]) -> tuple[Op, ...]:
            wires = ((op, replace(op.wire, volume=op.wire.volume * volume)) for op in ops)
            return tuple(replace(op, wire=wire) if op.kind is OpKind.COPY else op for op, wire in wires)

        return replace(block, forward=smaller(block.forward), gather_backward=smaller(block.gather_backward))


@register(
    "mpress", kind="pass", area="training", family="offload",
    cites=("Zhou et al. 2023 (MPress), HPCA 23",), catalogue=("MPress",), validated_by="closed_form",
)  # fmt: skip
class MPress(ActivationOffload):
    """Early pipeline stages swap activations to the spare memory of later ones over the scale-up links.

    Stage i of p holds p − i micro-batches under 1F1B; what exceeds the mean (p + 1)/2 leaves.
    """

    tier = Tier.PEER

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """Needs a pipeline whose stages differ."""
        if plan.pipeline_parallel < 2:
            return "offload mpress swaps between pipeline stages: use pipeline_parallel 2 or more"
        return super().check(model, plan)

    def layer_options(self, plan: Plan, layers: int, stage: int, stages: int) -> Sequence[Mapping[str, object]]:
        """Share that leaves by stage."""
        rank, ranks = stage % plan.pipeline_parallel, plan.pipeline_parallel
        share = max(0.0, 1 - (ranks + 1) / 2 / (ranks - rank))
        return [{"offload_share": share}] * layers
