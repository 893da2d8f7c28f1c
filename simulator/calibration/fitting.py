"""Few constants from many timings: the device's cost curves by robust least squares of log-time.

The curves are those of :mod:`simulator.cost.device` and :mod:`simulator.cost.attention`; what they cannot follow on a
device is left to its kernel table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from simulator.cost.attention import HEAD_GRID, key_length
from simulator.cost.experts import is_block, kernels_of, unaligned
from simulator.cost.kernel_table import Row, is_decode
from simulator.cost.kernels import grouped_gemm_flops
from simulator.cost.sensitivity import Z80
from simulator.workload.ops import DTYPE_BYTES, OpKind, Work

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "CurveFit", "Peaks", "fit_attention", "fit_curves", "fit_decode", "fit_elementwise", "fit_experts", "fit_gemm",
    "peaks_of", "two_sigmas",
]  # fmt: skip


STEP = 1e-4
MOST_TRIED = 400
"""Rows, about, on which starting points are tried."""
SHORT = 0.2
"""Share of the launch in the time of a kernel above which it counts as short."""
FEW = 8
LEAST = 0.01
LIGHT, STREAMED = 3e-6, 0.8
"""Launch [s] and share of the bandwidth of the small kernels of an expert block: the shipped profiles' elementwise."""

Curve = Callable[["NDArray[np.float64]"], "NDArray[np.float64]"]
"""Seconds of some rows (or their residuals) by a curve's constants."""

NOT_STREAMING = ("positions", "cast", "topk", "embedding")
"""Operators that touch less than the bytes of their tensors (a lookup's table, a cast to the same type)."""


@dataclass(frozen=True)
class CurveFit:
    """Constants of one curve with their error.

    Attributes
    ----------
    constants
        Name → SI value.
    median_error, p90_error
        Of |predicted/measured − 1| over the points of the fit.
    points
        How many there were.
    sigma, launch_sigma
        Relative sigmas of the constants, that of ``launch`` apart: 80 % of the points lie in the 80 % interval.
    """

    constants: dict[str, float]
    median_error: float
    p90_error: float
    points: int
    sigma: float
    launch_sigma: float


@dataclass(frozen=True)
class Peaks:
    """Rates that fractions refer to: FLOP/s by dtype and B/s; and multiprocessors, by whose waves tiles are done."""

    flops: dict[str, float]
    bandwidth: float
    sm_count: int = 0


def peaks_of(rows: Sequence[Row], margin: float = 1.02) -> Peaks:
    """The highest rates that any measured kernel reached, and ``margin`` above: a floor where there is no datasheet.

    On a processor with caches the bandwidth is that of the nearest cache a kernel still streams from, so that no
    price can fall below what was really seen.
    """
    flops: dict[str, float] = {}
    bandwidth = 0.0
    for row in rows:
        if row.work.operator.partition(".")[0] in NOT_STREAMING:
            continue
        if row.work.kind in (OpKind.GEMM, OpKind.GROUPED_GEMM, OpKind.ATTENTION):
            rate = margin * row.work.flops / row.seconds
            flops[row.work.dtype] = max(flops.get(row.work.dtype, 0.0), rate)
        bandwidth = max(bandwidth, margin * row.work.bytes / row.seconds)
    return Peaks(flops, bandwidth)


def fit_curves(rows: Sequence[Row], peaks: Peaks, own_host: bool = False) -> dict[str, CurveFit]:
    """Every curve that the rows allow, by the name of its section in a profile (``gemm.bf16``).

    ``own_host``: the device is a processor, see :func:`fit_decode`.
    """
    found: dict[str, CurveFit] = {}
    for dtype in sorted({row.work.dtype for row in rows}):
        mine = [row for row in rows if row.work.dtype == dtype]
        if dtype not in peaks.flops:
            continue
        gemm = [r for r in mine if r.work.kind is OpKind.GEMM]
        experts = [r for r in mine if is_block(r.work)]
        attention = [r for r in mine if r.work.kind is OpKind.ATTENTION]
        prefill = [r for r in attention if not is_decode(r.work) and not r.work.backward]
        decode = [r for r in attention if is_decode(r.work)]
        for name, some, fit in (
            ("gemm", gemm, fit_gemm),
            ("grouped_gemm", experts, partial(fit_experts, sm_count=peaks.sm_count)),
            ("attention_prefill", prefill, fit_attention),
            ("attention_decode", decode, partial(fit_decode, own_host=own_host)),
        ):
            if len(some) >= 4:
                found[f"{name}.{dtype}"] = fit(some, peaks.flops[dtype], peaks.bandwidth)
    plain = (r for r in rows if r.work.kind is OpKind.ELEMENTWISE)
    elementwise = [r for r in plain if r.work.operator.partition(".")[0] not in NOT_STREAMING]
    if len(elementwise) >= 4:
        found["elementwise"] = fit_elementwise(elementwise, peaks.bandwidth)
    return found


