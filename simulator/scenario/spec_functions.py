"""Keys of functions and of sites beside the cluster."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from simulator.scenario.fields import (
    Bandwidth,
    Count,
    Data,
    DataPrice,
    Duration,
    HourlyCarbon,
    HourlyPrice,
    Rate,
    Ratio,
    StrategyName,
)
from simulator.scenario.spec_base import FrameworkName, ModelName, NodeName, Strict
from simulator.scenario.spec_money import PriceSpec

__all__ = ["CallsSpec", "FunctionsSpec", "PerceptionSpec", "PlaceSpec", "WanSpec"]

Whole: TypeAlias = Annotated[Count, Field(ge=1)]
Positive: TypeAlias = Annotated[Duration, Field(ge=0)]


class SiteNodes(Strict):
    """Equal nodes of a site."""

    profile: NodeName
    count: Whole


class WanSpec(Strict):
    """The way from the cluster's site: one-way latency, bandwidth, and what data that leaves the site costs."""

    latency: Positive = 0.0
    bandwidth: Annotated[Bandwidth, Field(gt=0)]
    egress: Annotated[DataPrice, Field(ge=0)] = 0.0


class PlaceSpec(Strict):
    """A site beside the cluster: hardware, electricity, price and the way to it."""

    name: str
    nodes: SiteNodes
    wan: WanSpec
    power_price: HourlyPrice = (0.0,)
    carbon: HourlyCarbon = (0.0,)
    pue: Annotated[Ratio, Field(ge=1)] = 1.0
    price: PriceSpec | None = None


class CallsSpec(Strict):
    """Where calls come from: a ``trace`` of the Azure Functions schemas, or Poisson arrivals at a ``rate``."""

    trace: str | None = None
    rate: Annotated[Rate, Field(gt=0)] | None = None
    duration: Annotated[Duration, Field(gt=0)] | None = None
    count: Whole | None = None
    functions: Whole = 1
    owners: Whole = 1
    skew: Annotated[Ratio, Field(ge=0)] = 0.0
    seconds: Annotated[Duration, Field(gt=0)] | None = None
    sigma: Annotated[Ratio, Field(ge=0)] = 0.0


class PerceptionSpec(Strict):
    """What placement sees: sites as they were at most ``delay`` ago, with a relative error of ``noise``."""

    delay: Positive = 0.0
    noise: Annotated[Ratio, Field(ge=0)] = 0.0


class ColdStartSpec(Strict):
    """A new container: a fixed time, then its data at a bandwidth."""

    start: Positive = 0.0
    load: Annotated[Bandwidth, Field(gt=0)] | None = None


class FunctionsSpec(Strict):
    """Function-like inference on the cluster and the other sites; the value of ``functions`` is its name.

    With ``model``, ``framework`` and token counts, a call takes what the engine needs for them on each site's
    hardware; otherwise the durations of the calls hold everywhere.
    """

    functions: str
    calls: CallsSpec
    model: ModelName | None = None
    framework: FrameworkName | None = None
    input_tokens: Whole | None = None
    output_tokens: Whole | None = None
    precision: Annotated[str, StrategyName(("precision", "quantization"))] = "bf16"
    accelerators: Whole = 1
    size: Annotated[Data, Field(ge=0)] | None = None
    payload: Annotated[Data, Field(ge=0)] = 0.0
    answer: Annotated[Data, Field(ge=0)] = 0.0
    cold_start: ColdStartSpec = Field(default_factory=ColdStartSpec)
    keep_alive: Positive = 600.0
    keep_alive_policy: Annotated[str, StrategyName(("keep_alive",))] = "fixed"
    placement: Annotated[str, StrategyName(("site_placement",))] = "least-loaded"
    isolation: Literal["none", "owner", "function"] = "function"
    perception: PerceptionSpec = Field(default_factory=PerceptionSpec)
    adaptation: Positive = 0.0
    quotas: dict[str, Annotated[Ratio, Field(gt=0, le=1)]] = Field(default_factory=dict)
    utilization: Annotated[Ratio, Field(ge=0, le=1)] | None = None
    response: Positive = 0.0
