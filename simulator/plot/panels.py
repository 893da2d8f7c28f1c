"""Further panels on the same axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulator.plot.style import ink_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["below", "beside"]


def below(ax: Axes, size: str = "70%", *, share: bool = True) -> Axes:
    """A panel cut from the given axes, below them, with the same x axis (``share``), ground, ink and spines."""
    from mpl_toolkits.axes_grid1 import make_axes_locatable

    shared = {"sharex": ax} if share else {}
    lower: Axes = make_axes_locatable(ax).append_axes("bottom", size=size, pad=0.15 if share else 0.6, **shared)
    return _like(ax, lower)


def beside(ax: Axes, count: int) -> list[Axes]:
    """``count`` panels right of the given axes and as wide as they are, with the same y axis."""
    from mpl_toolkits.axes_grid1 import make_axes_locatable

    divider = make_axes_locatable(ax)
    return [_like(ax, divider.append_axes("right", size="100%", pad=0.2, sharey=ax)) for _ in range(count)]


def _like(ax: Axes, made: Axes) -> Axes:
    """Ground, ink and spines of ``ax`` on a panel made from it."""
    ink = ink_of(ax)
    made.set_facecolor(ax.get_facecolor())
    made.xaxis.label.set_color(ink)
    made.yaxis.label.set_color(ink)
    for side in ("top", "right", "bottom", "left"):
        made.spines[side].set_visible(ax.spines[side].get_visible())
        made.spines[side].set_edgecolor(ax.spines[side].get_edgecolor())
    return made
