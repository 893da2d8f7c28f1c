"""What ``import simulator`` offers: load, estimate, run; a path, a shipped name, a mapping or a Scenario alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from simulator.results.tables import Result
from simulator.scenario.load import load_scenario
from simulator.scenario.run import estimate_scenario, run_scenario
from simulator.scenario.types import Scenario

__all__ = ["Source", "estimate", "load", "run"]

Source: TypeAlias = str | Path | Mapping[str, Any] | Scenario


def load(source: Source, overrides: Iterable[str] = (), *, skip_bad_rows: bool = False) -> Scenario:
    """A scenario, checked and resolved; see :func:`simulator.scenario.load.load_scenario`.

    Raises
    ------
    ConfigError
        With everything that is wrong, or if changes are asked of a scenario that is loaded already.
    """
    if not isinstance(source, Scenario):
        return load_scenario(source, overrides, skip_bad_rows=skip_bad_rows)
    if not (overrides := tuple(overrides)):
        return source
    return load_scenario(source.document, overrides, skip_bad_rows=skip_bad_rows)


def estimate(source: Source, overrides: Iterable[str] = (), *, depth: Literal["estimate", "step"] = "step") -> Result:
    """Time, memory and bandwidth of the training jobs, without the clock."""
    return estimate_scenario(load(source, overrides), depth)


def run(source: Source, overrides: Iterable[str] = ()) -> Result:
    """Simulate the scenario."""
    return run_scenario(load(source, overrides))
