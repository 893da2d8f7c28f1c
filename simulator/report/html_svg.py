"""Small figures as SVG whose marks say their figures on hover; no script and no library in the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from simulator.results.palette import OKABE_ITO, ROLES

__all__ = ["bars", "scatter"]

COLOURS = tuple(OKABE_ITO[c] for c in ("blue", "vermillion", "green", "orange", "purple", "sky", "black", "grey"))

_TEXT = 'font-family="system-ui, DejaVu Sans, sans-serif" font-size="12" fill="#222"'


def bars(title: str, rows: Sequence[tuple[str, Sequence[tuple[str, float, str]], str]]) -> str:
    """Horizontal stacked bars.

    Parameters
    ----------
    rows
        (label, pieces, text at the end), a piece being (name, value, text on hover).
    """
    names = list(dict.fromkeys(name for _, pieces, _ in rows for name, value, _ in pieces if value > 0))
    largest = max((sum(v for _, v, _ in pieces) for _, pieces, _ in rows), default=0.0) or 1.0
    stacked = any(len(pieces) > 1 for _, pieces, _ in rows)
    left, width, height = 110.0, 360.0, 20.0
    top = 26.0
    colours = {name: _colour(name, i) for i, name in enumerate(names)}
    parts = [f'<text x="0" y="14" font-weight="bold" {_TEXT}>{escape(title)}</text>']
    for i, (label, pieces, end) in enumerate(rows):
        y, x = top + i * (height + 6), left
        parts.append(f'<text x="{left - 8}" y="{y + 15}" text-anchor="end" {_TEXT}>{escape(label)}</text>')
        for name, value, text in pieces:
            if value <= 0:
                continue
            length = width * value / largest
            parts.append(
                f'<rect class="mark" x="{x:.1f}" y="{y}" width="{max(length, 0.5):.1f}" height="{height}" '
                f'fill="{colours[name]}"><title>{escape(f"{label}: {name} {text}")}</title></rect>'
            )
            x += length
        parts.append(f'<text x="{x + 6:.1f}" y="{y + 15}" {_TEXT}>{escape(end)}</text>')
    y, x = top + len(rows) * (height + 6) + 14, left
    for name in names if stacked else ():  # a bar of one piece has its name beside it
        wide = 26 + 7.2 * len(name)
        if x + wide > left + width + 120:
            x, y = left, y + 20
        parts.append(f'<rect x="{x}" y="{y - 10}" width="12" height="12" fill="{colours[name]}"/>')
        parts.append(f'<text x="{x + 17}" y="{y}" {_TEXT}>{escape(name)}</text>')
        x += wide
    return _svg(left + width + 140, y + 12 if stacked else y - 8, title, parts)


def _colour(name: str, place: int) -> str:
    """That of the other figures, or one after the other where they have none of its own."""
    role = ROLES.get(name.replace(" ", "_"))
    return OKABE_ITO[role] if role else COLOURS[place % len(COLOURS)]


def scatter(title: str, x_label: str, y_label: str, points: Sequence[tuple[float, float, str, str]]) -> str:
    """Points (x, y, group, text on hover) on linear axes from zero, coloured by group."""
    left, top, width, height = 78.0, 30.0, 340.0, 270.0
    x_most, x_ticks = _axis(max(p[0] for p in points))
    y_most, y_ticks = _axis(max(p[1] for p in points))
    groups = list(dict.fromkeys(p[2] for p in points))
    parts = [f'<text x="0" y="14" font-weight="bold" {_TEXT}>{escape(title)}</text>']
    for value in y_ticks:
        y = top + height - height * value / y_most
        parts.append(f'<line x1="{left}" x2="{left + width}" y1="{y}" y2="{y}" stroke="#d9d9d9" stroke-width="0.7"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4}" text-anchor="end" {_TEXT}>{_tick(value)}</text>')
    for value in x_ticks:
        x = left + width * value / x_most
        parts.append(f'<text x="{x}" y="{top + height + 17}" text-anchor="middle" {_TEXT}>{_tick(value)}</text>')
    middle = top + height / 2
    parts.append(
        f'<text x="{left + width / 2}" y="{top + height + 38}" text-anchor="middle" {_TEXT}>{escape(x_label)}</text>'
        f'<text x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})" {_TEXT}>'
        f"{escape(y_label)}</text>"
    )
    for x_value, y_value, group, text in points:
        x, y = left + width * x_value / x_most, top + height - height * y_value / y_most
        colour = COLOURS[groups.index(group) % len(COLOURS)]
        parts.append(
            f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}" fill-opacity="0.85">'
            f"<title>{escape(text)}</title></circle>"
        )
    for i, group in enumerate(groups[:16]):
        y = top + 8 + 20 * i
        parts.append(f'<circle cx="{left + width + 24}" cy="{y}" r="5" fill="{COLOURS[i % len(COLOURS)]}"/>')
        parts.append(f'<text x="{left + width + 34}" y="{y + 4}" {_TEXT}>{escape(group)}</text>')
    return _svg(left + width + 150, top + height + 50, title, parts)


def _tick(value: float) -> str:
    """A number on an axis: digits up to a million, powers of ten beyond."""
    return f"{value:,.4g}" if value < 9999.5 else f"{value:,.0f}" if value < 1e6 else f"{value:.3g}"


def _axis(most: float) -> tuple[float, list[float]]:
    """End of an axis from zero that holds ``most``, and its ticks: three to six steps of 1, 2 or 5 by a power of ten.

    >>> _axis(4)
    (4.0, [0.0, 1.0, 2.0, 3.0, 4.0])
    >>> _axis(5.27)[0]
    6.0
    """
    if most <= 0:
        return 1.0, [0.0, 1.0]
    size = 10.0 ** math.floor(math.log10(most / 3))
    step = next(size * f for f in (1, 2, 5, 10) if most / (size * f) <= 6)
    count = math.ceil(most / step - 1e-9)
    return step * count, [step * i for i in range(count + 1)]


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )
