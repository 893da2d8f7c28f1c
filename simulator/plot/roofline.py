"""The operations of a step under the roof of their device."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from simulator.errors import ConfigError
from simulator.hardware.types import Accelerator
from simulator.plot.source import columns_of, document_of, workload_of
from simulator.plot.style import MARKERS, OKABE_ITO, drawing, finish, ink_of, legend, titles
from simulator.results.tables import Result

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["roofline"]

_KINDS = {"gemm": "blue", "grouped_gemm": "sky", "attention": "green", "elementwise": "orange"}
_MOST_LABELS = 8
_AREA, _MORE = 20.0, 900.0
_DTYPES = {"fp16": "fp16", "fp8": "fp8", "fp32": "fp32", "int8": "int8"}


def roofline(
    result: Result | pd.DataFrame,
    workload: str | None = None,
    ax: Axes | None = None,
    *,
    device: Accelerator | None = None,
    dtype: str | None = None,
) -> Axes:
    """FLOP/s against arithmetic intensity of every distinct operation of a step; areas are shares of its time.

    The upper roof is the dense peak of the compute type, the lower the peak of vectors (fp32), where it is known.

    Parameters
    ----------
    result
        A result, or a frame of its table ``ops`` (then give the device).
    device
        That of the scenario by default.
    dtype
        Of the peak; by default that of the plan's precision.

    Raises
    ------
    ConfigError
        If no operations were recorded, or the device is not known.

    References
    ----------
    Williams, Waterman, Patterson, Roofline, CACM 52(4), 2009.
    """
    name = workload_of(result, "ops", workload)
    rows = _operations(columns_of(result, "ops", name), name)
    chip = device if device is not None else _device(result, name)
    kind = dtype or _dtype(result, name)
    peak, bandwidth = chip.peak_flops.get(kind) or max(chip.peak_flops.values()), chip.memory_bandwidth
    x, y = rows["flops"] / rows["bytes"], rows["flops"] / rows["duration"]
    share = rows["duration"] * rows["count"]
    share = share / share.sum()
    with drawing(ax, 7.5, 4.8) as axes:
        low, high = min(0.3, 0.5 * x.min()), max(4 * x.max(), 8 * peak / bandwidth)
        edge = np.array([low, peak / bandwidth, high])
        axes.plot(edge, np.minimum(peak, bandwidth * edge) / 1e12, color=ink_of(axes), linewidth=1.6)
        for index, (what, colour) in enumerate(_KINDS.items()):
            mine = rows["kind"] == what
            if mine.any():
                axes.scatter(
                    x[mine], y[mine] / 1e12, s=_AREA + _MORE * share[mine], color=OKABE_ITO[colour], alpha=0.75,
                    zorder=3, marker=MARKERS[index], edgecolor="white", linewidth=0.5,
                    label=f"{what.replace('_', ' ')}: {share[mine].sum():.0%} of the time",
                )  # fmt: skip
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(low, high)
        axes.set_ylim(0.5 * float(y.min()) / 1e12, 2.6 * peak / 1e12)
        _roofs(axes, chip, kind, peak, bandwidth, low)
        _labels(axes, rows["name"], x, y / 1e12, share, peak / bandwidth)
        axes.set_xlabel("arithmetic intensity: FLOPs over bytes of memory traffic [FLOP/B]")
        axes.set_ylabel("FLOP/s of the operation [TFLOP/s]")
        titles(axes, f"{name}: operations under the roof of {chip.name}", "areas: share of the device's time in a step")
        legend(axes)
        box = axes.get_legend()
        for handle in box.legend_handles if box else ():
            handle.set(sizes=[45])  # type: ignore[union-attr]
        finish(axes, "both")
        return axes


def _operations(rows: dict[str, NDArray[Any]], name: str) -> dict[str, NDArray[Any]]:
    """Distinct operations that compute."""
    number = {c: rows[c].astype(float) for c in ("start", "duration", "count", "flops", "bytes")}
    kept = np.isnan(number["start"]) & (number["flops"] > 0) & (number["bytes"] > 0) & (number["duration"] > 0)
    kept &= (number["count"] > 0) & np.isin(rows["kind"], list(_KINDS))
    if not kept.any():
        raise ConfigError(f"no operation of '{name}' was recorded: 'record: full' keeps those of training jobs")
    return {**{c: values[kept] for c, values in number.items()}, "kind": rows["kind"][kept], "name": rows["name"][kept]}


def _device(result: Result | pd.DataFrame, name: str) -> Accelerator:
    if not isinstance(result, Result):
        raise ConfigError("a frame does not say on which device it ran: give device=")
    from simulator.scenario.parts import device_of

    return device_of(result.document, name)


def _dtype(result: Result | pd.DataFrame, name: str) -> str:
    precision = str((document_of(result, name).get("plan") or {}).get("precision", "bf16"))
    return next((dtype for word, dtype in _DTYPES.items() if precision.startswith(word)), "bf16")


def _roofs(ax: Axes, chip: Accelerator, dtype: str, peak: float, bandwidth: float, low: float) -> None:
    ink = ink_of(ax)
    ax.annotate(
        f"{dtype} peak {peak / 1e12:,.0f} TFLOP/s", (1, peak / 1e12), (-4, 4), xycoords=("axes fraction", "data"),
        textcoords="offset points", ha="right", va="bottom", fontsize=8.5, color=ink,
    )  # fmt: skip
    middle = np.sqrt(max(low, ax.get_ylim()[0] * 1e12 / bandwidth) * peak / bandwidth)
    ax.annotate(
        f"memory {bandwidth / 1e12:.3g} TB/s", (middle, bandwidth * middle / 1e12), (-6, 6), ha="right", va="bottom",
        textcoords="offset points", fontsize=8.5, color=ink,
    )  # fmt: skip
    vector = chip.peak_flops.get("fp32")
    if vector and vector < peak:
        start = vector / bandwidth
        ax.plot([start, ax.get_xlim()[1]], [vector / 1e12] * 2, color=ink, linewidth=1, linestyle=":")
        ax.annotate(
            f"fp32 vectors {vector / 1e12:,.0f} TFLOP/s", (1, vector / 1e12), (-4, 3), ha="right", va="bottom",
            xycoords=("axes fraction", "data"), textcoords="offset points", fontsize=8.5, color=ink,
        )  # fmt: skip


def _labels(ax: Axes, names: NDArray[Any], x: NDArray[Any], y: NDArray[Any], share: NDArray[Any], ridge: float) -> None:
    """Names of the largest operations under the slope, where there is room; those at the roof lie too close."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    edge = ax.get_window_extent().x1 * 72 / figure.dpi
    taken: list[tuple[float, float, float]] = []
    for i in np.argsort(-share, kind="stable"):
        text = str(names[i]).removeprefix("layer.").replace("_", " ")
        across, up = ax.transData.transform((x[i], y[i])) * 72 / figure.dpi
        left = across + 0.5 * math.sqrt(_AREA + _MORE * share[i]) + 3
        right = left + 4.6 * len(text)  # of a letter of this size, in points
        if x[i] > ridge or right > edge or any(abs(up - h) < 10 and left < b and a < right for a, b, h in taken):
            continue
        taken.append((left, right, up))
        ax.annotate(
            text, (x[i], y[i]), (left - across, 0), textcoords="offset points", fontsize=8, va="center",
            color=ink_of(ax), alpha=0.85,
        )  # fmt: skip
        if len(taken) == _MOST_LABELS:
            return
