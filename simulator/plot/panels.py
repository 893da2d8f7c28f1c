"""A second panel on the same axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulator.plot.style import ink_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["below"]


def below(ax: Axes, size: str = "70%", *, share: bool = True) -> Axes:
    """A panel cut from the given axes, below them, with the same x axis (``share``), ground, ink and spines."""
    from mpl_toolkits.axes_grid1 import make_axes_locatable

    shared = {"sharex": ax} if share else {}
    lower: Axes = make_axes_locatable(ax).append_axes("bottom", size=size, pad=0.15 if share else 0.6, **shared)
    ink = ink_of(ax)
    lower.set_facecolor(ax.get_facecolor())
    lower.xaxis.label.set_color(ink)
    lower.yaxis.label.set_color(ink)
    for side in ("top", "right", "bottom", "left"):
        lower.spines[side].set_visible(ax.spines[side].get_visible())
        lower.spines[side].set_edgecolor(ax.spines[side].get_edgecolor())
    return lower
