"""One self-contained HTML page of a run or a sweep: verdict, figures, sortable tables, assumptions and sources.

Nothing is fetched: styles, figures and the few lines of script are in the file, so that it opens offline, can be sent
by mail and prints.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from simulator.errors import ConfigError
from simulator.report.html_svg import bars, scatter
from simulator.report.variants import FIGURES_OF_MERIT, figure_text, reasons_of
from simulator.results.tables import Result, schema
from simulator.scenario.compare_draws import better_when_higher
from simulator.scenario.sweep_table import Sweep, short_names, value_text
from simulator.units import format_quantity

__all__ = ["result_page", "sweep_page", "write_page"]

_DIMENSION = {"s": "time", "B": "data"}
_SOURCES, _STAGES = 60, 16

KEY_FIGURES = (
    "accelerators", "plan", "seconds", "seconds_low", "seconds_high", "floor_seconds", "mfu", "hfu", "tokens_per_s",
    "tokens_per_s_per_gpu", "bubble_over_total", "exposed_communication", "memory_peak", "memory_capacity",
    "training_seconds", "effective_time_ratio", "requests", "rejected", "requests_per_s", "output_tokens_per_s",
    "output_tokens_per_s_per_gpu", "ttft_median", "ttft_p90", "ttft_p99", "tpot_median", "tpot_p90", "tpot_p99",
    "itl_p99", "e2e_median", "e2e_p90", "e2e_p99", "cold_start_rate", "site_moves", "fairness", "rerouted",
    "kv_occupancy_max", "slo_attainment", "slo_goodput", "unstable", "energy_per_token", "energy_per_call", "carbon",
    "usd", "usd_per_thousand_calls", "usd_per_million_tokens", "usd_per_million_tokens_low",
    "usd_per_million_tokens_high",
)  # fmt: skip
"""What people ask first, in this order; the whole summary is further down the page."""

_SHARES = ("share", "sigma", "sensitivity", "mfu", "hfu", "bubble", "kv_occupancy", "slo_attainment", "utilization",
           "cold_start_rate", "effective_time_ratio")  # fmt: skip
"""Beginnings of the names of columns that are read in per cent."""

_YES_NO = ("feasible", "fits", "unstable", "slo_met")


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
    """A heading with what is below it; ``folded`` until it is opened, and not printed."""

    title: str
    tables: Sequence[Table] = ()
    figures: Sequence[str] = ()
    note: str = ""
    folded: bool = False


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
    sections = [Section("Figures of merit", [_summary(result, KEY_FIGURES)])]
    shown = [*_time_bars(result), *_memory_bars(result), *(figures or {}).values()]
    if shown:
        sections.append(Section("Figures", figures=shown, note="Point at a coloured mark to read its figure."))
    for name, title in (
        ("time", "Where the time goes"),
        ("memory", "Memory"),
        ("traffic", "Bytes"),
        ("sites", "Sites"),
        ("costs", "Costs"),
    ):
        if rows := result.rows(name):
            sections.append(Section(title, [_plain_table(name, rows)]))
    sections.append(Section("All figures", [_summary(result)], folded=True))
    if rows := result.rows("sources"):
        note = "Constants by falling influence: change of the time for one standard deviation, and its source."
        sections.append(Section("Sources and errors", [_plain_table("sources", rows[:_SOURCES])], note=note))
    return _render(
        Page(str(origin.get("scenario") or "fmsim report"), facts, verdict, result.feasible, sections, result.warnings,
             _yaml(result.document))
    )  # fmt: skip


def sweep_page(sweep: Sweep, figures: Mapping[str, str] | None = None) -> str:
    """The page of a sweep: its points as a figure and as one sortable table; ``figures`` as for a result."""
    said = ", ".join(f"{n} {state}" for state, n in sweep.states.items() if n)
    facts = [
        f"sweep of {len(sweep.points)} points",
        f"depth {sweep.depth}",
        *(sweep.changes and ["with " + ", ".join(sweep.changes)]),
    ]
    best = [
        f"{metric.replace('_', ' ')}: {_best(sweep, metric)}"
        for metric in FIGURES_OF_MERIT
        if metric != "floor_seconds" and _best(sweep, metric)
    ]
    sections = [Section("All points", [_sweep_table(sweep)], note="Click a heading to sort.")]
    drawn = [d for d in (_pareto(sweep),) if d]
    if drawn or figures:
        note = "Point at a mark to read its values." if drawn else ""
        sections.insert(0, Section("Trade-off", figures=[*drawn, *(figures or {}).values()], note=note))
    if best:
        pairs = [(figure, point) for figure, _, point in (text.partition(": ") for text in best)]
        sections.insert(0, Section("Best by each figure", [_words(("figure", "best point"), pairs)]))
    if fallen := [(points, reason) for reason, points in reasons_of(sweep).items()]:
        sections.append(Section("Points that do not work", [_words(("points", "reason"), fallen)]))
    name = str(sweep.document.get("name") or "sweep")
    verdict = f"{len(sweep.points)} points: {said}."
    return _render(
        Page(
            name, facts, verdict, any(row["status"] == "ok" for row in sweep.rows), sections, (), _yaml(sweep.document)
        )
    )


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
    if value is None or value == "nan" or (isinstance(value, float) and math.isnan(value)):
        return Cell("")
    if column in _YES_NO and value in (0, 1):
        return Cell("yes" if value else "no", float(value))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Cell(("yes" if value else "no") if isinstance(value, bool) else str(value), is_text=True)
    known = schema().get((table, column))
    unit = known.unit if known else ""
    return Cell(_number(column, unit, value), float(value), title=f"{value!r} {unit}".strip())


def _number(column: str, unit: str, value: float) -> str:
    """A number to read: times and bytes in a fitting unit, shares in per cent, thousands parted."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if unit in _DIMENSION:
        return format_quantity(float(value), _DIMENSION[unit])
    if not unit and column.startswith(_SHARES):
        return f"{100 * value:.3g} %"
    small = isinstance(value, int) or abs(value) < 1000
    text = f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if small else f"{value:,.0f}"
    if abs(value) >= 1e9:
        text = f"{value:.4g}"
    return text + (f" {unit}" if unit else "")