def fit_gemm(rows: Sequence[Row], peak: float, bandwidth: float, sharpness: float = 0.0) -> CurveFit:
    """``launch``, ``compute``, ``memory`` and ``sharpness`` of t = t0 + ((F/e_f·P)^p + (Q/e_b·BW)^p)^(1/p); ``cached``
    where a benchmark found operands in the cache, and ``cast`` where inputs are made narrow first: + (2 + s)·m·k/e_c·BW
    for elements of s bytes. A ``sharpness`` above 0 is held."""
    near, casts = bool(_near(rows).any()), any(r.work.casts for r in rows)

    def curve(some: Sequence[Row]) -> Curve:
        flops, moved = _sizes(some)
        share = _near(some)
        turned = np.array([r.work.casts * (2.0 + DTYPE_BYTES[r.work.dtype]) * r.work.m * r.work.k for r in some])

        def seconds(x: NDArray[np.float64]) -> NDArray[np.float64]:
            launch, compute, memory, power = x[:4]
            a, b = flops / (compute * peak), _read(moved, share, memory, x[4:5] if near else ()) / bandwidth
            together: NDArray[np.float64] = launch + _smooth_max(a, b, power)
            return together + turned / (x[-1] * bandwidth) if casts else together

        return seconds

    choices = {
        "launch": (_least(rows), 1e-9, 1.0), "compute": (0.5, 0.005, 1.0), "memory": (0.5, 0.005, 1.0),
        "sharpness": (2.0, 1.0, 8.0), "cached": (2.0, 1.0, 10.0), "cast": (0.3, 0.02, 1.0),
    }  # fmt: skip
    if sharpness:
        choices["sharpness"] = (sharpness, sharpness * (1 - STEP), sharpness * (1 + STEP))
    absent = {name for name, there in (("cached", near), ("cast", casts)) if not there}
    chosen = {name: choice for name, choice in choices.items() if name not in absent}
    return _fit(rows, curve, tuple(chosen), *(tuple(c[i] for c in chosen.values()) for i in range(3)))


def fit_experts(rows: Sequence[Row], peak: float, bandwidth: float, sm_count: int = 0) -> CurveFit:
    """``launch``, ``compute``, ``memory`` and ``sharpness`` of the grouped GEMMs of expert blocks, as :func:`fit_gemm`
    has them, beside the other kernels of a block at ``LIGHT`` [s] and ``STREAMED`` of the bandwidth; ``unaligned`` is
    the factor on those whose widths are no multiple of 16."""
    odd = any(unaligned(part) for r in rows for part in kernels_of(r.work))

    def curve(some: Sequence[Row]) -> Curve:
        parts = [[p for p in kernels_of(r.work) if p.kind is OpKind.GROUPED_GEMM] for r in some]
        light = [[p for p in kernels_of(r.work) if p.kind is not OpKind.GROUPED_GEMM] for r in some]
        beside = np.array([sum(LIGHT + p.bytes / (STREAMED * bandwidth) for p in mine) for mine in light])
        sides = [
            (
                np.array([grouped_gemm_flops(p[i], sm_count) for p in parts]), np.array([p[i].bytes for p in parts]),
                np.array([unaligned(p[i]) for p in parts]),
            )
            for i in range(2)
        ]  # fmt: skip

        def seconds(x: NDArray[np.float64]) -> NDArray[np.float64]:
            launch, compute, memory, sharpness = x[:4]
            total: NDArray[np.float64] = beside + 2 * launch
            for flops, moved, aside in sides:
                together = _smooth_max(flops / (compute * peak), moved / (memory * bandwidth), sharpness)
                total = total + (np.where(aside, x[4], 1.0) if odd else 1.0) * together
            return total

        return seconds

    names = ("launch", "compute", "memory", "sharpness", "unaligned")
    start, low, high = (5e-6, 0.5, 0.5, 2.0, 2.0), (1e-9, 0.005, 0.005, 1.0, 1.0), (1.0, 1.0, 1.0, 8.0, 100.0)
    count = 5 if odd else 4
    return _fit(rows, curve, names[:count], start[:count], low[:count], high[:count])


