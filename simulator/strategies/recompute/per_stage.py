"""Recomputation by pipeline stage: early stages hold more micro-batches and recompute more layers."""

from __future__ import annotations

from collections.abc import Mapping

from simulator.registry import register
from simulator.strategies.protocols import PassStage
from simulator.workload.framework import Framework
from simulator.workload.model import ModelSpec
from simulator.workload.ops import Block
from simulator.workload.plan import Plan

__all__ = ["PerStageRecompute"]


@register(
    "per-stage",
    kind="pass",
    area="training",
    family="recompute",
    cites=("Lai et al. 2022 (Merak), arXiv 2206.04959",),
    catalogue=("Merak",),
    validated_by="closed_form",
)
class PerStageRecompute:
    """``recomputed_layers``: how many layers of each stage are recomputed in full, the others kept."""

    name: str
    stage = PassStage.RECOMPUTE

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """One number per virtual stage."""
        counts, stages = plan.option("recomputed_layers"), plan.pipeline_parallel * plan.virtual_stages
        if not isinstance(counts, tuple) or len(counts) != stages or not all(isinstance(c, int) for c in counts):
            return f"per-stage recomputation needs recomputed_layers: one number for each of the {stages} stages"
        return ""

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """Layers are compiled under their own options; other blocks are kept."""
        return block

    def layer_options(self, plan: Plan, layers: int, stage: int, stages: int) -> list[Mapping[str, object]]:
        """The first layers of a stage are recomputed."""
        counts = plan.option("recomputed_layers")
        count = min(layers, counts[stage]) if isinstance(counts, tuple) else 0
        return [{"recompute": "full" if i < count else "none"} for i in range(layers)]
