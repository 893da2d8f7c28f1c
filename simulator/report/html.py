"""One self-contained HTML page of a run or a sweep: verdict, figures, sortable tables, assumptions and sources.

Nothing is fetched: styles, figures and the few lines of script are in the file, so that it opens offline, can be sent
by mail and prints.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simulator.errors import ConfigError
from simulator.report.html_svg import bars, scatter
from simulator.report.variants import FIGURES_OF_MERIT, figure_text
from simulator.results.tables import Result, schema
from simulator.scenario.compare_draws import better_when_higher
from simulator.scenario.sweep_table import Sweep, short_names, value_text
from simulator.units import format_quantity

__all__ = ["result_page", "sweep_page", "write_page"]

_DIMENSION = {"s": "time", "B": "data"}
_SOURCES = 60


@dataclass(frozen=True)
class Cell:
    """A cell: its text, what it is sorted by, and what it says on hover."""

    text: str
    sort: float | None = None
    title: str = ""
    is_text: bool = False


@dataclass(frozen=True)
class Row:
    """A row and its class."""

    cells: Sequence[Cell]
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """A table; ``heads`` are cells as well, with definitions on hover."""

    heads: Sequence[Cell]
    rows: Sequence[Row]
    title: str = ""
    sortable: bool = True


@dataclass(frozen=True)
class Section:
    """A heading with what is below it."""

    title: str
    tables: Sequence[Table] = ()
    figures: Sequence[str] = ()
    note: str = ""


@dataclass(frozen=True)
class Page:
    """Everything the template asks for."""

    title: str
    facts: Sequence[str]
    verdict: str
    good: bool
    sections: Sequence[Section] = field(default_factory=tuple)
    notes: Sequence[str] = ()
    scenario: str = ""


def result_page(result: Result, figures: Mapping[str, str] | None = None) -> str:
    """The page of a result.

    Parameters
    ----------
    figures
        Further figures as SVG or ``<img>`` markup, by caption.
    """
    origin = result.provenance
    known = {k: origin.get(k) for k in ("depth", "seed", "fmsim", "command")}
    facts = [f"{k} {v}" for k, v in known.items() if v not in (None, "")]
    verdict = (
        "Feasible: every workload fits and runs." if result.feasible else "Not feasible: " + "; ".join(result.reasons)
    )
    sections = [Section("Figures of merit", [_summary(result)])]
    drawn = [_time_bars(result), _memory_bars(result)]
    shown = [*(d for d in drawn if d), *(figures or {}).values()]
    if shown:
        sections.append(Section("Figures", figures=shown, note="Point at a coloured mark to read its figure."))
    for name, title in (
        ("time", "Where the time goes"),
        ("memory", "Memory"),
        ("traffic", "Bytes"),
        ("costs", "Costs"),
    ):
        if rows := result.rows(name):
            sections.append(Section(title, [_plain_table(name, rows)]))
    if rows := result.rows("sources"):
        note = "Constants by falling influence: change of the time for one standard deviation, and its source."
        sections.append(Section("Sources and errors", [_plain_table("sources", rows[:_SOURCES])], note=note))
    return _render(
        Page(str(origin.get("scenario") or "fmsim report"), facts, verdict, result.feasible, sections, result.warnings,
             _yaml(result.document))
    )  # fmt: skip


def sweep_page(sweep: Sweep, figures: Mapping[str, str] | None = None) -> str:
    """The page of a sweep: its points as a figure and as one sortable table; ``figures`` as for a result."""
    counts = {s: len({r["point"] for r in sweep.rows if r["status"] == s}) for s in ("ok", "infeasible", "error")}
    said = ", ".join(f"{n} {s}" for s, n in counts.items() if n)
    facts = [
        f"sweep of {len(sweep.points)} points",
        f"depth {sweep.depth}",
        *(sweep.changes and ["with " + ", ".join(sweep.changes)]),
    ]
    best = [
        f"{metric.replace('_', ' ')}: {_best(sweep, metric)}" for metric in FIGURES_OF_MERIT if _best(sweep, metric)
    ]
    sections = [Section("All points", [_sweep_table(sweep)], note="Click a heading to sort.")]
    drawn = [d for d in (_pareto(sweep),) if d]
    if drawn or figures:
        note = "Point at a mark to read its values." if drawn else ""
        sections.insert(0, Section("Trade-off", figures=[*drawn, *(figures or {}).values()], note=note))
    if best:
        head = [Cell("figure"), Cell("best point", is_text=True)]
        lines = [Row([Cell(a, is_text=True), Cell(b, is_text=True)]) for a, _, b in (t.partition(": ") for t in best)]
        sections.insert(0, Section("Best by each figure", [Table(head, lines, sortable=False)]))
    name = str(sweep.document.get("name") or "sweep")
    return _render(Page(name, facts, said, counts["ok"] > 0, sections, (), _yaml(sweep.document)))


def write_page(text: str, path: str | Path) -> Path:
    """Write a page, whole or not at all.

    Raises
    ------
    ConfigError
        If the file cannot be written.
    """
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(target)
    except OSError as error:
        raise ConfigError(f"'{target}' cannot be written: {error.strerror or error}") from None
    return target


def _render(page: Page) -> str:
    import jinja2

    folder = Path(__file__).with_name("templates")
    loader = jinja2.FileSystemLoader(folder)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    text: str = environment.get_template("report.html.j2").render(
        **{name: getattr(page, name) for name in page.__dataclass_fields__}
    )
    return text


def _yaml(document: Mapping[str, Any]) -> str:
    import json

    import yaml

    text: str = yaml.safe_dump(
        json.loads(json.dumps(document, default=str)), sort_keys=False, allow_unicode=True, width=110
    )
    return text


# -- a run --------------------------------------------------------------------------------------------------------


def _head(table: str, column: str) -> Cell:
    known = schema().get((table, column))
    return Cell(column.replace("_", " "), title="" if known is None else known.definition)


def _cell(table: str, column: str, value: Any) -> Cell:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return Cell("")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Cell(("yes" if value else "no") if isinstance(value, bool) else str(value), is_text=True)
    known = schema().get((table, column))
    unit = known.unit if known else ""
    if unit in _DIMENSION and math.isfinite(value):
        text = format_quantity(float(value), _DIMENSION[unit])
    else:
        text = (f"{value:,}" if isinstance(value, int) else f"{value:.4g}") + (f" {unit}" if unit else "")
    return Cell(text, float(value), title=f"{value!r} {unit}".strip())


def _summary(result: Result) -> Table:
    """Columns of the summary as rows, workloads beside one another."""
    rows = result.rows("summary")
    names = [n for n in (result.tables.get("summary") or {}) if any(_cell("summary", n, r[n]).text for r in rows)]
    heads = [Cell("figure"), *(Cell(str(r["workload"])) for r in rows)]
    lines = []
    for name in names:
        if name == "workload":
            continue
        head = _head("summary", name)
        lines.append(
            Row([Cell(head.text, title=head.title, is_text=True), *(_cell("summary", name, r[name]) for r in rows)])
        )
    return Table(heads, lines, sortable=False)


def _plain_table(name: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = list(rows[0])
    lines = [Row([_cell(name, c, row[c]) for c in columns]) for row in rows]
    return Table([_head(name, c) for c in columns], lines)


def _time_bars(result: Result) -> str:
    groups: dict[str, list[tuple[str, float, str]]] = {}
    for row in result.rows("time"):
        text = f"{format_quantity(row['seconds'], 'time')} ({100 * row['share']:.1f} %)"
        groups.setdefault(str(row["workload"]), []).append((str(row["part"]), float(row["seconds"]), text))
    drawn = []
    for name, pieces in groups.items():
        rows = [(piece[0].replace("_", " "), [piece]) for piece in pieces if piece[1] > 0]
        drawn.append(bars(f"{name}: where the time of one step or iteration goes", rows))
    return "".join(f"<p>{d}</p>" for d in drawn)


def _memory_bars(result: Result) -> str:
    stages: dict[str, dict[str, list[tuple[str, float, str]]]] = {}
    for row in result.rows("memory"):
        if row["tier"] == "hbm":
            text = f"{format_quantity(row['bytes'], 'data')} of {format_quantity(row['capacity'], 'data')}"
            pieces = stages.setdefault(str(row["workload"]), {}).setdefault(f"stage {row['stage']}", [])
            pieces.append((str(row["class"]), float(row["bytes"]), text))
    drawn = [bars(f"{name}: device memory at the peak", list(found.items())[:16]) for name, found in stages.items()]
    return "".join(f"<p>{d}</p>" for d in drawn)


# -- a sweep ------------------------------------------------------------------------------------------------------


def _named(sweep: Sweep, row: Mapping[str, Any]) -> str:
    names = short_names(sweep.axes)
    values = ", ".join(f"{names[a]} {value_text(row[a])}" for a in sweep.axes if row.get(a) is not None)
    return f"#{row['point']} {values}"


def _sweep_table(sweep: Sweep) -> Table:
    names = short_names(sweep.axes)
    shown = [c for c in FIGURES_OF_MERIT if any(figure_text(c, row.get(c)) for row in sweep.rows)]
    heads = [Cell("point"), *(Cell(names[a], title=a) for a in sweep.axes), Cell("workload", is_text=True)]
    heads += [*(_head("summary", c) for c in shown), Cell("status"), Cell("reason")]
    lines = []
    for row in sweep.rows:
        axes = [row.get(a) for a in sweep.axes]
        cells = [
            Cell(str(row["point"]), float(row["point"])),
            *(_axis(v) for v in axes),
            Cell(str(row["workload"]), is_text=True),
        ]
        cells += [_cell("summary", c, row.get(c)) for c in shown]
        cells += [Cell(str(row["status"]), is_text=True), Cell(str(row.get("reason") or ""), is_text=True)]
        lines.append(Row(cells, "" if row["status"] == "ok" else str(row["status"])))
    return Table(heads, lines)


def _axis(value: Any) -> Cell:
    number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    return Cell("" if value is None else value_text(value), number)


def _good(sweep: Sweep, *columns: str) -> Iterable[Mapping[str, Any]]:
    for row in sweep.rows:
        values = [row.get(c) for c in columns]
        if row["status"] == "ok" and all(isinstance(v, int | float) and math.isfinite(v) for v in values):
            yield row


def _best(sweep: Sweep, metric: str) -> str:
    rows = list(_good(sweep, metric))
    if len({row[metric] for row in rows}) < 2 or len({row["workload"] for row in rows}) > 1:
        return ""
    sign = -1 if better_when_higher(metric) else 1
    row = min(rows, key=lambda r: sign * r[metric])
    return f"{figure_text(metric, row[metric])} at {_named(sweep, row)}"


_AXES = (
    ("tpot_p90", "output_tokens_per_s_per_gpu"), ("ttft_p90", "usd_per_million_tokens"),
    ("accelerators", "training_seconds"), ("accelerators", "seconds"), ("memory_peak", "seconds"),
)  # fmt: skip


def _pareto(sweep: Sweep) -> str:
    """The first pair of figures that both vary, as a scatter coloured by the axis with the fewest values."""
    for x, y in _AXES:
        rows = list(_good(sweep, x, y))
        if len({r[x] for r in rows}) > 1 and len({r[y] for r in rows}) > 1:
            x_label, y_label = (schema()["summary", c].label(c) for c in (x, y))
            varied = [a for a in sweep.axes if len({str(r.get(a)) for r in rows}) > 1]
            group = min(varied, key=lambda a: len({str(r.get(a)) for r in rows}), default="")
            points = [
                (float(r[x]), float(r[y]), str(r.get(group, "")) if group else str(r["workload"]),
                 f"{_named(sweep, r)}: {x} {figure_text(x, r[x])}, {y} {figure_text(y, r[y])}")
                for r in rows
            ]  # fmt: skip
            return scatter(f"{y.replace('_', ' ')} against {x.replace('_', ' ')}", x_label, y_label, points)
    return ""
