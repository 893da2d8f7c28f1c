"""The keys of ``deployment:``: replicas of an engine, how many there are and when, and what they do with requests."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from simulator.scenario.fields import (
    Bandwidth,
    Count,
    Data,
    Duration,
    Money,
    OneOrMany,
    Ratio,
    StrategyName,
    TextOrMapping,
)
from simulator.scenario.spec_base import AcceleratorCount, ModelName, NodeName, Options, Strict
from simulator.scenario.spec_instances import InstancesSpec
from simulator.scenario.spec_requests import RequestsSpec

__all__ = [
    "AutoscalingSpec", "CascadeSpec", "DeploymentSpec", "DiffusionSpec", "EngineSpec", "FunctionsSpec", "GroupSpec",
    "MigrationSpec", "PoolSpec", "PoolsSpec", "ServingPlanSpec", "SharingSpec", "SparsitySpec", "SpotSpec",
    "TierSpec",
]  # fmt: skip


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


class FunctionsSpec(Strict):
    """Functions that take requests which would wait too long, at ``price`` each and ``speed`` of a replica alone."""

    startup: Annotated[Duration, Field(ge=0)] = 0.0
    speed: Annotated[Ratio, Field(gt=0)] = 1.0
    price: Annotated[Money, Field(ge=0)] = 0.0


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
    functions: FunctionsSpec | None = None
    options: Options = Field(default_factory=dict)


class SpotSpec(Strict):
    """Machines that may be taken away: each after ``mean_life`` on average, with ``grace`` between notice and end.

    With a ``recovery`` the requests of such a machine move to others within the grace; else they begin again.
    """

    mean_life: Annotated[Duration, Field(gt=0)]
    grace: Annotated[Duration, Field(ge=0)] = 30.0
    price: Annotated[Ratio, Field(gt=0, le=1)] = 1.0
    recovery: Annotated[str, StrategyName(("autoscaling",), kind="planner")] | None = None


class MigrationSpec(Strict):
    """Running requests move between replicas; ``options`` are the policy's own parameters."""

    policy: Annotated[str, StrategyName(("migration",))] = "llumnix"
    interval: Annotated[Duration, Field(gt=0)] = 0.05
    options: Options = Field(default_factory=dict)


class SparsitySpec(Strict):
    """Weights that are pruned or skipped: ``density`` of them remains; further parameters as the method has them."""

    method: Annotated[str, StrategyName(("sparsity",))]
    density: Annotated[Ratio, Field(gt=0, le=1)] | None = None
    heads: Annotated[Ratio, Field(gt=0, le=1)] | None = None
    pattern: Literal["unstructured", "2:4"] | None = None
    predictor: Annotated[Count, Field(ge=0)] | None = None


class TierSpec(Strict):
    """A slower home of cached prefixes: host memory, NVMe, a pool that all replicas share (``shared``)."""

    name: str
    capacity: Annotated[Data, Field(gt=0)]
    bandwidth: Annotated[Bandwidth, Field(gt=0)]
    latency: Annotated[Duration, Field(ge=0)] = 0.0
    shared: bool = False


class EngineSpec(Strict):
    """One engine and its sizes; what is left out is the framework's default."""

    plan: ServingPlanSpec = Field(default_factory=ServingPlanSpec)
    batching: Annotated[str, StrategyName(("batching",))] | None = None
    kv_cache: Annotated[str, StrategyName(("kv_cache",))] | None = None
    max_batched_tokens: Annotated[Count, Field(ge=1)] | None = None
    max_num_seqs: Annotated[Count, Field(ge=1)] | None = None
    max_model_len: Annotated[Count, Field(ge=1)] | None = None
    block_size: Annotated[Count, Field(ge=1)] | None = None
    memory_utilization: Annotated[Ratio, Field(gt=0, le=1)] | None = None
    kv_dtype: Literal["fp32", "fp16", "bf16", "fp8", "int8", "int4"] | None = None
    sparsity: SparsitySpec | None = None


class PoolSpec(EngineSpec):
    """Equal replicas of one pool, on nodes of one ``profile`` where the cluster has several kinds."""

    replicas: AcceleratorCount = 1
    profile: NodeName | None = None


