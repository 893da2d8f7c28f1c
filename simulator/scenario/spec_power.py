"""Keys of power and racks: limits in watts, and what a rack holds."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from simulator.scenario.fields import Count, Duration, OneOrMany, Power, Ratio, StrategyName
from simulator.scenario.spec_base import Strict

__all__ = ["FeederSpec", "PowerSpec", "RackSpec"]

Limit = Annotated[Power, Field(gt=0)]


class FeederSpec(Strict):
    """A level of the power supply: feeders of ``nodes`` consecutive nodes each, all nodes without it."""

    name: Annotated[str, Field(min_length=1)]
    nodes: Annotated[Count, Field(ge=1)] | None = None
    limit: Limit | None = None
    oversubscription: Annotated[Ratio, Field(ge=1)] | None = None


class PowerSpec(Strict):
    """Limits on the draw of the machines, before the losses of the building; the tightest one binds."""

    device_cap: Limit | None = None
    node_cap: Limit | None = None
    rack_cap: Limit | None = None
    cap: Limit | None = None
    oversubscription: Annotated[Ratio, Field(ge=1)] = 1.0
    feeders: Annotated[list[FeederSpec], OneOrMany()] = Field(default_factory=list)
    sharing: Annotated[str, StrategyName(("power_sharing",))] = "uniform"
    interval: Annotated[Duration, Field(gt=0)] = 60.0
    urgency: dict[str, Count] = Field(default_factory=dict)


class RackSpec(Strict):
    """What a rack takes; without ``nodes`` as many as its power and cooling allow by their rating."""

    nodes: Annotated[Count, Field(ge=1)] | None = None
    power: Annotated[Power, Field(ge=0)] = 0.0
    cooling: Annotated[Power, Field(ge=0)] = 0.0
