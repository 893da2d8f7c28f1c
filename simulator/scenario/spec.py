"""The keys of a scenario file, exactly: pydantic models that hold what was written, in SI units.

Names that refer to other files (profiles, models, frameworks) and to strategies stay names here;
:mod:`simulator.scenario.load` resolves them. ``docs/glossary.md`` explains the keys to users.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag

from simulator.scenario.fields import (
    Bandwidth,
    Count,
    Data,
    Duration,
    HourlyCarbon,
    HourlyPrice,
    Interval,
    OneOrMany,
    Ratio,
    StrategyName,
    TextOrMapping,
    TopologyName,
)  # fmt: skip
from simulator.scenario.spec_base import (
    AcceleratorCount,
    ClusterName,
    FrameworkName,
    LinkName,
    ModelName,
    NodeName,
    Options,
    Strict,
)
from simulator.scenario.spec_deployment import DeploymentSpec
from simulator.scenario.spec_fabric import BackgroundSpec, LinkFaultSpec, RoutingSpec
from simulator.scenario.spec_functions import FunctionsSpec, PlaceSpec
from simulator.scenario.spec_goal import GoalSpec
from simulator.scenario.spec_jobs import JobsSpec
from simulator.scenario.spec_money import PriceSpec
from simulator.scenario.spec_power import PowerSpec, RackSpec
from simulator.scenario.spec_requests import RequestsSpec
from simulator.scenario.spec_rollout import RolloutSpec
from simulator.scenario.spec_security import SecuritySpec
from simulator.scenario.spec_stages import StageSpec

__all__ = [
    "BatchSpec", "CheckpointSpec", "ClusterSpec", "FabricSpec", "NodesSpec", "PlanSpec", "RequestsSpec",
    "ScenarioSpec", "ServingSpec", "SiteSpec", "SloSpec", "StorageSpec", "TrainingSpec",
]  # fmt: skip

TRAINING_TAG, SERVING_TAG, FUNCTIONS_TAG, JOBS_TAG = "a training job", "a deployment", "functions", "a queue of jobs"
"""Tags of the workload union; with a blank, so that they never equal a key of the document."""
KIND_TAGS = {"training": TRAINING_TAG, "serving": SERVING_TAG, "functions": FUNCTIONS_TAG, "jobs": JOBS_TAG}
"""Kind of a workload by the key that names it."""
WORKLOAD_KEYS = "'training: NAME', 'serving: NAME', 'functions: NAME' or 'jobs: NAME'"
"""How a workload begins."""


class NodesSpec(Strict):
    """Equal nodes."""

    profile: NodeName
    count: Annotated[Count, Field(ge=1, le=1_000_000)]


class FabricSpec(Strict):
    """The network between nodes; what is left out follows the node's own network ports."""

    topology: Annotated[str, TopologyName()] = "fat-tree"
    link: LinkName | None = None
    bandwidth: Bandwidth | None = None
    latency: Duration | None = None
    oversubscription: Annotated[Ratio, Field(ge=1)] = 1.0
    routing: RoutingSpec = Field(default_factory=RoutingSpec)
    faults: Annotated[list[LinkFaultSpec], OneOrMany()] = Field(default_factory=list)
    options: Options = Field(default_factory=dict)


class StorageSpec(Strict):
    """A shared storage tier."""

    name: str = "parallel-fs"
    kind: Literal["nvme", "parallel-fs", "object-store"] = "parallel-fs"
    read: Bandwidth
    write: Bandwidth
    capacity: Data = 0.0
    latency: Duration = 0.0


class SiteSpec(Strict):
    """Electricity of the place."""

    name: str = "site"
    power_price: HourlyPrice = (0.0,)
    carbon: HourlyCarbon = (0.0,)
    pue: Annotated[Ratio, Field(ge=1)] = 1.0


class ClusterSpec(Strict):
    """Nodes with their fabric, or a named cluster whose parts may be replaced."""

    profile: ClusterName | None = None
    nodes: Annotated[list[NodesSpec], OneOrMany(), Field(min_length=1)] | None = None
    fabric: FabricSpec | None = None
    storage: Annotated[list[StorageSpec], OneOrMany()] = Field(default_factory=list)
    site: SiteSpec | None = None
    power: PowerSpec | None = None
    rack: RackSpec | None = None
    price: PriceSpec | None = None


class BatchSpec(Strict):
    """One training step: sequences per step and per micro-batch, tokens per sequence."""

    global_batch_size: Annotated[Count, Field(ge=1, le=1_000_000)]
    micro_batch_size: Annotated[Count, Field(ge=1, le=1_000_000)] = 1
    sequence_length: Annotated[Count, Field(ge=1, le=1_000_000_000)]


