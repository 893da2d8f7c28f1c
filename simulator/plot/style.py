"""How every figure looks: colours that colour-blind readers can tell apart, ink for print, a card for dark notebooks.

Nothing here touches matplotlib's global settings: they hold while a figure is made, and what matplotlib creates later
(ticks) gets its colours by hand. Figures have an opaque white ground, so they read the same on paper and in a dark
notebook; axes that a caller hands in keep the caller's colours.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from simulator.results.palette import OKABE_ITO, ROLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "MARKERS", "OKABE_ITO", "SERIES", "STYLE", "colour_of", "drawing", "finish", "ink_of", "ink_on", "legend",
    "lighter", "titles",
]  # fmt: skip

SERIES = tuple(OKABE_ITO[c] for c in ("blue", "vermillion", "green", "orange", "purple", "sky", "black"))
MARKERS = "osD^vPX*<>"
"""Colour and marker of a series go round with different lengths, so that seventy series differ."""

INK, FAINT = "#222222", "#D9D9D9"

STYLE: dict[str, Any] = {
    "font.size": 10, "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.labelsize": 10, "xtick.labelsize": 9, "ytick.labelsize": 9, "legend.fontsize": 9,
    "figure.facecolor": "white", "savefig.facecolor": "white", "axes.facecolor": "white", "figure.dpi": 110,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": False, "axes.axisbelow": True,
    "hatch.linewidth": 0.5,
}  # fmt: skip
"""Settings in force while a figure of ours is made."""


@contextmanager
def drawing(ax: Axes | None, width: float = 7.5, height: float = 4.0) -> Iterator[Axes]:
    """Axes to draw on: the caller's, or those of a new figure of ``width`` × ``height`` inches in our style."""
    if ax is not None:
        yield ax
        return
    import matplotlib.pyplot as plt

    with plt.rc_context(STYLE):  # type: ignore[arg-type]
        _, made = plt.subplots(figsize=(width, height), layout="constrained")
        yield made


def colour_of(role: str, index: int = 0) -> str:
    """The colour of a class, part or link; one that is not known takes its turn in the palette."""
    names = [n for n in OKABE_ITO if n not in ("black", "yellow")]
    return OKABE_ITO[ROLES.get(role, names[index % len(names)])]


def ink_of(ax: Axes) -> Any:
    """Colour of text on these axes."""
    return ax.xaxis.label.get_color()


def lighter(colour: str, share: float) -> tuple[float, float, float]:
    """``colour`` mixed with ``share`` of white."""
    from matplotlib.colors import to_rgb

    red, green, blue = (c + (1 - c) * share for c in to_rgb(colour))
    return red, green, blue


def ink_on(colour: Any) -> str:
    """Black or white, whichever reads on ``colour`` (relative luminance of WCAG 2.2)."""
    from matplotlib.colors import to_rgb

    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return "white" if 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] < 0.18 else "black"


def titles(ax: Axes, title: str, note: str = "") -> None:
    """A title, and below it in small what is shown, folded to the width of the axes."""
    import textwrap

    characters = max(30, int(ax.get_position().width * ax.figure.get_figwidth() * 16))  # type: ignore[union-attr]
    lines = textwrap.wrap(note, characters)
    ax.set_title(title, color=ink_of(ax), loc="left", fontweight="bold", fontsize=11, pad=6 + 11 * len(lines))
    if lines:
        ax.annotate(
            "\n".join(lines), (0, 1), (0, 5), xycoords="axes fraction", textcoords="offset points", fontsize=8.5,
            color=ink_of(ax), alpha=0.8, va="bottom", ha="left", linespacing=1.1,
        )  # fmt: skip


def legend(ax: Axes, **more: Any) -> None:
    """A legend beside the axes, where it hides nothing."""
    settings: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "borderaxespad": 0.0}
    ax.legend(frameon=False, labelcolor=ink_of(ax), fontsize=9, **(settings | more))


def finish(ax: Axes, grid: str | None = "y") -> None:
    """Fix what matplotlib would create after our settings are gone: tick colours and sizes, grid lines."""
    ink = ink_of(ax)
    ax.tick_params(which="both", color=ink, labelcolor=ink, labelsize=9)
    if grid is not None:
        ax.grid(True, axis=grid, color=ink, linewidth=0.6, alpha=0.15)  # type: ignore[arg-type]
        ax.set_axisbelow(True)
