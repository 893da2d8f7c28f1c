"""The keys of a queue of jobs: where they come from, who is next, and where they run."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from simulator.scenario.fields import Count, Duration, Rate, Ratio, StrategyName, TextOrMapping
from simulator.scenario.spec_base import AcceleratorCount, Options, Strict

__all__ = ["DeadlinesSpec", "ElasticSpec", "JobsSpec"]


class DeadlinesSpec(Strict):
    """Deadlines: ``slack`` times the run time after the submission, for a ``share`` of the jobs."""

    slack: Annotated[Ratio, Field(gt=0)]
    share: Annotated[Ratio, Field(gt=0, le=1)] = 1.0


class ElasticSpec(Strict):
    """Goodput of elastic jobs with other than the accelerators they ask for (Pollux), in ratios."""

    noise_scale: Annotated[Ratio, Field(ge=0)]
    synchronisation: Annotated[Ratio, Field(ge=0)]
    inside_node: Annotated[Ratio, Field(ge=0)] = 0.0
    retrogression: Annotated[Ratio, Field(ge=0)] = 0.0
    fixed: Annotated[Ratio, Field(ge=0, le=1)] = 0.0
    overlap: Annotated[Ratio, Field(ge=1)] = 1.0
    largest_batch: Annotated[Ratio, Field(ge=1)] = 16.0
    smallest: Annotated[Ratio, Field(ge=0, le=1)] = 0.0
    largest: Annotated[Ratio, Field(ge=1)] = 16.0


class JobsSpec(Strict):
    """Jobs that queue for ``nodes`` of the cluster; the value of ``jobs`` is the name of the queue.

    ``rate`` scales the time axis of a trace to this mean rate, or replaces the rate of a mix.
    """

    jobs: str
    trace: str | None = None
    mix: TextOrMapping = None
    rate: Annotated[Rate, Field(gt=0)] | None = None
    count: Annotated[Count, Field(ge=1)] | None = None
    duration: Annotated[Duration, Field(gt=0)] | None = None
    largest: Annotated[Count, Field(ge=1)] | None = None
    skip_bad_rows: bool = False
    nodes: AcceleratorCount | None = None
    nodes_per_leaf: AcceleratorCount | None = None
    queue: Annotated[str, StrategyName(("job_queue",))] = "fifo"
    queue_options: Options = Field(default_factory=dict)
    placement: Annotated[str, StrategyName(("placement",))] = "best-fit"
    placement_options: Options = Field(default_factory=dict)
    tenants: dict[str, Annotated[Ratio, Field(gt=0, le=1)]] = Field(default_factory=dict)
    preemption: Annotated[Duration, Field(ge=0)] = 0.0
    migration: Annotated[Duration, Field(ge=0)] | None = None
    restart: Annotated[Duration, Field(ge=0)] | None = None
    checkpoint: Annotated[Duration, Field(gt=0)] | None = None
    spread: Annotated[Ratio, Field(gt=0, le=1)] = 1.0
    deadlines: DeadlinesSpec | None = None
    elastic: ElasticSpec | None = None
    borrow: str | None = None