class PlanSpec(Strict):
    """How a training job is spread; ``data_parallel`` left out takes all accelerators that remain.

    ``tensor`` to ``peft`` choose how an axis is cut, states are sharded, gradients travel and adapters are trained;
    what they take besides is in ``options``. ``stages`` describes pipeline stages that differ, one by one.
    """

    tensor_parallel: AcceleratorCount = 1
    sequence_parallel: bool = False
    context_parallel: AcceleratorCount = 1
    pipeline_parallel: AcceleratorCount = 1
    virtual_stages: AcceleratorCount = 1
    data_parallel: AcceleratorCount | None = None
    expert_parallel: AcceleratorCount = 1
    schedule: Annotated[str, StrategyName(("pipeline",))] | None = None
    zero_stage: Annotated[Count, Field(ge=0, le=3)] | None = None
    recompute: Annotated[str, StrategyName(("recompute",), extra=("none",))] = "none"
    precision: Annotated[str, StrategyName(("precision",))] = "bf16"
    offload: Annotated[str, StrategyName(("offload",), extra=("none",))] = "none"
    tensor: Annotated[str, StrategyName(("tensor",))] | None = None
    context: Annotated[str, StrategyName(("context",))] | None = None
    expert: Annotated[str, StrategyName(("expert",))] | None = None
    sharding: Annotated[str, StrategyName(("sharding",))] | None = None
    communication: Annotated[list[Annotated[str, StrategyName(("communication",))]], OneOrMany()] | None = None
    peft: Annotated[str, StrategyName(("peft",))] | None = None
    options: Options = Field(default_factory=dict)
    stages: list[StageSpec] = Field(default_factory=list)


class CheckpointSpec(Strict):
    """When and where the job saves its state."""

    every: Interval
    to: str = "parallel-fs"
    mode: Literal["sync", "async"] = "async"


class TrainingSpec(Strict):
    """A training job; the value of ``training`` is its name."""

    training: str
    model: ModelName
    framework: FrameworkName
    batch: BatchSpec
    steps: Annotated[Count, Field(ge=1)] = 1
    start: Annotated[Duration, Field(ge=0)] = 0.0
    nodes: AcceleratorCount | None = None
    plan: PlanSpec = Field(default_factory=PlanSpec)
    checkpoint: CheckpointSpec | None = None
    recovery: Annotated[str, StrategyName(("recovery",))] = "checkpoint-restart"
    goal: GoalSpec | None = None
    rollout: RolloutSpec | None = None


class SloSpec(Strict):
    """Latency limits at a percentile; one that is left out does not bind."""

    ttft: Annotated[Duration, Field(ge=0)] = 0.0
    tpot: Annotated[Duration, Field(ge=0)] = 0.0
    e2e: Annotated[Duration, Field(ge=0)] = 0.0
    percentile: Annotated[float, Field(gt=0, le=100)] = 90.0


class ServingSpec(Strict):
    """A served model; the value of ``serving`` is its name."""

    serving: str
    model: ModelName
    framework: FrameworkName
    requests: RequestsSpec
    deployment: DeploymentSpec = Field(default_factory=DeploymentSpec)
    slo: SloSpec = Field(default_factory=SloSpec)


def _kind_of(value: Any) -> str | None:
    """What a workload is, by the key it has; nothing where several are there."""
    has = value.__contains__ if isinstance(value, dict) else lambda key: hasattr(value, key)
    found = [tag for key, tag in KIND_TAGS.items() if has(key)]
    return found[0] if len(found) == 1 else None


WorkloadSpec: TypeAlias = Annotated[
    Annotated[TrainingSpec, Tag(TRAINING_TAG)]
    | Annotated[ServingSpec, Tag(SERVING_TAG)]
    | Annotated[FunctionsSpec, Tag(FUNCTIONS_TAG)]
    | Annotated[JobsSpec, Tag(JOBS_TAG)],
    Discriminator(
        _kind_of,
        custom_error_type="workload_kind",
        custom_error_message=f"a workload starts with {WORKLOAD_KEYS}",
    ),
]


class ScenarioSpec(Strict):
    """A scenario file."""

    name: str = "scenario"
    seed: Annotated[Count, Field(ge=0)] = 0
    cluster: ClusterSpec
    sites: list[PlaceSpec] = Field(default_factory=list)
    workloads: Annotated[list[WorkloadSpec], Field(min_length=1)]
    background: Annotated[list[BackgroundSpec], OneOrMany()] = Field(default_factory=list)
    failures: TextOrMapping = None
    security: SecuritySpec | None = None
    until: Annotated[Duration, Field(gt=0)] | None = None
    record: Literal["full", "summary"] = "full"
    constants: dict[str, Annotated[Ratio, Field(gt=0)]] = Field(default_factory=dict)
    what_if: Options = Field(default_factory=dict)