class PoolsSpec(Strict):
    """Prompts on the replicas of one pool, tokens on those of another; keys left out are those of the deployment."""

    policy: Annotated[str, StrategyName(("disaggregation",))] = "distserve"
    prefill: PoolSpec = Field(default_factory=PoolSpec)
    decode: PoolSpec = Field(default_factory=PoolSpec)
    options: Options = Field(default_factory=dict)


class GroupSpec(Strict):
    """``count`` equal replicas among others that differ in their plan or their nodes."""

    count: AcceleratorCount = 1
    plan: ServingPlanSpec | None = None
    max_batched_tokens: Annotated[Count, Field(ge=1)] | None = None
    max_num_seqs: Annotated[Count, Field(ge=1)] | None = None
    profile: NodeName | None = None


class DiffusionSpec(Strict):
    """How a diffusion model makes an image: ``tokens`` of it (its model's own size by default), guided or not."""

    tokens: Annotated[Count, Field(ge=1)] | None = None
    guidance: bool = True


class SmallSpec(PoolSpec):
    """The small model of a cascade on replicas of its own."""

    model: ModelName


class CascadeSpec(Strict):
    """A small model answers first; ``reroute`` of the requests ask the deployment's own model too."""

    method: Literal["tabi", "edgefm"] = "tabi"
    small: SmallSpec
    reroute: Annotated[Ratio, Field(ge=0, le=1)]
    pruned: Annotated[Ratio, Field(ge=0, lt=1)] = 0.0
    delay: Annotated[Duration, Field(ge=0)] = 0.0


class MemberSpec(Strict):
    """A model that shares the replicas; each of its queries is one answer, wanted within ``deadline``."""

    model: ModelName
    requests: RequestsSpec
    deadline: Annotated[Duration, Field(gt=0)] | None = None
    urgent: bool = False
    family: str = ""
    accuracy: Annotated[Ratio, Field(gt=0, le=1)] = 1.0
    wanted_accuracy: Annotated[Ratio, Field(ge=0, le=1)] = 0.0
    cost: Annotated[float, Field(ge=0)] = 0.0


class SharingSpec(Strict):
    """Models beside the deployment's own on the same replicas, and who runs when; ``options`` are the policy's own."""

    policy: Annotated[str, StrategyName(("model_scheduling",))] = "clockwork"
    urgent: bool = False
    family: str = ""
    accuracy: Annotated[Ratio, Field(gt=0, le=1)] = 1.0
    wanted_accuracy: Annotated[Ratio, Field(ge=0, le=1)] = 0.0
    cost: Annotated[float, Field(ge=0)] = 0.0
    models: Annotated[list[MemberSpec], OneOrMany()] = Field(default_factory=list)
    options: Options = Field(default_factory=dict)


class DeploymentSpec(EngineSpec):
    """Replicas of an engine behind a router: a number of equal ones, or ``groups`` or ``pools`` of different ones."""

    replicas: AcceleratorCount = 1
    groups: Annotated[list[GroupSpec], OneOrMany()] = Field(default_factory=list)
    pools: PoolsSpec | None = None
    sharing: SharingSpec | None = None
    cascade: CascadeSpec | None = None
    early_exit: Annotated[list[float], Field(min_length=1)] | None = None
    autoscaling: AutoscalingSpec | None = None
    spot: SpotSpec | None = None
    instances: InstancesSpec | None = None
    migration: MigrationSpec | None = None
    router: Annotated[str, StrategyName(("router",))] = "round-robin"
    admission: Annotated[str, StrategyName(("admission",))] = "always"
    preemption: Literal["recompute", "swap"] = "recompute"
    endpoint: Literal["completions", "chat"] = "completions"
    swap_space: Annotated[Data, Field(gt=0)] | None = None
    kv_tiers: Annotated[list[TierSpec], OneOrMany()] = Field(default_factory=list)
    speculation: TextOrMapping = None
    sparse_attention: TextOrMapping = None
    offload: TextOrMapping = None
    adapters: TextOrMapping = None
    decode_attention: TextOrMapping = None
    batch_overlap: TextOrMapping = None
    diffusion: DiffusionSpec | None = None
    options: Options = Field(default_factory=dict)
