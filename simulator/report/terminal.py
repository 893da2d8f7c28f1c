"""A result on the terminal: verdict first, then the figures in the order people know, then what was assumed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from simulator.report.figures_of_merit import (
    figure_of,
    iteration_figures,
    percent,
    service_figures,
    serving_figures,
    training_figures,
)
from simulator.results.tables import Result
from simulator.units import format_quantity
from simulator.workload.plan import key_of_plans

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "print_jobs", "print_memory", "print_result", "print_serving", "print_time", "print_traffic", "print_training",
]  # fmt: skip

Row = Mapping[str, Any]

_BAR = 32
_MOST_STAGES = 12
_CLASSES = {
    "param": ("P", "blue"), "grad": ("G", "cyan"), "optim": ("O", "magenta"), "activation": ("A", "green"),
    "kv": ("K", "yellow"), "workspace": ("W", "white"), "reserve": ("R", "bright_black"),
    "fragmentation": ("F", "bright_black"),
}  # fmt: skip
"""Letter and colour of a class in a memory bar: the letter so that the bar reads without colours as well."""


def print_result(result: Result, console: Console) -> None:
    """All workloads of a result, and what the short names in their plans stand for."""
    for row in result.rows("summary"):
        if row["kind"] == "training":
            print_training(result, row, console)
        elif row["kind"] == "jobs":
            print_jobs(result, row, console)
        elif row["kind"] == "functions":
            print_functions(result, row, console)
        else:
            print_serving(result, row, console)
    if key := key_of_plans(str(row.get("plan") or "") for row in result.rows("summary")):
        console.print(Text(f"\nplans: {key}", style="dim"))
    for warning in result.warnings:
        console.print(Text(f"note: {warning}", style="yellow"))


def print_training(result: Result, row: Row, console: Console) -> None:
    """Step time with interval and floor, utilisation, bubble, communication, memory per stage, bytes per link."""
    name = row["workload"]
    _title(row, console)
    if not math.isnan(row["seconds"]):
        _figures(training_figures(row), console)
        print_time(result, name, console)
    print_memory(result, name, console)
    print_traffic(result, name, console)


def print_functions(result: Result, row: Row, console: Console) -> None:
    """Calls, cold starts, response times, cost and energy, and the share of every site."""
    _title(row, console)
    if not row["feasible"]:
        return
    cold, attained, fair = (figure_of(row, n) for n in ("cold_start_rate", "slo_attainment", "fairness"))
    usd, joules = figure_of(row, "usd_per_thousand_calls"), figure_of(row, "energy_per_call")
    _figures(
        [
            ("calls", f"{row['requests']:,.0f} done, {row['rejected']:,.0f} turned away"),
            ("cold starts", percent(cold)),
            ("kept the limit", percent(attained)),
            ("containers at work", percent(figure_of(row, "utilization"))),
            ("fairness of owners", "" if fair is None else f"{fair:.3f}"),
            ("USD per thousand calls", "" if usd is None else f"{usd:.4g}"),
            ("J per call", "" if joules is None else f"{joules:.4g}"),
            ("carbon", "" if row["carbon"] != row["carbon"] else f"{row['carbon'] / 1e3:.3g} kg"),
        ],
        console,
    )
    _latencies(row, console)
    table = Table(box=None, padding=(0, 2), header_style="dim", pad_edge=False)
    for column in ("  site", "calls", "cold", "used", "USD", "kg CO2", "mean response"):
        table.add_column(column, justify="left" if column == "  site" else "right")
    for site in (r for r in result.rows("sites") if r["workload"] == row["workload"]):
        table.add_row(
            f"  {site['site']}", f"{site['calls']:,.0f}", f"{site['cold_starts']:,.0f}", percent(site["utilization"]),
            f"{site['usd']:.4g}", f"{site['carbon'] / 1e3:.3g}", format_quantity(site["response_mean"], "time"),
        )  # fmt: skip
    console.print(table)


def print_serving(result: Result, row: Row, console: Console) -> None:
    """Requests, rates, latencies, KV occupancy, service levels, cost and energy, in the order of serving benchmarks."""
    _title(row, console)
    if row["depth"] != "run" and row["feasible"]:
        _figures(iteration_figures(row), console)
        print_time(result, row["workload"], console, "iteration")
    if figure_of(row, "requests") is not None:
        _figures(serving_figures(row), console)
        _latencies(row, console)
        _figures(service_figures(row), console)
    print_memory(result, row["workload"], console)


def print_jobs(result: Result, row: Row, console: Console) -> None:
    """Jobs done, utilisation, waits, and the account of every tenant."""
    from simulator.report.terminal_jobs import job_figures, print_tenants, print_waits

    _title(row, console)
    if row["feasible"]:
        _figures(job_figures(row), console)
        print_waits(row, console)
        print_tenants(result, row["workload"], console)


# -- parts --------------------------------------------------------------------------------------------------------


def _title(row: Row, console: Console) -> None:
    count = row.get("accelerators")
    size = f"{count:.0f} accelerator{'s' * (count != 1)}" if count else ""
    plan = f"{row.get('plan') or ''}"
    head = Text(f"{row['workload']}", style="bold")
    head.append(
        f"  {row['kind']}, " + ", ".join(filter(None, (size, plan, f"depth {row['depth']}"))), style="not bold dim"
    )
    console.print()
    console.print(head)
    if not row["feasible"]:
        console.print(Text(f"  does not work: {row['reason']}", style="bold red"))


def _figures(pairs: Iterable[tuple[str, str]], console: Console) -> None:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", min_width=24)
    grid.add_column(justify="left")
    for label, text in pairs:
        if text:
            grid.add_row(f"  {label}", text)
    if grid.row_count:
        console.print(grid)


def _latencies(row: Row, console: Console) -> None:
    table = Table(box=None, padding=(0, 2), header_style="dim", pad_edge=False)
    error = figure_of(row, "quantile_error")
    table.add_column("  latency" + (f" (± {100 * error:g} %)" if error else ""), min_width=24)
    for column in ("mean", "median", "p90", "p99"):
        table.add_column(column, justify="right")
    for name, label in (
        ("ttft", "TTFT"),
        ("tpot", "TPOT"),
        ("itl", "ITL"),
        ("e2e", "end-to-end"),
        ("queueing", "queueing"),
    ):
        values = [figure_of(row, f"{name}_{c}") for c in ("mean", "median", "p90", "p99")]
        if any(v is not None for v in values):
            table.add_row(f"  {label}", *(format_quantity(v, "time") for v in values))
    console.print(table)


def print_time(result: Result, workload: str, console: Console, unit: str = "step") -> None:
    """Where the time of one step (or iteration) goes, with bars."""
    rows = [r for r in result.rows("time") if r["workload"] == workload and r["seconds"] > 0]
    if not rows:
        return
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", min_width=24)
    grid.add_column(justify="right")
    grid.add_column(justify="right")
    grid.add_column()
    for r in rows:
        share = r["share"] if r["share"] == r["share"] else 0.0
        grid.add_row(
            f"  {r['part'].replace('_', ' ')}",
            format_quantity(r["seconds"], "time"),
            percent(share),
            "█" * round(share * _BAR),
        )
    console.print(Text(f"  time of one {unit}", style="bold dim"))
    console.print(grid)


def print_memory(result: Result, workload: str, console: Console) -> None:
    """Memory of every stage and tier as a bar of classes against the capacity; equal neighbours are one row."""
    rows = [r for r in result.rows("memory") if r["workload"] == workload]
    if not rows:
        return
    stages: dict[tuple[int, str], list[Row]] = {}
    for r in rows:
        stages.setdefault((r["stage"], r["tier"]), []).append(r)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", min_width=16, no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    bars = _merged(stages)
    shown = _worth_showing([sum(r["bytes"] for r in parts) - parts[0]["capacity"] for _, parts in bars])
    used: set[str] = set()
    for before, index in zip([-1, *shown], shown, strict=False):
        label, parts = bars[index]
        if index > before + 1:
            grid.add_row(f"  ({index - before - 1} more)")
        peak, capacity = sum(r["bytes"] for r in parts), parts[0]["capacity"]
        over = "" if peak <= capacity else f", {format_quantity(peak - capacity, 'data')} too much"
        text = f"{format_quantity(peak, 'data')} of {format_quantity(capacity, 'data')}{over}"
        grid.add_row(f"  {label}", _bar(parts, max(peak, capacity), capacity), Text(text, style="red" if over else ""))
        used |= {r["class"] for r in parts if r["bytes"] > 0}
    legend = ", ".join(f"{letter} {name}" for name, (letter, _) in _CLASSES.items() if name in used)
    console.print(Text(f"  memory per pipeline stage  ({legend})", style="bold dim"))
    console.print(grid)


def _worth_showing(excess: Sequence[float]) -> list[int]:
    """All bars when they are few; else the first, the last and the fullest ones."""
    if len(excess) <= _MOST_STAGES:
        return list(range(len(excess)))
    fullest = sorted(range(len(excess)), key=lambda i: -excess[i])[: _MOST_STAGES - 4]
    return sorted({0, 1, len(excess) - 2, len(excess) - 1, *fullest})


def _merged(stages: Mapping[tuple[int, str], Sequence[Row]]) -> list[tuple[str, Sequence[Row]]]:
    """Runs of stages whose bars are the same, under one label; tier by tier."""
    merged: list[tuple[int, int, str, Sequence[Row]]] = []
    for (stage, tier), parts in sorted(stages.items(), key=lambda item: (item[0][1] != "hbm", item[0][1], item[0][0])):
        last = merged[-1] if merged else None
        if last and last[2] == tier and last[1] == stage - 1 and _same(last[3], parts):
            merged[-1] = (last[0], stage, tier, last[3])
        else:
            merged.append((stage, stage, tier, parts))
    return [(f"stage {a}{f'-{b}' if b > a else ''} {tier}", parts) for a, b, tier, parts in merged]


def _same(a: Sequence[Row], b: Sequence[Row]) -> bool:
    def key(rows: Sequence[Row]) -> list[tuple[str, float]]:
        return [(r["class"], round(r["bytes"] / 2**20)) for r in rows]

    return key(a) == key(b)


def _bar(parts: Sequence[Row], scale: float, capacity: float) -> Text:
    bar = Text("|")
    drawn, total = 0, 0.0
    for r in sorted(parts, key=lambda r: list(_CLASSES).index(r["class"]) if r["class"] in _CLASSES else 99):
        letter, colour = _CLASSES.get(r["class"], ("?", "white"))
        total += r["bytes"]
        end = round(total / scale * _BAR) if scale else 0
        bar.append(letter * (end - drawn), style=colour)
        drawn = end
    bar.append("." * (_BAR - drawn), style="bright_black")
    edge = round(capacity / scale * _BAR) if scale else _BAR
    text = bar.append("|")
    if edge < _BAR:  # the capacity lies inside the bar: mark it
        text = text[: edge + 1] + Text("!", style="bold red") + text[edge + 1 :]
    return text


def print_traffic(result: Result, workload: str, console: Console) -> None:
    """Bytes that one accelerator moves per step, by link class."""
    rows = [r for r in result.rows("traffic") if r["workload"] == workload and r["bytes"] > 0]
    if rows:
        parts = ", ".join(f"{r['link'].replace('_', '-')} {format_quantity(r['bytes'], 'data')}" for r in rows)
        _figures([("bytes per GPU and step", parts)], console)
