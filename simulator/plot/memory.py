"""Memory of every pipeline stage by class, against what the device has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator.errors import ConfigError
from simulator.plot.source import columns_of, definition, scale_of, workload_of
from simulator.plot.style import OKABE_ITO, colour_of, drawing, finish, ink_of, legend, titles
from simulator.results.tables import Result

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["memory_bars"]

MOST_BARS = 16

CLASSES = ("param", "grad", "optim", "activation", "kv", "workspace", "fragmentation", "reserve")


class _Bar(NamedTuple):
    label: str
    parts: dict[str, float]
    capacity: float

    @property
    def peak(self) -> float:
        return sum(self.parts.values())


def memory_bars(
    result: Result | pd.DataFrame, workload: str | None = None, ax: Axes | None = None, *, tier: str = "hbm"
) -> Axes:
    """Stacked bars of the bytes that each pipeline stage holds at its peak, with the capacity as a line.

    Neighbouring stages that hold the same are one bar; if more than 16 bars are left, neighbours are grouped and the
    fullest of each group is shown, which the note below the title says.

    Parameters
    ----------
    result
        A result, or a frame of its table ``memory``.
    workload
        Name; the first that has memory if none is given.
    tier
        ``hbm``, ``host`` or ``nvme``.

    Raises
    ------
    ConfigError
        If there are no rows of that workload and tier.
    """
    name = workload_of(result, "memory", workload)
    columns = columns_of(result, "memory", name)
    bars, grouped = _bars(_stages(columns, tier))
    if not bars:
        raise ConfigError(
            f"'{name}' holds nothing on the tier '{tier}', it has {', '.join(sorted(set(columns['tier'])))}"
        )
    scale = scale_of("memory", "bytes", max(max(b.peak, b.capacity) for b in bars))
    with drawing(ax, min(11.0, 4.2 + 0.42 * len(bars))) as axes:
        _draw(axes, bars, scale.factor)
        axes.set_ylabel(scale.label)
        axes.set_xlabel("stage (pipeline rank)")
        note = "each bar is the fullest stage of its group; " if grouped else ""
        titles(axes, f"{name}: memory of a rank by stage", f"{note}bytes {definition('memory', 'bytes')}")
        legend(axes, reverse=True)
        finish(axes)
        return axes


def _stages(columns: dict[str, NDArray[Any]], tier: str) -> list[_Bar]:
    bars: dict[int, _Bar] = {}
    rows = zip(*(columns[c] for c in ("stage", "tier", "class", "bytes", "capacity")), strict=True)
    for stage, where, kind, size, capacity in rows:
        if where == tier:
            bar = bars.setdefault(int(stage), _Bar(str(stage), {}, float(capacity)))
            bar.parts[str(kind)] = bar.parts.get(str(kind), 0.0) + float(size)
    return [bars[stage] for stage in sorted(bars)]


def _bars(stages: list[_Bar]) -> tuple[list[_Bar], bool]:
    """Equal neighbours as one bar; then groups, each shown by its fullest stage, until there are few enough."""
    merged: list[tuple[str, str, _Bar]] = []
    for bar in stages:
        if merged and _same(merged[-1][2], bar):
            merged[-1] = (merged[-1][0], bar.label, merged[-1][2])
        else:
            merged.append((bar.label, bar.label, bar))
    grouped = len(merged) > MOST_BARS
    if grouped:
        groups = [merged[part[0] : part[-1] + 1] for part in np.array_split(np.arange(len(merged)), MOST_BARS)]
        merged = [(g[0][0], g[-1][1], max((b for *_, b in g), key=lambda b: b.peak - b.capacity)) for g in groups]
    return [_Bar(a if a == b else f"{a}–{b}", bar.parts, bar.capacity) for a, b, bar in merged], grouped


def _same(a: _Bar, b: _Bar) -> bool:
    return a.capacity == b.capacity and all(
        abs(a.parts.get(k, 0.0) - b.parts.get(k, 0.0)) <= 1e-4 * a.capacity for k in {*a.parts, *b.parts}
    )


def _draw(ax: Axes, bars: list[_Bar], factor: float) -> None:
    places = np.arange(len(bars))
    known = [c for c in CLASSES if any(b.parts.get(c) for b in bars)]
    known += sorted({k for b in bars for k, v in b.parts.items() if v} - set(known))
    bottom = np.zeros(len(bars))
    for index, kind in enumerate(known):
        height = np.array([b.parts.get(kind, 0.0) for b in bars]) * factor
        ax.bar(places, height, 0.72, bottom, label=kind, color=colour_of(kind, index), edgecolor="white", linewidth=0.5)
        bottom += height
    for place, bar in zip(places.tolist(), bars, strict=True):
        over = bar.peak > bar.capacity
        ax.plot(
            [place - 0.5, place + 0.5], [bar.capacity * factor] * 2, linestyle="--", linewidth=1.5,
            color=OKABE_ITO["vermillion"], label="capacity" if place == 0 else None,
        )  # fmt: skip
        ax.annotate(
            f"{bar.peak * factor:.3g}", (place, bar.peak * factor), (0, 2), textcoords="offset points", ha="center",
            va="bottom", fontsize=8.5, color=OKABE_ITO["vermillion"] if over else ink_of(ax),
            fontweight="bold" if over else "normal",
        )  # fmt: skip
    crowded = len(bars) > 8 and max(len(b.label) for b in bars) > 3
    ax.set_xticks(places, [b.label for b in bars], rotation=45 if crowded else 0, ha="right" if crowded else "center")
    margin = max(0.6, (4 - len(bars)) / 2)  # a single bar shall not fill the page
    ax.set_xlim(-margin, len(bars) - 1 + margin)
    ax.set_ylim(0, 1.08 * factor * max(max(b.peak, b.capacity) for b in bars))
