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

_COMPUTE = (OpKind.GEMM, OpKind.GROUPED_GEMM, OpKind.ATTENTION)


def _rows(accelerator: Accelerator) -> tuple[Row, ...]:
    if not accelerator.kernel_table:
        raise ConfigError(f"'{accelerator.name}' has no measured kernels: its profile names no kernel_table")
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

    return Figure(figsize=(7, 4.5), layout="constrained").add_subplot()


def efficiency_against_size(accelerator: Accelerator, axes: Axes | None = None) -> Axes:
    """Share of the peak that GEMMs and attention reach, against their FLOPs."""
    axes = _axes(axes)
    for key, rows in sorted(by_key(r for r in _rows(accelerator) if r.work.kind in _COMPUTE).items()):
        flops = np.array([r.work.flops for r in rows])
        share = flops / np.array([r.seconds for r in rows]) / accelerator.peak(rows[0].work.dtype)
        axes.plot(flops, share, ".", label=key, markersize=4)
    axes.set(xscale="log", yscale="log", xlabel="size [FLOP]", ylabel="share of peak", title=accelerator.name)
    axes.legend(fontsize="x-small")
    return axes


def roofline(accelerator: Accelerator, axes: Axes | None = None) -> Axes:
    """Measured FLOP/s against arithmetic intensity, below the bounds of peak and bandwidth."""
    axes = _axes(axes)
    groups = by_key(r for r in _rows(accelerator) if r.work.kind in _COMPUTE and r.work.bytes > 0)
    for key, rows in sorted(groups.items()):
        intensity = [r.work.flops / r.work.bytes for r in rows]
        axes.plot(intensity, [r.work.flops / r.seconds for r in rows], ".", label=key, markersize=4)
    x = np.logspace(-1, 4, 100)
    for dtype in sorted({r.work.dtype for rows in groups.values() for r in rows}):
        bound = np.minimum(accelerator.peak(dtype), x * accelerator.memory_bandwidth)
        axes.plot(x, bound, "-", color="0.4", linewidth=1)
        axes.annotate(dtype, (x[-1], bound[-1]), fontsize="x-small", ha="right", va="bottom")
    axes.set(
        xscale="log", yscale="log", xlabel="arithmetic intensity [FLOP/B]", ylabel="rate [FLOP/s]",
        title=accelerator.name,
    )  # fmt: skip
    axes.legend(fontsize="x-small")
    return axes


def residuals(accelerator: Accelerator, axes: Axes | None = None) -> Axes:
    """Measured over fitted time of every kernel: what the curve alone does not follow and the table corrects."""
    axes = _axes(axes)
    device = DeviceCost(accelerator)
    for key, rows in sorted(by_key(_rows(accelerator)).items()):
        seconds = np.array([r.seconds for r in rows])
        ratio = seconds / np.array([device.curve(r.work) for r in rows])
        axes.plot(seconds, ratio, ".", label=key, markersize=4)
    axes.axhline(1.0, color="0.4", linewidth=1)
    axes.set(
        xscale="log", yscale="log", xlabel="measured [s]", ylabel="measured / fitted curve", title=accelerator.name
    )
    axes.legend(fontsize="xx-small", ncols=2)
    return axes


FIGURES = {"efficiency": efficiency_against_size, "roofline": roofline, "residuals": residuals}
"""Figures of a measured profile by name."""
