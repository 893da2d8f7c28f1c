"""What comes out: estimates, tidy tables with defined columns, quantile sketches, saving and loading."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulator.results.estimate import Estimate, Interval, MemoryLedger, StageMemory, TimeBreakdown, Traffic
    from simulator.results.sketch import QuantileSketch
    from simulator.results.storage import load_result, save_result
    from simulator.results.tables import Result

__all__ = [
    "Estimate", "Interval", "MemoryLedger", "QuantileSketch", "Result", "StageMemory", "TimeBreakdown", "Traffic",
    "load_result", "save_result",
]  # fmt: skip

_HOME = {
    "Estimate": "estimate", "Interval": "estimate", "MemoryLedger": "estimate", "StageMemory": "estimate",
    "TimeBreakdown": "estimate", "Traffic": "estimate", "QuantileSketch": "sketch", "Result": "tables",
    "load_result": "storage", "save_result": "storage",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import on first use, so that naming this package costs nothing at start-up."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
