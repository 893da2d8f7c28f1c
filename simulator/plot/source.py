"""What figures draw from: rows of one workload out of a result or a frame, and axes in readable units."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator.errors import ConfigError, unknown_name
from simulator.results.tables import Column, Result, schema
from simulator.units import DIMENSIONS

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Scale", "columns_of", "definition", "document_of", "scale_of", "summary_of", "workload_of"]

_STEPS = {
    "s": ("time", ("d", "h", "min", "s", "ms", "us", "ns"), {"d": 2.0, "h": 3.0, "min": 5.0}),
    "B": ("data", ("TiB", "GiB", "MiB", "KiB", "B"), {}),
}
"""Unit → dimension, the units to choose from, and how many of a unit there must be before it is used (default 1)."""


class Scale(NamedTuple):
    """Numbers of an axis are values times ``factor``; ``label`` says of what in which unit."""

    factor: float
    unit: str
    label: str


def scale_of(table: str, column: str, largest: float) -> Scale:
    """The unit in which values up to ``largest`` read best, and the axis label that ``schema.csv`` gives.

    Raises
    ------
    KeyError
        If the schema has no such column.
    """
    known = schema()[table, column]
    if known.unit not in _STEPS or not math.isfinite(largest):
        return Scale(1.0, known.unit, known.label(column))
    dimension, units, needed = _STEPS[known.unit]
    sizes = DIMENSIONS[dimension].units
    unit = next((u for u in units if largest >= sizes[u] * needed.get(u, 1.0)), units[-1])
    shown = "µs" if unit == "us" else unit
    return Scale(1.0 / sizes[unit], shown, Column(shown, known.definition).label(column))


def definition(table: str, column: str) -> str:
    """What ``schema.csv`` says of a column, to go on within a sentence."""
    text = schema()[table, column].definition
    return text[:1].lower() + text[1:]


def workload_of(source: Result | pd.DataFrame, table: str, workload: str | None) -> str:
    """``workload``, or the first that has rows in ``table``.

    Raises
    ------
    ConfigError
        If there is none, or no such workload.
    """
    columns = _columns(source, table)
    names = list(dict.fromkeys(columns.get("workload", ())))
    if workload is None and names:
        return str(names[0])
    if workload in names:
        return str(workload)
    known = [str(row["workload"]) for row in source.rows("summary")] if isinstance(source, Result) else names
    if workload is not None and workload not in known:
        raise ConfigError(unknown_name("workload", workload, known))
    whose = f"'{workload}'" if workload is not None else "any workload"
    hint = "run it with 'record: full'" if table in ("ops", "steps", "requests", "resources") else "it did not run"
    raise ConfigError(f"the result has no table '{table}' of {whose}: {hint}, or this kind of workload has none")


def columns_of(source: Result | pd.DataFrame, table: str, workload: str) -> dict[str, NDArray[Any]]:
    """Columns of the rows of one workload, as arrays."""
    columns = {name: np.asarray(values) for name, values in _columns(source, table).items()}
    mine = columns["workload"] == workload
    return {name: values[mine] for name, values in columns.items()}


def _columns(source: Result | pd.DataFrame, table: str) -> Mapping[str, Any]:
    if isinstance(source, Result):
        return source.tables.get(table) or {}
    return {str(name): source[name].to_numpy() for name in source.columns}


def summary_of(source: Result | pd.DataFrame, workload: str) -> Mapping[str, Any]:
    """The summary row of a workload; empty for a frame."""
    return source.of(workload) if isinstance(source, Result) else {}


def document_of(source: Result | pd.DataFrame, workload: str) -> Mapping[str, Any]:
    """What the scenario says of a workload; empty for a frame."""
    if not isinstance(source, Result):
        return {}
    for entry in source.document.get("workloads", ()):
        if workload in (entry.get("training"), entry.get("serving")):
            found: Mapping[str, Any] = entry
            return found
    return {}