def fit_attention(rows: Sequence[Row], peak: float, bandwidth: float) -> CurveFit:
    """``launch``, ``compute`` and ``half_length`` of causal prefill."""

    def curve(some: Sequence[Row]) -> Curve:
        flops, moved = _sizes(some)
        length = np.array([key_length(r.work) or r.work.kv_len for r in some])
        pad = np.array([_padding(r.work) for r in some])

        def seconds(x: NDArray[np.float64]) -> NDArray[np.float64]:
            launch, compute, half = x
            body = flops * pad * (1 + half / length) / (compute * peak)
            together: NDArray[np.float64] = launch + np.maximum(body, moved / bandwidth)
            return together

        return seconds

    names = ("launch", "compute", "half_length")
    return _fit(rows, curve, names, (_least(rows), 0.5, 200.0), (1e-9, 0.005, 1.0), (1.0, 1.0, 20000.0))


def fit_decode(rows: Sequence[Row], peak: float, bandwidth: float, own_host: bool = False) -> CurveFit:
    """``launch``, ``memory`` and ``per_sequence_head`` of decode attention; on a processor that is its own host also
    ``compute``: query heads that share keys take turns there, so FLOPs count where an accelerator waits for bytes."""

    def curve(some: Sequence[Row]) -> Curve:
        flops, moved = _sizes(some)
        near = _near(some)
        pairs = np.array([r.work.batch * max(1, r.work.kv_heads) for r in some], dtype=np.float64)

        def seconds(x: NDArray[np.float64]) -> NDArray[np.float64]:
            launch, memory, each = x[:3]
            body = _read(moved, near, memory, () if own_host else x[3:]) / bandwidth
            if own_host:
                body = np.maximum(body, flops / (x[3] * peak))
            together: NDArray[np.float64] = launch + body + each * pairs
            return together

        return seconds

    names = ("launch", "memory", "per_sequence_head", "compute" if own_host else "cached")
    begin, least, most = (0.05, 0.001, 1.0) if own_host else (2.0, 1.0, 10.0)
    start, low, high = (_least(rows), 0.5, 1e-8, begin), (1e-9, 0.002, 1e-12, least), (1.0, 1.0, 1e-3, most)
    count = 4 if own_host or _near(rows).any() else 3
    return _fit(rows, curve, names[:count], start[:count], low[:count], high[:count])


def fit_elementwise(rows: Sequence[Row], bandwidth: float) -> CurveFit:
    """``launch`` and ``memory`` of a typical memory-bound kernel."""

    def curve(some: Sequence[Row]) -> Curve:
        _, moved = _sizes(some)

        def seconds(x: NDArray[np.float64]) -> NDArray[np.float64]:
            together: NDArray[np.float64] = x[0] + moved / (x[1] * bandwidth)
            return together

        return seconds

    return _fit(rows, curve, ("launch", "memory"), (_least(rows), 0.3), (1e-9, 0.002), (1.0, 1.0))