def _summary(result: Result, wanted: Sequence[str] = ()) -> Table:
    """Columns of the summary as rows, workloads beside one another."""
    rows = result.rows("summary")
    known = list(result.tables.get("summary") or {})
    heads = [Cell("figure", is_text=True), *(Cell(str(r["workload"])) for r in rows)]
    lines = []
    for name in [n for n in wanted if n in known] or known:
        cells = [_cell("summary", name, row[name]) for row in rows]
        if name != "workload" and any(cell.text for cell in cells):
            head = _head("summary", name)
            lines.append(Row([Cell(head.text, title=head.title, is_text=True), *cells]))
    return Table(heads, lines, sortable=False)


def _plain_table(name: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = list(rows[0])
    lines = [Row([_cell(name, c, row[c]) for c in columns]) for row in rows]
    texts = [any(line.cells[i].is_text for line in lines) for i in range(len(columns))]
    heads = [replace(_head(name, c), is_text=text) for c, text in zip(columns, texts, strict=True)]
    return Table(heads, lines)


def _time_bars(result: Result) -> list[str]:
    groups: dict[str, list[tuple[str, float, str]]] = {}
    for row in result.rows("time"):
        text = f"{format_quantity(row['seconds'], 'time')} ({100 * row['share']:.1f} %)"
        groups.setdefault(str(row["workload"]), []).append(
            (str(row["part"]).replace("_", " "), float(row["seconds"]), text)
        )
    drawn = []
    for name, pieces in groups.items():
        rows = [(piece[0], [piece], piece[2]) for piece in pieces if piece[1] > 0]
        drawn.append(bars(f"{name}: where the time of one step or iteration goes", rows))
    return drawn


def _memory_bars(result: Result) -> list[str]:
    stages: dict[str, dict[str, list[tuple[str, float, str]]]] = {}
    ends: dict[tuple[str, str], str] = {}
    for row in result.rows("memory"):
        if row["tier"] == "hbm":
            capacity = format_quantity(row["capacity"], "data")
            text = f"{format_quantity(row['bytes'], 'data')} of {capacity}"
            name, stage = str(row["workload"]), f"stage {row['stage']}"
            pieces = stages.setdefault(name, {}).setdefault(stage, [])
            pieces.append((str(row["class"]), float(row["bytes"]), text))
            ends[name, stage] = f"{format_quantity(sum(p[1] for p in pieces), 'data')} of {capacity}"
    drawn = []
    for name, found in stages.items():
        rows = [(stage, pieces, ends[name, stage]) for stage, pieces in list(found.items())[:_STAGES]]
        rest = f", first {_STAGES} of {len(found)} stages" if len(found) > _STAGES else ""
        drawn.append(bars(f"{name}: device memory at the peak{rest}", rows))
    return drawn


# -- a sweep ------------------------------------------------------------------------------------------------------


def _words(heads: tuple[str, str], lines: Iterable[tuple[str, str]]) -> Table:
    """Two columns of text."""
    rows = [Row([Cell(text, is_text=True) for text in line]) for line in lines]
    return Table([Cell(head, is_text=True) for head in heads], rows, sortable=False)


def _named(sweep: Sweep, row: Mapping[str, Any]) -> str:
    names = short_names(sweep.axes)
    values = ", ".join(f"{names[a]} {value_text(row[a])}" for a in sweep.axes if row.get(a) is not None)
    return f"#{row['point']} {values}"


def _sweep_table(sweep: Sweep) -> Table:
    names = short_names(sweep.axes)
    shown = [c for c in FIGURES_OF_MERIT if any(figure_text(c, row.get(c)) for row in sweep.rows)]
    heads = [Cell("point"), *(Cell(names[a], title=a) for a in sweep.axes)]
    heads += [Cell("workload", is_text=True), Cell("status", is_text=True), *(_head("summary", c) for c in shown)]
    lines = []
    for row in sweep.rows:
        axes = [row.get(a) for a in sweep.axes]
        cells = [
            Cell(str(row["point"]), float(row["point"])),
            *(_axis(v) for v in axes),
            *(Cell(str(row[key]), is_text=True) for key in ("workload", "status")),
        ]
        cells += [_cell("summary", c, row.get(c)) for c in shown]
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


def _axis_of(column: str, values: Sequence[float]) -> tuple[str, float]:
    """Label of an axis with its unit, and what values are multiplied by: short times in ms, bytes in GiB."""
    known, most = schema()["summary", column], max(values)
    name = column.replace("_", " ")
    if known.unit == "s":
        unit, factor = ("ms", 1e3) if most < 1 else ("s", 1.0) if most < 600 else ("h", 1 / 3600)
        return f"{name} [{unit}]", factor
    return (f"{name} [GiB]", 2.0**-30) if known.unit == "B" else (known.label(column), 1.0)


_AXES = (
    ("tpot_p90", "output_tokens_per_s_per_gpu"), ("ttft_p90", "usd_per_million_tokens"),
    ("accelerators", "training_seconds"), ("accelerators", "seconds"), ("memory_peak", "seconds"),
)  # fmt: skip


def _value(sweep: Sweep, row: Mapping[str, Any], axis: str) -> str:
    """The value of an axis, with its name where it is no word."""
    value = row.get(axis)
    if value is None or isinstance(value, str):
        return value or ""
    return f"{short_names(sweep.axes)[axis]} {value_text(value)}"


def _pareto(sweep: Sweep) -> str:
    """The first pair of figures that both vary, as a scatter coloured by the axis with the fewest values."""
    for x, y in _AXES:
        rows = list(_good(sweep, x, y))
        if len({r[x] for r in rows}) > 1 and len({r[y] for r in rows}) > 1:
            (x_label, x_factor), (y_label, y_factor) = (_axis_of(c, [float(r[c]) for r in rows]) for c in (x, y))
            varied = [a for a in sweep.axes if len({str(r.get(a)) for r in rows}) > 1]
            group = min(varied, key=lambda a: len({str(r.get(a)) for r in rows}), default="")
            points = [
                (float(r[x]) * x_factor, float(r[y]) * y_factor, _value(sweep, r, group) or str(r["workload"]),
                 f"{_named(sweep, r)}: {x} {figure_text(x, r[x])}, {y} {figure_text(y, r[y])}")
                for r in rows
            ]  # fmt: skip
            return scatter(f"{y.replace('_', ' ')} against {x.replace('_', ' ')}", x_label, y_label, points)
    return ""
