"""Plain tables on the terminal, as verbs that lay variants side by side print them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["change_text", "print_grid"]


def print_grid(title: str, heads: Sequence[str], lines: Iterable[Sequence[str]], console: Console) -> None:
    """A titled table without rules, its first column to the left and the others to the right; nothing without lines."""
    rows = list(lines)
    if not rows:
        return
    table = Table(box=None, padding=(0, 2), pad_edge=False, header_style="dim", title=title, title_justify="left")
    table.title_style = "bold"
    for i, head in enumerate(heads):
        table.add_column(Text(head), justify="right" if i else "left", overflow="fold", no_wrap=not i)
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    console.print(table)
    console.print()


def change_text(first: float | None, other: float | None) -> str:
    """How far ``other`` lies from ``first``, in per cent."""
    if first is None or other is None:
        return ""
    if first == other:
        return "="
    text = f"{100 * (other / first - 1):+.1f} %" if first else "new"
    return "=" if text in ("+0.0 %", "-0.0 %") else text