def _sizes(rows: Sequence[Row]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.array([r.work.flops for r in rows]), np.array([max(r.work.bytes, 1.0) for r in rows])


def _smooth_max(a: NDArray[np.float64], b: NDArray[np.float64], sharpness: float) -> NDArray[np.float64]:
    high, low = np.maximum(a, b), np.minimum(a, b)
    together: NDArray[np.float64] = high * (1 + (low / high) ** sharpness) ** (1 / sharpness)
    return together


def _near(rows: Sequence[Row]) -> NDArray[np.float64]:
    """Share of each kernel's bytes that the benchmark found in the cache."""
    return np.array([r.work.near / max(r.work.bytes, 1.0) for r in rows])


def _read(
    moved: NDArray[np.float64], near: NDArray[np.float64], memory: float, cached: Sequence[float] | NDArray[np.float64]
) -> NDArray[np.float64]:
    """Bytes over their rates, as shares of the bandwidth of the memory; without ``cached`` none are near."""
    pace = 1.0 / memory + (near * (1.0 / cached[0] - 1.0 / memory) if len(cached) else 0.0)
    read: NDArray[np.float64] = moved * pace
    return read


def _least(rows: Sequence[Row]) -> float:
    return max(2e-9, min(r.seconds for r in rows) / 2)


def _padding(work: Work) -> float:
    return math.ceil(work.head_dim / HEAD_GRID) * HEAD_GRID / work.head_dim if work.head_dim > 0 else 1.0


def _fit(
    rows: Sequence[Row],
    curve: Callable[[Sequence[Row]], Curve],
    names: Sequence[str],
    start: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
) -> CurveFit:
    """Least squares of log-time with a loss that grows linearly for outliers; parameters on a logarithmic scale.

    Of several starting points the best is found on a thinned table and followed on the whole one.
    """
    from scipy.optimize import least_squares

    bounds = np.log(np.array(low)), np.log(np.array(high))
    first = np.clip(np.log(np.array(start)), bounds[0] + 1e-9, bounds[1] - 1e-9)

    def residual_of(some: Sequence[Row]) -> Curve:
        model, seconds = curve(some), np.array([r.seconds for r in some])
        return lambda x: np.log(model(np.exp(x)) / seconds)

    thin, residual = residual_of(rows[:: max(1, len(rows) // MOST_TRIED)]), residual_of(rows)
    tries = [
        first,
        *(np.clip(first + np.array(shift), bounds[0] + 1e-9, bounds[1] - 1e-9) for shift in _shifts(len(first))),
    ]
    robust = partial(least_squares, bounds=bounds, loss="soft_l1", f_scale=0.1)
    best = min((robust(thin, x) for x in tries), key=lambda f: float(f.cost))
    if len(rows) >= 2 * MOST_TRIED:
        best = robust(residual, np.clip(best.x, bounds[0] + 1e-9, bounds[1] - 1e-9))
    error = np.abs(np.exp(residual(best.x)) - 1)
    values = {name: float(v) for name, v in zip(names, np.exp(best.x), strict=True)}
    slopes = np.array([(residual(best.x + move) - residual(best.x)) / STEP for move in STEP * np.eye(len(names))])
    body = np.sqrt((slopes[1:] ** 2).sum(axis=0))  # the first constant is the launch
    sigma, launch = two_sigmas(np.expm1(-residual(best.x)), np.abs(slopes[0]), body)
    return CurveFit(values, float(np.median(error)), float(np.quantile(error, 0.9)), len(rows), sigma, launch)


def two_sigmas(
    deviation: NDArray[np.float64], launch: NDArray[np.float64], body: NDArray[np.float64]
) -> tuple[float, float]:
    """Sigmas of a curve's shares and of its launch with which 80 % of the kernels lie in their 80 % interval.

    Kernels of a few microseconds deviate two to three times as far as long ones, so one sigma for both would be too
    narrow for the first or too wide for what fills a step.

    Parameters
    ----------
    deviation
        Measured over predicted time, less one.
    launch, body
        Relative change of a price with a relative change of ``launch``, and of all other constants in quadrature.
    """
    size = np.abs(deviation)
    long = launch <= SHORT
    if long.sum() < FEW or (~long).sum() < FEW:
        both = _holding(size, np.hypot(launch, body))
        return both, both
    rest = _holding(size[long], body[long])
    low, high = 0.0, 100.0
    for _ in range(50):
        middle = (low + high) / 2
        enough = _holding(size[~long], np.hypot(launch * middle, body * rest)[~long]) <= 1.0
        low, high = (low, middle) if enough else (middle, high)
    return max(LEAST, rest), max(LEAST, high)


def _holding(size: NDArray[np.float64], sigma: NDArray[np.float64]) -> float:
    """Factor on the sigmas with which 80 % of the sizes are inside."""
    return float(np.quantile(size / np.maximum(sigma, 1e-12), 0.8)) / Z80


def _shifts(count: int) -> list[list[float]]:
    """Other starting points: the same local minimum is not always the best."""
    return [[(1.5 if (i >> j) & 1 else -1.5) for j in range(count)] for i in range(min(8, 1 << count))]
