"""JSON Schema of a scenario file, for completion and checks in editors."""

from __future__ import annotations

from typing import Any

from simulator.scenario.spec import ScenarioSpec

__all__ = ["json_schema"]

_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def json_schema() -> dict[str, Any]:
    """The schema of scenario files (draft 2020-12): registered strategies and shipped names as completions."""
    schema = _standard(ScenarioSpec.model_json_schema())
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "fmsim scenario"}


def _standard(node: Any) -> Any:
    """Bounds in the words of JSON Schema: pydantic leaves its own where a value is parsed before it is checked.

    A bound on a quantity is dropped: its text cannot be compared, ``fmsim check`` does it.
    """
    if isinstance(node, list):
        return [_standard(item) for item in node]
    if not isinstance(node, dict):
        return node
    numeric = node.get("type") in ("integer", "number")
    found: dict[str, Any] = {}
    for key, value in node.items():
        if key in _BOUNDS and not isinstance(value, dict):
            found |= {_BOUNDS[key]: value} if numeric else {}
        else:
            found[key] = _standard(value)
    return found
