"""What is asked of a cluster: training jobs and serving deployments, as resolved from a scenario."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from simulator.workload.fleets import Autoscaling, Instances, LiveMigration, SpotMarket
from simulator.workload.framework import Framework
from simulator.workload.goal import Goal
from simulator.workload.model import ModelSpec
from simulator.workload.plan import Plan
from simulator.workload.rollout import Rollout

if TYPE_CHECKING:
    from simulator.workload.requests import RequestTable

__all__ = [
    "Batch",
    "Checkpoint",
    "Denoising",
    "Deployment",
    "Member",
    "Pools",
    "ServiceLevel",
    "Sharing",
    "TrainingJob",
]


@dataclass(frozen=True)
class Batch:
    """Sizes of one training step: sequences per step, sequences per micro-batch, tokens per sequence."""

    global_batch_size: int
    micro_batch_size: int
    sequence_length: int

    def microbatches(self, plan: Plan) -> int:
        """Micro-batches each pipeline runs per step."""
        return self.global_batch_size // (self.micro_batch_size * plan.data_parallel)

    @property
    def tokens(self) -> int:
        """Tokens per step."""
        return self.global_batch_size * self.sequence_length


@dataclass(frozen=True)
class Checkpoint:
    """When and where a job saves its state: ``every`` [s] (None: the optimum), storage tier, synchronous or not."""

    every: float | None
    to: str
    mode: Literal["sync", "async"] = "async"


@dataclass(frozen=True)
class TrainingJob:
    """A training run: model, software, batch, plan, number of steps, strategy after failures, goal, generation."""

    name: str
    model: ModelSpec
    framework: Framework
    batch: Batch
    plan: Plan
    steps: int = 1
    start: float = 0.0
    checkpoint: Checkpoint | None = None
    recovery: str = "checkpoint-restart"
    goal: Goal | None = None
    rollout: Rollout | None = None

    def of_stage(self, rank: int) -> TrainingJob:
        """What one pipeline rank does: its own plan, and its share of the sequences of every micro-batch."""
        plan = self.plan.stage_plans[rank]
        if plan is self.plan:
            return self
        size = self.batch.micro_batch_size * self.plan.data_parallel // plan.data_parallel
        return replace(self, plan=plan, batch=replace(self.batch, micro_batch_size=size))

    @property
    def accelerators(self) -> int:
        """All that the job occupies: those of its plan, and those that only generate."""
        return self.plan.accelerators + (self.rollout.extra_accelerators if self.rollout else 0)


@dataclass(frozen=True)
class ServiceLevel:
    """Latency limits at a percentile: ``ttft`` and ``tpot`` [s], 0 = no limit."""

    ttft: float = 0.0
    tpot: float = 0.0
    e2e: float = 0.0
    percentile: float = 90.0


@dataclass(frozen=True)
class Denoising:
    """A step of a diffusion model: ``passes`` over the ``tokens`` of every image."""

    tokens: int
    passes: int = 1


@dataclass(frozen=True)
class Deployment:
    """A served model: replicas of one plan behind a router.

    Attributes
    ----------
    requests
        The request table, loaded.
    batching, router, kv_cache, admission
        Names of registered policies; an empty ``kv_cache`` is the batching policy's own choice. ``options`` may hold
        the parameters of each under its key.
    max_num_batched_tokens, max_num_seqs, max_model_len, block_size
        Engine limits; the framework's defaults where the scenario says nothing.
    memory_utilization
        Share of device memory the engine may take.
    kv_dtype
        Type of the KV cache.
    preemption
        ``recompute`` or ``swap``.
    endpoint
        What requests are: text (``completions``), or messages that the engine makes text of (``chat``).
    autoscaling, spot
        How the number of replicas changes, ``replicas`` being the most there are; ``None``: it does not.
    migration
        Whether running requests move between replicas.
    items
        Images (or other inputs that a tower encodes) in every request of a multimodal model.
    denoising
        How a diffusion model makes its images; its requests count steps as output tokens.
    early_exit
        Probability that a token leaves after each layer; what is missing to 1 runs through all.
    cascade
        A small model that answers first.
    sharing
        Other models on the same replicas, each a deployment with requests of its own; a query is one answer.
    instances
        Machines that come and go; ``groups`` are then the layouts the plan may change between, on the same machines.
    groups, pools
        Replicas that are not alike, ``replicas`` being all of them: behind one router, or one group for prompts and
        one for tokens.
    """

    name: str
    model: ModelSpec
    framework: Framework
    plan: Plan
    requests: RequestTable
    replicas: int = 1
    batching: str = "chunked-prefill"
    router: str = "round-robin"
    max_num_batched_tokens: int = 8192
    max_num_seqs: int = 256
    max_model_len: int = 0
    block_size: int = 16
    memory_utilization: float = 0.9
    kv_dtype: str = "bf16"
    preemption: str = "recompute"
    endpoint: str = "completions"
    kv_cache: str = ""
    admission: str = "always"
    slo: ServiceLevel = ServiceLevel()
    options: tuple[tuple[str, object], ...] = field(default=())
    autoscaling: Autoscaling | None = None
    spot: SpotMarket | None = None
    migration: LiveMigration | None = None
    items: int = 0
    denoising: Denoising | None = None
    early_exit: tuple[float, ...] = ()
    sharing: Sharing | None = None
    cascade: CascadeChoice | None = None
    groups: tuple[Deployment, ...] = ()
    pools: Pools | None = None
    instances: Instances | None = None

    @property
    def renders_chats(self) -> bool:
        """Whether a template is rendered for every request."""
        return self.endpoint == "chat" and self.model.family not in self.framework.own_chat_formats

    @property
    def movable(self) -> bool:
        """Whether running requests may go on on another replica."""
        saved = self.spot is not None and bool(self.spot.recovery)
        return self.migration is not None or self.instances is not None or saved

    def home(self, replica: int) -> int:
        """The placement a replica is priced on: layouts that take turns on the same machines share one."""
        return 0 if self.instances is not None else replica

    @property
    def parts(self) -> tuple[Deployment, ...]:
        """Equal replicas each: the pools or groups, numbered through in this order, or the deployment itself."""
        if self.pools is not None:
            return self.pools.prefill, self.pools.decode
        if self.cascade is not None:
            return self.cascade.small, self.cascade.large
        return self.groups or (self,)

    @property
    def accelerators(self) -> int:
        """Of all replicas."""
        if self.instances is not None:
            return self.instances.count * self.instances.accelerators
        return sum(part.plan.accelerators * part.replicas for part in self.parts)


@dataclass(frozen=True)
class Pools:
    """Prompts and tokens on replicas of their own.

    Attributes
    ----------
    policy, options
        Registered name of family ``disaggregation``, and its parameters.
    prefill, decode
        The replicas of each, as deployments without requests of their own.
    """

    policy: str
    prefill: Deployment
    decode: Deployment
    options: tuple[tuple[str, object], ...] = ()


@dataclass(frozen=True)
class Member:
    """A model among others: its deployment, and what its queries ask for.

    Attributes
    ----------
    urgent
        Real-time rather than best effort.
    family, accuracy, cost
        Variants of one family may answer each other's queries that take no more than their accuracy.
    """

    deployment: Deployment
    urgent: bool = False
    family: str = ""
    accuracy: float = 1.0
    cost: float = 0.0
    wanted_accuracy: float = 0.0


@dataclass(frozen=True)
class Sharing:
    """Models that share accelerators: name of family ``model_scheduling``, its parameters, and all members."""

    policy: str
    members: tuple[Member, ...]
    options: tuple[tuple[str, object], ...] = ()


@dataclass(frozen=True)
class CascadeChoice:
    """A small model in front of a large one.

    Attributes
    ----------
    method
        Registered name of family ``cascade``.
    small, large
        The replicas of each.
    reroute, pruned, delay
        Share of the requests that ask the large model too, share of their prompt that is dropped then, and time
        between the two [s].
    """

    method: str
    small: Deployment
    large: Deployment
    reroute: float
    pruned: float = 0.0
    delay: float = 0.0
