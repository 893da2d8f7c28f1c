"""The keys of ``deployment:``: replicas of an engine, how many there are and when, and what they do with requests."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from simulator.scenario.fields import Count, Duration, Ratio, StrategyName
from simulator.scenario.spec_base import AcceleratorCount, Options, Strict

__all__ = ["AutoscalingSpec", "DeploymentSpec", "ServingPlanSpec", "SpotSpec"]


class ServingPlanSpec(Strict):
    """How one replica is spread."""

    tensor_parallel: AcceleratorCount = 1
    sequence_parallel: bool = False
    context_parallel: AcceleratorCount = 1
    pipeline_parallel: AcceleratorCount = 1
    data_parallel: AcceleratorCount = 1
    expert_parallel: AcceleratorCount = 1
    precision: Annotated[str, StrategyName(("precision", "quantization"))] = "bf16"
    options: Options = Field(default_factory=dict)


class AutoscalingSpec(Strict):
    """How the number of replicas follows the load; ``options`` are the policy's own parameters.

    A replica that is ordered is ready after ``startup`` and the time its weights take from ``load_from`` over the
    cluster's network.
    """

    policy: Annotated[str, StrategyName(("autoscaling",), kind="policy")]
    min_replicas: Annotated[Count, Field(ge=0)] = 1
    max_replicas: AcceleratorCount
    initial_replicas: Annotated[Count, Field(ge=0)] | None = None
    interval: Annotated[Duration, Field(gt=0)] = 15.0
    startup: Annotated[Duration, Field(ge=0)] | None = None
    load_from: str = "nvme"
    options: Options = Field(default_factory=dict)


class SpotSpec(Strict):
    """Machines that may be taken away: each after ``mean_life`` on average, with ``grace`` between notice and end."""

    mean_life: Annotated[Duration, Field(gt=0)]
    grace: Annotated[Duration, Field(ge=0)] = 30.0
    price: Annotated[Ratio, Field(gt=0, le=1)] = 1.0


class DeploymentSpec(Strict):
    """Replicas of an engine behind a router; what is left out is the framework's default."""

    replicas: AcceleratorCount = 1
    plan: ServingPlanSpec = Field(default_factory=ServingPlanSpec)
    autoscaling: AutoscalingSpec | None = None
    spot: SpotSpec | None = None
    batching: Annotated[str, StrategyName(("batching",))] | None = None
    router: Annotated[str, StrategyName(("router",))] = "round-robin"
    kv_cache: Annotated[str, StrategyName(("kv_cache",))] | None = None
    admission: Annotated[str, StrategyName(("admission",))] = "always"
    max_batched_tokens: Annotated[Count, Field(ge=1)] | None = None
    max_num_seqs: Annotated[Count, Field(ge=1)] | None = None
    max_model_len: Annotated[Count, Field(ge=1)] | None = None
    block_size: Annotated[Count, Field(ge=1)] | None = None
    memory_utilization: Annotated[Ratio, Field(gt=0, le=1)] | None = None
    kv_dtype: Literal["fp16", "bf16", "fp8", "int8", "int4"] | None = None
    preemption: Literal["recompute", "swap"] = "recompute"
    options: Options = Field(default_factory=dict)
