"""A queue of jobs on the terminal: how long jobs waited, what was at work, and the account of every tenant."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table

from simulator.report.figures_of_merit import clocks_lowered
from simulator.results.tables import Result
from simulator.units import format_quantity

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["job_figures", "print_tenants", "print_waits"]

_MOST_TENANTS = 16


def _known(row: Mapping[str, Any], name: str) -> float | None:
    value = row.get(name)
    return None if value is None or isinstance(value, str) or math.isnan(value) else float(value)


def job_figures(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Label and text of the figures of a queue."""

    def share(name: str) -> str:
        value = _known(row, name)
        return "" if value is None else f"{100 * value:.1f} %"

    def count(name: str, always: bool = False) -> str:
        value = _known(row, name)
        return f"{value:,.0f}" if value is not None and (value or always) else ""

    hours, lost = _known(row, "accelerator_hours"), _known(row, "lost_accelerator_hours")
    lent = _known(row, "borrowed_accelerator_hours")
    usd, energy = _known(row, "usd"), _known(row, "energy")
    return [
        ("jobs", f"{count('jobs_completed', True)} of {count('jobs', True)} completed"),
        ("makespan", format_quantity(_known(row, "makespan") or 0.0, "time", 4)),
        ("utilization", share("utilization")),
        ("fragmentation", share("fragmentation")),
        ("accelerator hours", "" if hours is None else f"{hours:,.0f}" + (f"  ({lost:,.0f} lost)" if lost else "")),
        ("of them borrowed up to", "" if lent is None else f"{lent:,.0f}"),
        ("goodput", share("effective_time_ratio")),
        ("interruptions", count("interruptions")),
        ("preemptions", count("preemptions")),
        ("migrations", count("migrations")),
        ("deadlines met", share("deadlines_met")),
        ("clocks lowered", clocks_lowered(row)),
        ("cost", "" if usd is None else format_quantity(usd, "money")),
        ("energy", "" if energy is None else format_quantity(energy, "energy")),
    ]


def print_waits(row: Mapping[str, Any], console: Console) -> None:
    """Waits and completion times by percentile."""
    table = Table(box=None, padding=(0, 2), header_style="dim", pad_edge=False)
    table.add_column("  job", min_width=24)
    names = ("mean", "median", "p90", "p99")
    for name in names:
        table.add_column(name, justify="right")
    for key, label in (("wait", "wait"), ("completion", "completion")):
        values = [_known(row, f"{key}_{name}") for name in names]
        if None not in values:
            table.add_row(f"  {label}", *(format_quantity(v or 0.0, "time", 3) for v in values))
    if table.row_count:
        console.print(table)


def print_tenants(result: Result, workload: str, console: Console) -> None:
    """The account of every tenant."""
    rows = [row for row in result.rows("tenants") if row["workload"] == workload]
    if not rows:
        return
    table = Table(box=None, padding=(0, 2), header_style="dim", pad_edge=False)
    table.add_column("  tenant", min_width=24)
    for column in ("jobs", "done", "accelerator h", "share", "quota", "mean wait", "stopped", "failed"):
        table.add_column(column, justify="right")
    rows.sort(key=lambda row: -row["accelerator_hours"])
    for row in rows[:_MOST_TENANTS]:
        quota, wait = row["quota"], row["wait_mean"]
        table.add_row(
            f"  {row['tenant'] or '(all)'}", f"{row['jobs']:,}", f"{row['jobs_completed']:,}",
            f"{row['accelerator_hours']:,.0f}", f"{100 * row['share']:.1f} %",
            "" if math.isnan(quota) else f"{100 * quota:.0f} %",
            "" if math.isnan(wait) else format_quantity(wait, "time", 3), f"{row['preemptions']:,}",
            f"{row['failures']:,}",
        )  # fmt: skip
    console.print(table)
    if len(rows) > _MOST_TENANTS:
        console.print(f"  and {len(rows) - _MOST_TENANTS} more tenants, see the table 'tenants'", style="dim")
