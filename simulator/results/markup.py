"""Figures as text, and small tables for notebooks: what every ``_repr_html_`` is made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from simulator.results.tables import schema
from simulator.units import format_quantity

__all__ = ["HEADLINE", "figure_text", "html_folded", "html_list", "html_table"]

_DIMENSION = {"s": "time", "B": "data"}

HEADLINE = (
    "kind", "feasible", "plan", "accelerators", "replicas", "seconds", "seconds_low", "seconds_high", "floor_seconds",
    "mfu", "tokens_per_s_per_gpu", "exposed_communication", "memory_peak", "memory_capacity", "training_seconds",
    "effective_time_ratio", "interruptions", "requests", "rejected", "ttft_p90", "tpot_p90", "e2e_p90",
    "slo_attainment", "slo_goodput", "output_tokens_per_s_per_gpu", "unstable", "wait_median", "completion_median",
    "cold_start_rate", "energy_per_token", "usd", "usd_per_million_tokens",
)  # fmt: skip
"""Columns of the summary that a notebook shows at once; the others unfold."""


def figure_text(column: str, value: Any) -> str:
    """A figure of the summary with its unit, short enough for a table."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return str(value)
    unit = schema()["summary", column].unit if ("summary", column) in schema() else ""
    if unit in _DIMENSION and math.isfinite(value):
        return format_quantity(float(value), _DIMENSION[unit])
    if isinstance(value, int):
        return f"{value:,}" + (f" {unit}" if unit else "")
    return f"{value:.4g}" + (f" {unit}" if unit else "")


def html_table(title: str, heads: Sequence[str], rows: Iterable[Sequence[Any]], verdict: str = "") -> str:
    """A table with a heading; the first cell of a row is its name, and says on hover what ``schema.csv`` does.

    Colours and fonts are left to the notebook, so that it reads on dark ground as well.
    """
    lines = []
    for name, *values in rows:
        known = schema().get(("summary", str(name)))
        hover = f' title="{escape(known.definition)}"' if known else ""
        label = escape(str(name).replace("_", " "))
        cells = "".join(f'<td style="text-align: left">{escape(str(v))}</td>' for v in values)
        lines.append(f'<tr{hover}><th style="text-align: left">{label}</th>{cells}</tr>')
    head = "".join(f'<th style="text-align: left">{escape(str(h))}</th>' for h in heads)
    head = f"<thead><tr>{head}</tr></thead>" if any(heads) else ""
    said = f": {escape(verdict)}" if verdict else ""
    heading = f"<p><b>{escape(title)}</b>{said}</p>" if title or verdict else ""
    return f"<div>{heading}<table>{head}<tbody>{''.join(lines)}</tbody></table></div>"


def html_folded(title: str, body: str) -> str:
    """Something that a click on its title unfolds."""
    return f"<details><summary>{escape(title)}</summary>{body}</details>"


def html_list(notes: Iterable[str]) -> str:
    """Notes below a table; nothing where there are none."""
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f"<ul>{items}</ul>" if items else ""
