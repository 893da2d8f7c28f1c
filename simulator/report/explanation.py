"""Rows of an explanation, as plain data and as tables for a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from simulator.units import format_quantity

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

__all__ = ["Row", "render", "to_json"]

_DIMENSIONS = {
    "s": "time",
    "B": "data",
    "FLOP": "compute",
    "FLOP/s": "compute_rate",
    "B/s": "bandwidth",
    "W": "power",
    "J": "energy",
}


@dataclass(frozen=True)
class Row:
    """One line of an explanation.

    Attributes
    ----------
    workload, topic, section
        What it belongs to; rows of one section add up or are ranked.
    item
        What it speaks of.
    value, unit
        In SI units; NaN where there is only a note.
    share
        Of what the section says, NaN if it has none.
    note
        The formula, bound or source behind the value.
    """

    workload: str
    topic: str
    section: str
    item: str
    value: float = math.nan
    unit: str = ""
    share: float = math.nan
    note: str = ""


def to_json(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Rows as plain data; NaN becomes null."""

    def clean(value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return [{key: clean(value) for key, value in asdict(row).items()} for row in rows]


def render(rows: Iterable[Row]) -> list[RenderableType]:
    """A titled table per workload and section; many stages are one table, and only the tightest is explained."""
    from rich.console import Group
    from rich.text import Text

    sections: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        sections.setdefault((row.workload, row.section), []).append(row)
    shown: list[RenderableType] = []
    for workload in dict.fromkeys(name for name, _ in sections):
        stages = {s: m for (name, s), m in sections.items() if name == workload and s.startswith("stage ")}
        tightest = max(stages, key=lambda s: _peak(stages[s]).share, default="")
        many = len(stages) > 2
        if many:
            shown.append(Group(Text(f"{workload}: memory by stage", style="bold"), _stage_table(stages), Text()))
        for (name, section), members in sections.items():
            if name == workload and (not many or section not in stages or section == tightest):
                what = f", the tightest of {len(stages)}" if many and section == tightest else ""
                shown.append(Group(Text(f"{name}: {section}{what}", style="bold"), _table(section, members), Text()))
    return shown


def _table(section: str, rows: Sequence[Row]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 2), pad_edge=False)
    table.add_column(overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold", style="dim")
    signed = section.startswith(("constants", "80 %"))
    for row in rows:
        share = "" if row.share != row.share else f"{row.share:+.1%}" if signed else f"{row.share:.1%}"
        table.add_row(Text(f"  {row.item}"), Text(_value(row)), Text(share), Text(row.note))
    return table


def _stage_table(stages: Mapping[str, Sequence[Row]]) -> Table:
    """One line per group of equal stages, one column per class."""
    from rich.table import Table

    ends = ("peak", "headroom", "too much")
    classes = list(dict.fromkeys(r.item for rows in stages.values() for r in rows if r.item not in ends))
    table = Table(box=None, padding=(0, 2), pad_edge=False, header_style="dim")
    for name in ("  stage", *classes, "peak", "of capacity"):
        table.add_column(name, justify="left" if name == "  stage" else "right", no_wrap=True)
    for section, rows in stages.items():
        sizes = {r.item: r for r in rows}
        cells = [_value(sizes[c]) if c in sizes else "" for c in (*classes, "peak")]
        name = section.removeprefix("stage ").partition(",")[0]
        table.add_row(f"  {name}", *cells, f"{_peak(rows).share:.1%}")
    return table


def _peak(rows: Sequence[Row]) -> Row:
    return next(row for row in rows if row.item == "peak")


def _value(row: Row) -> str:
    if row.value != row.value:
        return ""
    if row.unit in _DIMENSIONS:
        return format_quantity(row.value, _DIMENSIONS[row.unit])
    return f"{row.value:.4g} {row.unit}".rstrip()
