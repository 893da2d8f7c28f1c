"""The table of a sweep: tidy rows, as a frame, as CSV, and saved beside what it was made from."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulator.errors import ConfigError
from simulator.scenario.axes import Point
from simulator.scenario.sweep_points import Answer, Depth, Recipe

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Sweep", "load_sweep", "short_names", "sweep_rows", "value_text"]

TABLE, ABOUT = "sweep.csv", "sweep.json"
_TEXTS = ("kind", "depth", "plan", "reason", "rejections")


def sweep_rows(points: Sequence[Point], answers: Sequence[Answer], axes: Sequence[str]) -> Iterator[dict[str, Any]]:
    """One row per point and workload; a point in error has one row without a workload."""
    for number, (point, answer) in enumerate(zip(points, answers, strict=True)):
        head = {"point": number, **{axis: point.get(axis) for axis in axes}, "status": answer["status"]}
        if not answer["rows"]:
            yield {**head, "workload": "", "feasible": False, "reason": answer["reason"]}
        for row in answer["rows"]:
            status = answer["status"] if answer["status"] != "infeasible" or not row["feasible"] else "ok"
            yield {**head, **row, "status": status}


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """Paths by the fewest last parts that still tell them apart."""
    found = {}
    for path in paths:
        parts = path.split(".")
        for count in range(1, len(parts) + 1):
            short = ".".join(parts[-count:])
            if sum(other.split(".")[-count:] == parts[-count:] for other in paths) == 1:
                break
        found[path] = short
    return found


def value_text(value: Any) -> str:
    """A value of an axis to read: a mapping as its entries, ``plain`` when it is empty."""
    if isinstance(value, Mapping):
        parts = [f"{k}: {value_text(v)}" if not isinstance(v, Mapping) else value_text(v) for k, v in value.items()]
        return ", ".join(parts) or "plain"
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Sweep:
    """A computed sweep.

    Attributes
    ----------
    axes
        Paths that vary: columns of the table, beside ``point``, ``status`` (ok, infeasible, error), ``workload`` and
        the columns of a result's summary.
    rows
        One per point and workload, in the order of the points.
    points
        Values by path.
    depth, source, changes, document
        How it was made.
    """

    axes: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]
    points: tuple[Point, ...]
    depth: Depth
    source: str = ""
    changes: tuple[str, ...] = ()
    document: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def columns(self) -> list[str]:
        """Names of all columns."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    @property
    def states(self) -> dict[str, int]:
        """How many points are ``ok``, ``infeasible`` or an ``error``, as bad as the worst of their workloads."""
        order = ("ok", "infeasible", "error")
        worst: dict[int, str] = {}
        for row in self.rows:
            worst[row["point"]] = max(worst.get(row["point"], "ok"), str(row["status"]), key=order.index)
        return {state: list(worst.values()).count(state) for state in order}

    def frame(self) -> pd.DataFrame:
        """The table as a pandas frame."""
        import pandas as pd

        return pd.DataFrame([dict(row) for row in self.rows], columns=self.columns)

    def recipe(self) -> Recipe:
        """How any of its points is computed again: from the file if it is still there, else from the document."""
        readable = self.source and (Path(self.source).is_file() or "/" not in self.source)
        return Recipe(self.source if readable else self.document, self.changes, self.depth)

    def to_json(self) -> dict[str, Any]:
        """As plain data; NaN and infinities as null."""
        rows = [{k: _clean(v) for k, v in row.items()} for row in self.rows]
        counts = {s: sum(r["status"] == s for r in self.rows) for s in ("ok", "infeasible", "error")}
        return {"axes": list(self.axes), "depth": self.depth, "points": len(self.points), **counts, "rows": rows}

    def save(self, folder: str | Path) -> Path:
        """Write the table (``sweep.csv``) and what it was made from (``sweep.json``); each file whole or not at all."""
        target = Path(folder)
        about = {
            "axes": self.axes, "depth": self.depth, "source": self.source, "changes": self.changes,
            "points": self.points, "columns": {name: self._type(name) for name in self.columns},
            "document": self.document,
        }  # fmt: skip
        try:
            target.mkdir(parents=True, exist_ok=True)
            partial = target / f".{TABLE}.{os.getpid()}"
            with partial.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(self.columns)
                writer.writerows([self._text(name, row.get(name)) for name in self.columns] for row in self.rows)
            partial.replace(target / TABLE)
            partial.write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            partial.replace(target / ABOUT)
        except OSError as error:
            raise ConfigError(f"'{target}' cannot be written: {error.strerror or error}") from None
        return target

    def _type(self, name: str) -> str:
        if name in self.axes:
            return "json"
        kinds = {type(row[name]) for row in self.rows if name in row}
        return next((k.__name__ for k in (bool, int) if kinds == {k}), "float" if kinds <= {int, float} else "str")

    def _text(self, name: str, value: Any) -> str:
        if name in self.axes:
            return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        if value is None:
            return ""
        return repr(value) if isinstance(value, float) else str(value)

    def _repr_html_(self) -> str:
        """The table, for notebooks."""
        html: str = self.frame().to_html(index=False, max_rows=200, float_format=lambda v: f"{v:.4g}")
        return html


def _clean(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def load_sweep(folder: str | Path) -> Sweep:
    """Read a saved sweep.

    Raises
    ------
    ConfigError
        If there is none, or it is damaged.
    """
    path = Path(folder)
    if not (path / ABOUT).is_file():
        raise ConfigError(f"'{path}' is not a finished sweep (it has no {ABOUT}); 'fmsim sweep -o {path}' makes one")
    try:
        about = json.loads((path / ABOUT).read_text(encoding="utf-8"))
        with (path / TABLE).open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
        read: dict[str, Any] = {"float": float, "int": int, "str": str, "bool": lambda text: text == "True"}
        types, points = about["columns"], about["points"]
        rows = []
        for line in lines:
            point = points[int(line["point"])]
            plain = {k: read[types[k]](v) for k, v in line.items() if types[k] != "json" and (v or k in _ALWAYS)}
            rows.append({"point": plain.pop("point"), **{a: point.get(a) for a in about["axes"]}, **plain})
        return Sweep(
            tuple(about["axes"]), tuple(rows), tuple(points), about["depth"], about["source"],
            tuple(about["changes"]), about["document"],
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"the saved sweep '{path}' is damaged: {error!r}") from None


_ALWAYS = ("workload", *_TEXTS)
"""Text columns, in which an empty field is an empty text and not a missing number."""
