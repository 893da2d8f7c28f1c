"""A comparison on the terminal: what was changed, the figures side by side, and how sure the differences are."""

from __future__ import annotations

from collections.abc import Mapping
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

from rich.text import Text

from simulator.report.grids import change_text, print_grid
from simulator.results.markup import figure_text
from simulator.scenario.compare import Comparison
from simulator.scenario.compare_draws import better_when_higher
from simulator.scenario.sweep_table import short_names, value_text
from simulator.units import format_quantity

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["print_comparison"]

_UNITS = {"time": "time", "memory": "data", "traffic": "data"}
_TITLES = {
    "metrics": "figures", "time": "where the time goes", "memory": "memory of the fullest stage",
    "traffic": "bytes per accelerator", "costs": "costs",
}  # fmt: skip
_SPEED = ("training_seconds", "seconds", "tokens_per_s_per_gpu")
"""Say the same of one job: the first that is known is shown."""
_ODDS = ("ttft_p90", "tpot_p90", "usd_per_million_tokens")
_MOST_CONSTANTS = 6

LONG_NAME = 14
"""Characters up to which a variant's name can head a column."""


def print_comparison(found: Comparison, console: Console) -> None:
    """What was changed, the figures side by side, what makes the difference, and how sure it is."""
    console.soft_wrap = False
    short = _short(found)
    _what_differs(found, short, console)
    first = found.names[0]
    heads = ["", short[first], *(head for n in found.names[1:] for head in (short[n], f"vs {short[first]}"))]
    for name, rows in found.tables.items():
        lines = []
        for row in rows:
            if any(row[n] for n in found.names):
                cells = [_amount(name, row["part"], row[first])]
                for other in found.names[1:]:
                    cells += [_amount(name, row["part"], row[other]), change_text(row[first], row[other])]
                lines.append([str(row["part"]).replace("_", " "), *cells])
        print_grid(_TITLES[name], heads, lines, console)
    _how_sure(found, short, console)
    for note in found.notes:
        console.print(Text(f"note: {note}", style="yellow"))


def _short(found: Comparison) -> dict[str, str]:
    """Heads of columns: the names where they are short, letters where they are not."""
    if all(len(n) <= LONG_NAME for n in found.names) or len(found.names) > len(ascii_uppercase):
        return {n: n for n in found.names}
    return dict(zip(found.names, ascii_uppercase, strict=False))


def _what_differs(found: Comparison, short: Mapping[str, str], console: Console) -> None:
    """A line per variant, which also says what the letters stand for; what makes no difference is left out."""
    paths = short_names([str(r["path"]) for r in found.changes])
    values = {str(r["path"]): r for r in found.changes}
    lines = [[short[n], *(_plain(values[p][n]) for p in paths)] for n in found.names]
    if not found.changes:
        lines = [[short[n], n] for n in found.names if short[n] != n]
    heads = ["", *(p.replace("_", " ") for p in paths.values())] if found.changes else ["", ""]
    print_grid("variants", heads, lines, console)


def _how_sure(found: Comparison, short: Mapping[str, str], console: Console) -> None:
    first = short[found.names[0]]
    known = {r["metric"] for r in found.odds}
    shown = (*[m for m in _SPEED if m in known][:1], *_ODDS)
    print_grid(
        "how sure, over draws of constants and prices",
        ["", "", f"beats {first}", "ratio", "80 % interval"],
        [
            [
                _goal(r["metric"]),
                short[r["name"]],
                f"{100 * r['share']:.0f} %",
                f"{r['ratio']:.3f}",
                f"{r['ratio_low']:.3f} to {r['ratio_high']:.3f}",
            ]
            for r in found.odds
            if r["metric"] in shown
        ],
        console,
    )
    moving = [r for r in found.tornado if abs(r["swing"]) > 1e-4][:_MOST_CONSTANTS]
    print_grid(
        f"what the difference to {first} hangs on",
        ["", "", "time for one sigma", ""],
        [
            [r["constant"], short[r["name"]], f"{100 * r['swing']:+.2f} %", "shared" if r["shared"] else ""]
            for r in moving
        ],
        console,
    )
    draws = found.spread[0]["draws"] if found.spread else 0
    print_grid(
        f"over {draws} draws of requests, failures, constants and prices",
        ["", "", "p10", "p50", "p90", f"beats {first}"],
        [
            [
                short[r["name"]],
                r["metric"].replace("_", " "),
                *(figure_text(r["metric"], r[q]) for q in ("p10", "p50", "p90")),
                "" if r["beats_first"] is None else f"{100 * r['beats_first']:.0f} %",
            ]
            for r in found.spread
        ],
        console,
    )


def _goal(metric: str) -> str:
    return f"{metric.replace('_', ' ')}, {'higher' if better_when_higher(metric) else 'lower'} is better"


def _plain(value: Any) -> str:
    return "as by default" if value is None else value_text(value)


def _amount(table: str, part: str, value: float | None) -> str:
    if value is None:
        return ""
    if table == "metrics":
        return figure_text(part, value)
    return f"{value:.4g} USD" if table == "costs" else format_quantity(value, _UNITS[table])
