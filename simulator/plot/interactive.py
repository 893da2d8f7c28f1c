"""A figure that answers to the mouse: any two columns of a sweep, every variant named (extra ``interactive``)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from simulator.errors import ConfigError, unknown_name
from simulator.plot.points import Points, Source, keeps_limits, number, points_of, works
from simulator.plot.source import Scale, scale_of
from simulator.plot.style import SERIES
from simulator.results.markup import figure_text
from simulator.results.tables import schema

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["explore"]

_PAIRS = (
    ("tpot_p90", "output_tokens_per_s_per_gpu"),
    ("accelerators", "tokens_per_s_per_gpu"),
    ("accelerators", "seconds"),
)
"""What is drawn where nothing is said: the first pair that a variant has."""

_SHOWN = (
    "accelerators", "seconds", "mfu", "memory_peak", "ttft_p90", "tpot_p90", "slo_attainment", "slo_goodput",
    "usd_per_million_tokens", "energy_per_token",
)  # fmt: skip
"""What the mouse shows of a variant beside what is drawn, where it is known."""


def explore(
    source: Source, workload: str | None = None, *, x: str | None = None, y: str | None = None
) -> Figure:  # fmt: skip
    """Two columns of the variants of a sweep against each other; the mouse names each variant and its figures.

    Hollow marks break a limit or fall behind. Click on the legend to hide a series; drag to zoom.

    Parameters
    ----------
    source
        A sweep, its frame, or a result (one point).
    x, y
        Columns of the summary, by default throughput per accelerator against time per output token, or of training
        jobs against their size.

    Returns
    -------
    plotly.graph_objects.Figure
        Shown by Jupyter; ``write_html`` saves it.

    Raises
    ------
    ConfigError
        If Plotly is not installed, there is no such column, or no variant has both.
    """
    try:
        from plotly.graph_objects import Figure, Scatter
    except ImportError:
        raise ConfigError("interactive figures need Plotly: pip install 'fmsim[interactive]'") from None
    points = points_of(source, workload)
    columns = _columns(points, x, y)
    rows = points.with_figures(*columns)
    scales = [scale_of("summary", c, max(number(r, c) for r in rows)) for c in columns]
    figure = Figure()
    for index, (label, mine) in enumerate(points.series(rows)):
        colour = SERIES[index % len(SERIES)]
        figure.add_trace(
            Scatter(
                x=[number(r, columns[0]) * scales[0].factor for r in mine],
                y=[number(r, columns[1]) * scales[1].factor for r in mine],
                mode="markers", name=label or points.workload, text=[_told(points, r, columns) for r in mine],
                hovertemplate="%{text}<extra></extra>",
                marker={
                    "size": 10, "color": colour, "line": {"width": 1.5, "color": colour},
                    "symbol": ["circle" if keeps_limits(r) else "circle-open" for r in mine],
                },
            )
        )  # fmt: skip
    _dress(figure, points, scales)
    return figure


def _columns(points: Points, x: str | None, y: str | None) -> tuple[str, str]:
    """The two columns, checked."""
    known = {column for table, column in schema() if table == "summary"}
    for name in (x, y):
        if name is not None and name not in known:
            raise ConfigError(unknown_name("column", name, known))
    rows = [r for r in points.rows if works(r)]
    pairs = [(x or a, y or b) for a, b in _PAIRS]
    return next((p for p in pairs if any(all(math.isfinite(number(r, c)) for c in p) for r in rows)), pairs[0])


def _told(points: Points, row: Mapping[str, Any], columns: Sequence[str]) -> str:
    """What the mouse shows of a variant."""
    return "<br>".join([f"<b>{points.label(row) or points.workload}</b>", *_figures(row, columns)])


def _figures(row: Mapping[str, Any], columns: Sequence[str]) -> Iterator[str]:
    for column in dict.fromkeys((*columns, *_SHOWN)):
        value = number(row, column)
        if math.isfinite(value):
            yield f"{column.replace('_', ' ')}: {figure_text(column, value)}"


def _dress(figure: Figure, points: Points, scales: Sequence[Scale]) -> None:
    """Titles and axes, readable on light and dark pages."""
    broken = not all(keeps_limits(r) for r in points.rows if works(r))
    figure.update_layout(
        title={"text": points.workload + ("; hollow: breaks a limit or falls behind" if broken else "")},
        xaxis={"title": {"text": scales[0].label}, "rangemode": "tozero", "gridcolor": "#9992"},
        yaxis={"title": {"text": scales[1].label}, "rangemode": "tozero", "gridcolor": "#9992"},
        template="none", hovermode="closest", width=820, height=480, font={"color": "#888888"},
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
    )  # fmt: skip
