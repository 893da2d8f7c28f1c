"""Sweeps on the terminal: what varies, the figures people decide by, and why points fail."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from simulator.results.tables import schema
from simulator.scenario.sweep_table import Sweep
from simulator.units import format_quantity

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["FIGURES_OF_MERIT", "figure_text", "print_sweep", "short_names"]

FIGURES_OF_MERIT = (
    "accelerators", "seconds", "floor_seconds", "tokens_per_s_per_gpu", "mfu", "memory_peak", "training_seconds",
    "ttft_p90", "tpot_p90", "slo_attainment", "slo_goodput", "output_tokens_per_s_per_gpu", "energy_per_token",
    "usd_per_million_tokens",
)  # fmt: skip
"""Columns of a summary that are shown where they are known, in this order."""

_DIMENSION = {"s": "time", "B": "data", "W": "power", "J": "energy", "FLOP/s": "flop_rate"}
_MOST_ROWS = 60


def figure_text(column: str, value: Any) -> str:
    """A figure with its unit, short enough for a table."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return str(value)
    unit = schema()["summary", column].unit if ("summary", column) in schema() else ""
    if unit in ("s", "B"):
        return format_quantity(float(value), _DIMENSION[unit])
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" + (f" {unit}" if unit else "")


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


def print_sweep(sweep: Sweep, console: Console) -> None:
    """One line per point and workload, in the order of the points; then reasons, each once."""
    names = short_names(sweep.axes)
    shown = [c for c in FIGURES_OF_MERIT if any(figure_text(c, row.get(c)) for row in sweep.rows)]
    several = len({row["workload"] for row in sweep.rows if row["workload"]}) > 1
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    for head in ("#", *names.values(), *(["workload"] if several else [])):
        table.add_column(head, overflow="fold")
    for column in shown:
        table.add_column(column.replace("_", " "), justify="right", overflow="fold")
    table.add_column("", overflow="fold")
    for row in sweep.rows[:_MOST_ROWS]:
        table.add_row(*_line(row, list(names), shown, several), style="dim" if row["status"] != "ok" else "")
    console.soft_wrap = False
    console.print(table)
    if len(sweep.rows) > _MOST_ROWS:
        console.print(f"... and {len(sweep.rows) - _MOST_ROWS} more rows; -o DIR saves all as sweep.csv", style="dim")
    reasons: dict[str, list[int]] = {}
    for row in sweep.rows:
        if row["status"] != "ok":
            reasons.setdefault(f"{row['status']}: {row.get('reason', '')}", []).append(int(row["point"]))
    for reason, points in list(reasons.items())[:12]:
        which = ", ".join(f"#{p}" for p in points[:6]) + (f" and {len(points) - 6} more" if len(points) > 6 else "")
        console.print(Text(f"{which}: {reason}", style="yellow"))
    counts = {s: len({r["point"] for r in sweep.rows if r["status"] == s}) for s in ("ok", "infeasible", "error")}
    said = ", ".join(f"{n} {s}" for s, n in counts.items() if n)
    console.print(f"{len(sweep.points)} points at depth {sweep.depth}: {said}", style="bold", markup=False)


def _line(row: Mapping[str, Any], axes: Sequence[str], shown: Sequence[str], several: bool) -> list[Text]:
    values = [str(row["point"]), *("" if row.get(a) is None else str(row[a]) for a in axes)]
    values += [str(row["workload"])] if several else []
    values += [figure_text(column, row.get(column)) for column in shown]
    return [Text(v) for v in (*values, "" if row["status"] == "ok" else str(row["status"]))]
