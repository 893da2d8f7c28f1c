"""Simulator of foundation-model clusters.

>>> import simulator
>>> scenario = simulator.load("quickstart")                 # doctest: +SKIP
>>> result = simulator.run(scenario)                        # doctest: +SKIP
>>> result.summary                                          # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulator.errors import ConfigError
    from simulator.results.storage import load_result
    from simulator.results.tables import Result
    from simulator.scenario.api import estimate, load, run
    from simulator.scenario.compare import compare
    from simulator.scenario.recommend import recommend
    from simulator.scenario.sweep import sweep
    from simulator.scenario.types import Scenario

__all__ = [
    "ConfigError", "Result", "Scenario", "__version__", "compare", "estimate", "load", "load_result", "recommend",
    "run",
    "sweep",
]  # fmt: skip

__version__ = "0.1.0"

_HOME = {
    "ConfigError": "simulator.errors",
    "Result": "simulator.results.tables",
    "Scenario": "simulator.scenario.types",
    "compare": "simulator.scenario.compare",
    "estimate": "simulator.scenario.api",
    "load": "simulator.scenario.api",
    "load_result": "simulator.results.storage",
    "recommend": "simulator.scenario.recommend",
    "run": "simulator.scenario.api",
    "sweep": "simulator.scenario.sweep",
}


def __getattr__(name: str) -> Any:
    """Import on first use: naming the package must cost next to nothing."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
