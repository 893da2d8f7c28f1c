"""Keys below ``cluster.fabric`` that say how traffic is routed and what happens to links; and background traffic."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from simulator.hardware.types import LinkFault, Routing
from simulator.scenario.fields import Bandwidth, Count, Duration, Ratio
from simulator.scenario.spec_base import Strict

__all__ = ["BackgroundSpec", "LinkFaultSpec", "RoutingSpec"]


class RoutingSpec(Strict):
    """How equal-cost ways are used: ``routing: ecmp`` is short for ``routing: {policy: ecmp}``."""

    policy: Literal["spray", "ecmp", "adaptive"] = "spray"
    connections: Annotated[Count, Field(ge=1)] = 1
    rail_aware: bool = True

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"policy": value} if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The policy alone, or the mapping."""
        return {"anyOf": [{"enum": ["spray", "ecmp", "adaptive"]}, handler(schema)]}

    def resolved(self) -> Routing:
        """As the network takes it."""
        return Routing(self.policy, self.connections, self.rail_aware)


class LinkFaultSpec(Strict):
    """A link, switch or port that keeps ``capacity`` of its bandwidth (0: lost) from ``start`` to ``until``."""

    of: str
    capacity: Annotated[Ratio, Field(ge=0, lt=1)] = 0.0
    start: Annotated[Duration, Field(ge=0)] = 0.0
    until: Annotated[Duration, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _in_order(self) -> LinkFaultSpec:
        if self.until is not None and self.until <= self.start:
            raise ValueError(f"until {self.until:g} s is not after start {self.start:g} s")
        return self

    def resolved(self) -> LinkFault:
        """As the network takes it."""
        return LinkFault(self.of, self.capacity, self.start, math.inf if self.until is None else self.until)


class BackgroundSpec(Strict):
    """Traffic beside the workloads: ``rate`` from ``source`` to every node of ``to``, for as long as it runs.

    ``source`` is a shared storage tier and ``to`` a workload (its dataset reads), or both are nodes by number.
    """

    background: str
    source: str | int
    to: str | int
    rate: Annotated[Bandwidth, Field(gt=0)]
    start: Annotated[Duration, Field(ge=0)] = 0.0
    until: Annotated[Duration, Field(gt=0)] | None = None
