"""What figures of many variants draw from: points of a sweep, a frame or a result, and the series they fall into."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from simulator.errors import ConfigError, unknown_name
from simulator.results.tables import Result, schema
from simulator.scenario.sweep_table import Sweep, short_names, value_text

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Points", "Source", "keeps_limits", "number", "points_of", "works"]

Source: TypeAlias = "Sweep | Result | pd.DataFrame"

_OWN = ("point", "status")


def number(row: Mapping[str, Any], column: str) -> float:
    """A figure of a row; NaN where it is not known."""
    value = row.get(column)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


@dataclass(frozen=True)
class Points:
    """Rows of one workload of a sweep.

    Attributes
    ----------
    workload
        Its name.
    rows
        One per variant; infeasible ones included.
    axes
        Paths that vary among them.
    document
        The scenario, where it is known.
    """

    workload: str
    rows: Sequence[Mapping[str, Any]]
    axes: tuple[str, ...]
    document: Mapping[str, Any]

    @property
    def names(self) -> dict[str, str]:
        """Short names of the axes."""
        return short_names(self.axes)

    def with_figures(self, *columns: str) -> list[Mapping[str, Any]]:
        """Rows that work and have all of these figures.

        Raises
        ------
        ConfigError
            If there is none.
        """
        found = [r for r in self.rows if works(r) and all(math.isfinite(number(r, c)) for c in columns)]
        if not found:
            said = " and ".join(c.replace("_", " ") for c in columns)
            raise ConfigError(f"no variant of '{self.workload}' has {said}: is it of the right kind and depth?")
        return found

    def varied(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """Axes that have several values among these rows."""
        return [a for a in self.axes if len({str(r.get(a)) for r in rows}) > 1]

    def series(self, rows: Sequence[Mapping[str, Any]], along: Sequence[str] = ()) -> Iterator[tuple[str, list[Any]]]:
        """Rows by the values of the axes that are not ``along`` the figure, with a label for the legend.

        A single axis that is left is the legend; several are joined. With no axis to go along, the axis with the
        fewest values makes the series.
        """
        groups = [a for a in self.varied(rows) if a not in along]
        if not along and groups:
            groups = [min(groups, key=lambda a: len({str(r.get(a)) for r in rows}))]
        found: dict[str, list[Any]] = {}
        for row in rows:
            found.setdefault(self.label(row, groups), []).append(row)
        yield from found.items()

    def label(self, row: Mapping[str, Any], axes: Sequence[str] | None = None) -> str:
        """A point by the values of some axes (those that vary by default): values alone where they are words."""
        names, parts = self.names, []
        for axis in self.varied(self.rows) if axes is None else axes:
            if (value := row.get(axis)) is not None:
                bare = isinstance(value, str | Mapping)
                parts.append(value_text(value) if bare else f"{names[axis]} {value_text(value)}")
        return ", ".join(parts)

    def of_document(self, key: str) -> Mapping[str, Any]:
        """A section of the workload as the scenario was written."""
        for entry in self.document.get("workloads", ()):
            if self.workload in (entry.get("training"), entry.get("serving")):
                return dict(entry.get(key) or {})
        return {}


def works(row: Mapping[str, Any]) -> bool:
    """Whether a variant could be computed and fits."""
    return str(row.get("status", "ok")) == "ok" and bool(row.get("feasible", True))


def keeps_limits(row: Mapping[str, Any]) -> bool:
    """Whether a variant keeps up with its arrivals and keeps its latency limits, where it has any."""
    met = row.get("slo_met")
    return row.get("unstable") is not True and not (isinstance(met, bool | float | int) and met == 0)


def points_of(source: Source, workload: str | None = None) -> Points:
    """The points of one workload, of the first by default.

    Raises
    ------
    ConfigError
        If there is no such workload.
    """
    rows = _rows(source)
    names = [str(n) for n in dict.fromkeys(r.get("workload", "") for r in rows) if n]
    if not names or (workload is not None and workload not in names):
        raise ConfigError(unknown_name("workload", workload or "", names))
    name = names[0] if workload is None else workload
    mine = [r for r in rows if r.get("workload", "") == name]
    known = {column for table, column in schema() if table == "summary"}
    axes = source.axes if isinstance(source, Sweep) else [c for c in mine[0] if c not in known and c not in _OWN]
    document = {} if not isinstance(source, Sweep | Result) else source.document
    return Points(name, mine, tuple(axes), document)


def _rows(source: Source) -> Sequence[Mapping[str, Any]]:
    if isinstance(source, Sweep):
        return source.rows
    if isinstance(source, Result):
        return source.rows("summary")
    return [{str(k): v for k, v in row.items()} for row in source.to_dict("records")]
