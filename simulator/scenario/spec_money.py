"""Keys of money: how machines are paid for."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from simulator.scenario.fields import Duration, HostingRange, MoneyRange, Ratio, RatioRange, RentRange
from simulator.scenario.spec_base import Strict

__all__ = ["PriceSpec"]


class PriceSpec(Strict):
    """How machines are paid for; ranges are ``[low, high]`` or one figure, and carry their date and source."""

    mode: Literal["auto", "on-demand", "reserved", "spot", "purchase"] = "auto"
    rent: RentRange = None
    node: MoneyRange = None
    network: MoneyRange = None
    lifetime: Annotated[Duration, Field(gt=0)] = 4 * 31557600.0
    residual: Annotated[Ratio, Field(ge=0, lt=1)] = 0.0
    maintenance: RatioRange = None
    hosting: HostingRange = None
    as_of: str = ""
    source: str = ""
