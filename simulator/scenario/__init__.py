"""Scenarios: from YAML to resolved objects, with every error of the input at once."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulator.scenario.load import load_scenario
    from simulator.scenario.run import estimate_scenario, run_scenario
    from simulator.scenario.schema import json_schema
    from simulator.scenario.types import Placement, Scenario

__all__ = ["Placement", "Scenario", "estimate_scenario", "json_schema", "load_scenario", "run_scenario"]

_HOME = {
    "Placement": "types",
    "Scenario": "types",
    "estimate_scenario": "run",
    "json_schema": "schema",
    "load_scenario": "load",
    "run_scenario": "run",
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that naming this package costs nothing at start-up."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
