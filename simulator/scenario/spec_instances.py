"""The keys of ``deployment.instances:``: machines that come and go, and the plans their model may have on them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from simulator.scenario.fields import Duration, OneOrMany, Rate, Ratio, StrategyName
from simulator.scenario.spec_base import AcceleratorCount, Strict

__all__ = ["InstancesSpec", "LayoutSpec"]


class ChangeSpec(Strict):
    """At a time so many instances ``join``, or so many that are drawn at random get their notice to ``leave``."""

    at: Annotated[Duration, Field(ge=0)]
    join: AcceleratorCount | None = None
    leave: AcceleratorCount | None = None


class LayoutSpec(Strict):
    """The degrees of a pipeline; there are as many pipelines as instances have room for."""

    tensor_parallel: AcceleratorCount = 1
    pipeline_parallel: AcceleratorCount = 1


class InstancesSpec(Strict):
    """Instances that come and go under a model, which is spread anew over those that are there.

    ``at_start`` of the cluster's nodes are there at the start; ``changes`` happen to them, or each has its notice after
    ``mean_life`` on average and is replaced. A plan is one of ``layouts`` (all that fit by default), chosen by
    ``policy`` to keep up with ``rate`` (that of the requests by default). An instance can be used ``startup`` after it
    has come; engines that lose their context take ``restart`` before they load weights from ``load_from``.
    """

    policy: Annotated[str, StrategyName(("replanning",))] = "spotserve"
    at_start: AcceleratorCount
    changes: Annotated[list[ChangeSpec], OneOrMany()] = Field(default_factory=list)
    mean_life: Annotated[Duration, Field(gt=0)] | None = None
    grace: Annotated[Duration, Field(ge=0)] = 30.0
    startup: Annotated[Duration, Field(ge=0)] = 0.0
    restart: Annotated[Duration, Field(ge=0)] = 0.0
    price: Annotated[Ratio, Field(gt=0, le=1)] = 1.0
    rate: Annotated[Rate, Field(gt=0)] | None = None
    load_from: str = "nvme"
    layouts: Annotated[list[LayoutSpec], OneOrMany()] = Field(default_factory=list)
