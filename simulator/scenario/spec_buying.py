"""Keys of a plan of purchases."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from simulator.scenario.fields import (
    Count,
    Duration,
    HostingRange,
    HourlyPrice,
    MoneyRange,
    OneOrMany,
    Ratio,
    RatioRange,
    RentRange,
)
from simulator.scenario.spec_base import NodeName, Strict

__all__ = ["BuyingSpec", "CapacitySpec", "CloudSpec", "DemandSpec", "LotSpec", "OrderSpec"]

Amount: TypeAlias = Annotated[float, Field(gt=0)]
Whole: TypeAlias = Annotated[Count, Field(ge=1)]
Month: TypeAlias = Annotated[Count, Field(ge=0)]
Span: TypeAlias = Annotated[Duration, Field(gt=0)]


class DemandSpec(Strict):
    """Demand in ``unit``: at the begin, or points by month; and its growth per month afterwards."""

    start: Amount | None = None
    points: dict[int, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    growth: Annotated[Ratio, Field(gt=-1)] = 0.0
    unit: str = "tokens/s"


class CapacitySpec(Strict):
    """Capacity of a node from a run of a scenario: a column of its summary, over its nodes."""

    scenario: str
    workload: str | None = None
    metric: str = "output_tokens_per_s"


class LotSpec(Strict):
    """Nodes that are there."""

    node: NodeName
    count: Whole
    capacity: Amount | CapacitySpec
    age: Annotated[Duration, Field(ge=0)] = 0.0
    price: MoneyRange = None


class OrderSpec(Strict):
    """Nodes that are ordered in a month (0 is the first)."""

    month: Month
    node: NodeName
    count: Whole
    capacity: Amount | CapacitySpec
    lead_time: Annotated[Duration, Field(ge=0)] = 0.0
    price: MoneyRange = None
    network: MoneyRange = None


class CloudSpec(Strict):
    """Rent of a cloud accelerator, and what one serves."""

    price: RentRange
    capacity: Amount
    source: str = ""
    as_of: str = ""


class BuyingSpec(Strict):
    """A plan file."""

    name: str = "plan"
    months: Annotated[Count, Field(ge=1, le=600)] = 36
    demand: DemandSpec
    fleet: Annotated[list[LotSpec], OneOrMany()] = Field(default_factory=list)
    purchases: Annotated[list[OrderSpec], OneOrMany()] = Field(default_factory=list)
    cloud: CloudSpec | None = None
    life: Span = 5 * 31557600.0
    value_loss: Annotated[Ratio, Field(ge=0, lt=1)] = 0.35
    discount_rate: Annotated[Ratio, Field(ge=0)] = 0.0
    power_price: HourlyPrice = (0.0,)
    pue: Annotated[Ratio, Field(ge=1)] = 1.0
    hosting: HostingRange = None
    maintenance: RatioRange = None
    target_load: Annotated[Ratio, Field(gt=0, le=1)] = 1.0
