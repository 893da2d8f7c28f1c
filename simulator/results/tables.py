"""Result: tidy tables with defined columns, and where they come from.

Tables are columns of plain numbers and texts until a frame is asked for, so that a command that prints a verdict
never pays for importing pandas.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pandas as pd

    from simulator.results.sketch import QuantileSketch

__all__ = ["TABLES", "Column", "Columns", "Result", "columns_from_rows", "concat", "schema"]

Columns = Mapping[str, Sequence[Any]]
"""Column name → values, all of one length; numpy arrays and lists alike."""

TABLES = (
    "summary", "time", "memory", "traffic", "requests", "jobs", "tenants", "steps", "ops", "resources", "events",
    "sites", "contention", "feeders", "power", "power_caps", "plans", "costs", "sources",
)  # fmt: skip
"""Names of the tables, in the order in which a reader wants them."""


class Column(NamedTuple):
    """What ``schema.csv`` says of a column: its unit (``""`` for none) and definition."""

    unit: str
    definition: str

    def label(self, name: str) -> str:
        """For an axis: the name and the unit in brackets."""
        text = name.replace("_", " ")
        return f"{text} [{self.unit}]" if self.unit else text


@cache
def schema() -> dict[tuple[str, str], Column]:
    """(table, column) → unit and definition, of every column there is."""
    path = Path(__file__).with_name("schema.csv")
    with path.open(encoding="utf-8", newline="") as file:
        return {(r["table"], r["column"]): Column(r["unit"], r["definition"]) for r in csv.DictReader(file)}


def columns_from_rows(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows as columns; a key that a row lacks is NaN (a number is meant: texts must always be given)."""
    rows = list(rows)
    names = list(dict.fromkeys(key for row in rows for key in row))
    return {name: [row.get(name, float("nan")) for row in rows] for name in names}


def concat(parts: Iterable[Columns]) -> dict[str, list[Any]]:
    """Tables below one another; a column that a part lacks is NaN there."""
    parts = [p for p in parts if p]
    names = list(dict.fromkeys(name for part in parts for name in part))
    joined: dict[str, list[Any]] = {name: [] for name in names}
    for part in parts:
        length = len(next(iter(part.values())))
        for name in names:
            values = part.get(name)
            joined[name] += [float("nan")] * length if values is None else _plain(values)
    return joined


def _plain(values: Sequence[Any]) -> list[Any]:
    to_list = getattr(values, "tolist", None)
    return to_list() if to_list is not None else list(values)


@dataclass(frozen=True)
class Result:
    """What a run or an estimate answered.

    Attributes
    ----------
    tables
        Name (see :data:`TABLES`) → columns. ``result.frame(name)`` or ``result.<name>`` is the pandas frame.
    document
        The resolved scenario.
    provenance
        Version, seed, depth, command, and hashes of the profiles it rests on.
    warnings
        What was assumed, estimated or left out.
    sketches
        Of long streams under ``record: summary``, by ``workload.metric``.
    details
        Objects for plots and traces; not saved.
    """

    tables: Mapping[str, Columns]
    document: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    sketches: Mapping[str, QuantileSketch] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.tables) - set(TABLES))
        if unknown:
            raise ValueError(f"unknown tables {unknown}, known: {', '.join(TABLES)}")
        for name, columns in self.tables.items():
            lengths = {column: len(values) for column, values in columns.items()}
            if len(set(lengths.values())) > 1:
                raise ValueError(f"columns of table '{name}' differ in length: {lengths}")

    def __getattr__(self, name: str) -> pd.DataFrame:
        if name in TABLES:
            return self.frame(name)
        raise AttributeError(f"a result has no {name!r}; tables: {', '.join(TABLES)}")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *TABLES]

    def frame(self, name: str) -> pd.DataFrame:
        """A table as a pandas frame; empty, with its defined columns, when nothing was recorded."""
        import pandas as pd

        if name not in TABLES:
            raise KeyError(f"no table {name!r}, known: {', '.join(TABLES)}")
        known = [column for table, column in schema() if table == name]
        columns = self.tables.get(name)
        return pd.DataFrame(dict(columns)) if columns else pd.DataFrame(columns=known)

    def rows(self, name: str) -> list[dict[str, Any]]:
        """A table as a list of rows."""
        columns = self.tables.get(name) or {}
        plain = {key: _plain(values) for key, values in columns.items()}
        return [dict(zip(plain, row, strict=True)) for row in zip(*plain.values(), strict=True)]

    def of(self, workload: str) -> dict[str, Any]:
        """The summary row of one workload.

        Raises
        ------
        KeyError
            If there is none.
        """
        for row in self.rows("summary"):
            if row["workload"] == workload:
                return row
        raise KeyError(f"no workload {workload!r}")

    @property
    def feasible(self) -> bool:
        """Whether every workload works."""
        return all(bool(value) for value in (self.tables.get("summary") or {}).get("feasible", ()))

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why not, per infeasible workload."""
        return tuple(f"{r['workload']}: {r['reason']}" for r in self.rows("summary") if not r["feasible"])

    def undocumented(self) -> list[str]:
        """Columns that ``schema.csv`` does not define: none, or a test fails."""
        return [f"{t}.{c}" for t, columns in self.tables.items() for c in columns if (t, c) not in schema()]

    def to_json(self, tables: Sequence[str] = ("summary",)) -> dict[str, Any]:
        """As plain data: the given tables as rows, verdict, warnings and provenance (NaN and infinities as null)."""
        import math

        def clean(value: Any) -> Any:
            return None if isinstance(value, float) and not math.isfinite(value) else value

        rows = {t: [{k: clean(v) for k, v in row.items()} for row in self.rows(t)] for t in tables if t in self.tables}
        return {"feasible": self.feasible, "warnings": list(self.warnings), **rows, "provenance": dict(self.provenance)}

    def save(self, folder: str | Path, *, parquet: bool = False) -> Path:
        """Write the result as a folder; see :func:`simulator.results.storage.save_result`."""
        from simulator.results.storage import save_result

        return save_result(self, folder, parquet=parquet)

    def _repr_html_(self) -> str:
        """The summary as a table with units, and definitions on hover, for notebooks."""
        from simulator.results.markup import HEADLINE, figure_text, html_folded, html_list, html_table

        rows = self.rows("summary")
        texts = {n: [figure_text(n, row[n]) for row in rows] for n in (self.tables.get("summary") or {})}
        shown = [[name, *values] for name, values in texts.items() if name != "workload" and any(values)]
        first = [row for row in shown if row[0] in HEADLINE]
        verdict = "feasible" if self.feasible else "not feasible: " + "; ".join(self.reasons)
        title = str(self.provenance.get("scenario", "result"))
        heads = ["", *texts.get("workload", [])]
        rest = html_folded(f"all {len(shown)} figures", html_table("", heads, shown)) if len(shown) > len(first) else ""
        return html_table(title, heads, first or shown, verdict) + rest + html_list(self.warnings)
