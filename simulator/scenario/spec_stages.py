"""The keys of one pipeline stage of a plan whose stages differ."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import Field
from pydantic_core import CoreSchema, core_schema

from simulator.scenario.fields import Count, StrategyName
from simulator.scenario.spec_base import AcceleratorCount, Strict

__all__ = ["LayerGroupSpec", "StageSpec"]

_RANGE = re.compile(r"^\s*(\d+)\s*-\s*(\d+)\s*$")
_SHAPE = "a number of layers, a list with the layers of each model chunk, or ranges such as '0-3' counted from 0"


class LayersOfChunks:
    """Marks the layers of a stage: held as one number or one pair (first, past) per model chunk."""

    def read(self, value: object) -> tuple[int | tuple[int, int], ...]:
        """One entry per chunk."""
        entries = value if isinstance(value, list | tuple) else [value]
        if not entries:
            raise ValueError(f"needs {_SHAPE}, have {value!r}")
        return tuple(self._one(entry) for entry in entries)

    def _one(self, entry: object) -> int | tuple[int, int]:
        if isinstance(entry, int) and not isinstance(entry, bool) and entry >= 1:
            return entry
        if isinstance(entry, str) and (found := _RANGE.match(entry)) and int(found[1]) <= int(found[2]):
            return int(found[1]), int(found[2]) + 1
        raise ValueError(f"needs {_SHAPE}, have {entry!r}")

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        """Read as a whole."""
        return core_schema.no_info_plain_validator_function(self.read)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: Any) -> dict[str, Any]:
        """A number, a range, or a list of them."""
        one = [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": _RANGE.pattern}]
        return {"anyOf": [*one, {"type": "array", "items": {"anyOf": one}}], "description": _SHAPE}


class LayerGroupSpec(Strict):
    """``layers`` neighbouring layers of a stage that are treated in their own way."""

    layers: Annotated[Count, Field(ge=1)]
    recompute: Annotated[str, StrategyName(("recompute",), extra=("none",))] | None = None
    precision: Annotated[str, StrategyName(("precision",))] | None = None
    zero_stage: Annotated[Count, Field(ge=0, le=3)] | None = None
    offload: Annotated[str, StrategyName(("offload",), extra=("none",))] | None = None


class StageSpec(Strict):
    """One pipeline stage: its layers, its degrees and where it runs; what it leaves out is as the plan says.

    ``accelerator`` names a node profile or an accelerator; the stage takes the next free ones of that kind.
    """

    layers: Annotated[Any, LayersOfChunks()]
    tensor_parallel: AcceleratorCount | None = None
    sequence_parallel: bool | None = None
    context_parallel: AcceleratorCount | None = None
    data_parallel: AcceleratorCount | None = None
    expert_parallel: AcceleratorCount | None = None
    zero_stage: Annotated[Count, Field(ge=0, le=3)] | None = None
    recompute: Annotated[str, StrategyName(("recompute",), extra=("none",))] | None = None
    precision: Annotated[str, StrategyName(("precision",))] | None = None
    accelerator: str = ""
    groups: list[LayerGroupSpec] = Field(default_factory=list)
