"""Figures of a measured profile: efficiency against size, roofline with the measured points, residuals.

Each function takes an accelerator whose profile has a kernel table and returns the Axes it drew on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.calibration.holdout import by_key
from simulator.cost.device import DeviceCost
from simulator.cost.kernel_table import KernelTable, Row, load_rows
from simulator.errors import ConfigError
from simulator.hardware.types import Accelerator
from simulator.workload.ops import OpKind

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["FIGURES", "coverage", "efficiency_against_size", "residuals", "roofline"]

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8A7B00")
"""Okabe and Ito's, told apart with any colour vision."""

_BINS_PER_DECADE = 3
_FEW = 60
"""Points of one kind up to which they are drawn larger, and medians are taken over whole decades."""
_COMPUTE = (OpKind.GEMM, OpKind.GROUPED_GEMM, OpKind.ATTENTION)


def _rows(accelerator: Accelerator) -> tuple[Row, ...]:
    if not accelerator.kernel_table:
        raise ConfigError(
            f"'{accelerator.name}' has no measured kernels: its profile names no kernel_table; 'fmsim calibrate' on "
            "the device or 'fmsim import' of somebody's measurements writes a profile with one"
        )
    return load_rows(accelerator.kernel_table)


def coverage(accelerator: Accelerator) -> list[dict[str, Any]]:
    """Kinds of kernel with their number, the curve's error, and that of predicting each point from the others."""
    device = DeviceCost(accelerator)
    table = KernelTable(_rows(accelerator), device.curve)
    found = []
    for key, rows in sorted(table.keys.items()):
        errors = np.abs([device.curve(r.work) / r.seconds - 1 for r in rows])
        correction = table.correction(rows[0].work)
        found.append(
            {
                "kernel": key, "points": len(rows), "from us": min(r.seconds for r in rows) * 1e6,
                "to us": max(r.seconds for r in rows) * 1e6, "spread": float(np.median([r.spread for r in rows])),
                "curve alone": float(np.median(errors)),
                "left out": None if correction is None else correction.sigma,
            }
        )  # fmt: skip
    return found


def _axes(axes: Axes | None) -> Any:
    if axes is not None:
        return axes
    from matplotlib.figure import Figure

    return Figure(figsize=(9, 4.8), dpi=150, layout="constrained").add_subplot()


def _cloud(axes: Any, label: str, x: Any, y: Any, index: int) -> None:
    """Faint points, and over them a line through the medians of bins: thousands of points hide one another."""
    x, y = np.asarray(x), np.asarray(y)
    colour = _COLOURS[index % len(_COLOURS)]
    dashed = "-" if index < len(_COLOURS) else "--"
    few = len(x) <= _FEW
    alpha = min(0.6, 60 / len(x) ** 0.7)
    axes.plot(x, y, ".", color=colour, markersize=4 if few else 2, alpha=alpha, rasterized=True)
    bins = np.floor((1 if few else _BINS_PER_DECADE) * np.log10(x))
    middles = [(np.median(x[bins == b]), np.median(y[bins == b])) for b in np.unique(bins)]
    marker = "o" if len(middles) < 2 else ""
    style = {"color": colour, "linewidth": 1.8, "markersize": 4, "label": label}
    axes.plot(*zip(*middles, strict=True), dashed, marker=marker, **style)


def _legend(axes: Any) -> None:
    axes.legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, borderaxespad=0.0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)


def efficiency_against_size(accelerator: Accelerator, axes: Axes | None = None) -> Axes:
    """Share of the peak that GEMMs and attention reach, against their FLOPs."""
    axes = _axes(axes)
    groups = by_key(r for r in _rows(accelerator) if r.work.kind in _COMPUTE)
    for index, (key, rows) in enumerate(sorted(groups.items())):
        flops = np.array([r.work.flops for r in rows])
        share = flops / np.array([r.seconds for r in rows]) / accelerator.peak(rows[0].work.dtype)
        _cloud(axes, key, flops, share, index)
    axes.axhline(1.0, color="0.4", linewidth=1)
    axes.set(
        xscale="log", yscale="log", xlabel="size [FLOP]", ylabel="share of peak",
        title=f"{accelerator.name}: efficiency of measured kernels (lines: medians)",
    )  # fmt: skip
    _legend(axes)
    return axes


def roofline(accelerator: Accelerator, axes: Axes | None = None) -> Axes:
    """Measured FLOP/s against arithmetic intensity, below the bounds of peak and bandwidth."""
    axes = _axes(axes)
    groups = by_key(r for r in _rows(accelerator) if r.work.kind in _COMPUTE and r.work.bytes > 0)
    for index, (key, rows) in enumerate(sorted(groups.items())):
        intensity = [r.work.flops / r.work.bytes for r in rows]
        _cloud(axes, key, intensity, [r.work.flops / r.seconds for r in rows], index)
    x = np.logspace(-1, 4, 100)
    for dtype in sorted({r.work.dtype for rows in groups.values() for r in rows}):
        bound = np.minimum(accelerator.peak(dtype), x * accelerator.memory_bandwidth)
        axes.plot(x, bound, "-", color="0.3", linewidth=1.2)
        place = (x[-1], bound[-1])
        axes.annotate(f"{dtype} peak", place, (0, 2), textcoords="offset points", fontsize="x-small", ha="right")
    axes.set(
        xscale="log", yscale="log", xlabel="arithmetic intensity [FLOP/B]", ylabel="rate [FLOP/s]",
        title=f"{accelerator.name}: roofline and measured kernels (lines: medians)",
    )  # fmt: skip
    _legend(axes)
    return axes


def residuals(accelerator: Accelerator, axes: Axes | None = None) -> Axes:
    """Measured over fitted time of every kernel: what the curve alone does not follow and the table corrects."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes = _axes(axes)
    device = DeviceCost(accelerator)
    groups: dict[str, list[Row]] = {}
    for key, some in sorted(by_key(_rows(accelerator)).items()):
        groups.setdefault(key if some[0].work.kind in _COMPUTE else "other kernels", []).extend(some)
    for index, (key, rows) in enumerate(groups.items()):
        seconds = np.array([r.seconds for r in rows])
        ratio = seconds / np.array([device.curve(r.work) for r in rows])
        _cloud(axes, key, seconds, ratio, index)
    axes.axhline(1.0, color="0.3", linewidth=1)
    axes.set(
        xscale="log", yscale="log", xlabel="measured [s]", ylabel="measured / fitted curve",
        title=f"{accelerator.name}: what the curve leaves to the table (lines: medians)",
    )  # fmt: skip
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    _legend(axes)
    return axes


FIGURES = {"efficiency": efficiency_against_size, "roofline": roofline, "residuals": residuals}
"""Figures of a measured profile by name."""
