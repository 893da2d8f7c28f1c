"""The keys of a training job's ``rollout``: the text it generates and learns from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from simulator.scenario.fields import Count, StrategyName, TokenLaw
from simulator.scenario.spec_base import AcceleratorCount, FrameworkName, Strict

__all__ = ["RolloutPlanSpec", "RolloutSpec"]


class RolloutPlanSpec(Strict):
    """How one replica of the generating engine is spread."""

    tensor_parallel: AcceleratorCount = 1
    pipeline_parallel: AcceleratorCount = 1
    precision: Annotated[str, StrategyName(("precision", "quantization"))] = "bf16"


class RolloutSpec(Strict):
    """Generation before every step: ``global_batch_size`` answers by an engine, scored and learned from.

    ``colocated`` takes turns on the accelerators of the plan, ``disaggregated`` adds ``nodes`` of its own, which may
    run ``lag`` updates ahead.
    """

    method: Annotated[str, StrategyName(("rollout",))] = "grpo"
    framework: FrameworkName
    prompt_tokens: TokenLaw
    response_tokens: TokenLaw
    plan: RolloutPlanSpec = Field(default_factory=RolloutPlanSpec)
    placement: Literal["colocated", "disaggregated"] = "colocated"
    nodes: AcceleratorCount | None = None
    lag: Annotated[Count, Field(ge=0, le=1)] = 0
    offload: bool = True
