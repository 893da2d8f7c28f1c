"""Curves of the shipped profiles, from timings of aiconfigurator-core (extra ``measured``, vLLM's kernels).

narrow
    ``gemm.fp8`` and ``gemm.fp4`` of every device, whose timings hold the kernel that turns a 16-bit input into the
    narrow type: that kernel has a rate of its own (``cast``). n, k >= 512.
blocks
    The same of SGLang's (DeepGEMM) and TensorRT-LLM's kernels with one scale per block, which no profile ships: with
    the cast apart their shares of the peak agree, whereas whole timings of two engines differ by 7 to 29 % (median).
cached
    For GEMMs and decode attention (head size 128): how many times as fast as from memory bytes came that the benchmark
    found in the cache, the other constants being those of the profile. Prices of models do not use it.
resident
    The two shares of the cache between which operands stop being found there (simulator/calibration/resident.py): 90th
    percentiles of the errors of fitted decode curves, the best pair first. They hardly tell pairs apart (28.9 to 29.6 %
    of 16 pairs, 0.8 and 1.1 third with 28.9 %).

    python benchmarks/fits/curves.py narrow|blocks|cached|resident
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.optimize import minimize_scalar

from benchmarks.fits.kernel_timings import call, measured
from simulator.calibration import aiconfigurator, resident
from simulator.calibration.fitting import fit_decode, fit_gemm
from simulator.constants import Constant, Trust
from simulator.cost.device import DeviceCost
from simulator.cost.kernel_table import Row, is_decode
from simulator.hardware.profiles import load_accelerator
from simulator.hardware.types import Accelerator
from simulator.workload.ops import OpKind

HELD = {"hopper": 1.0}
"""Sharpness by architecture: H100 and H200 run the same kernels, but alone one's fit says 1.34 (compute 0.68) and the
other's 1.0 (compute 0.84), with errors that differ by half a point along the whole way."""

LEAST_NEAR = 50
MOST = 6000


def wide_gemms(rows: Sequence[Row], dtype: str) -> list[Row]:
    return [
        r for r in rows if r.work.kind is OpKind.GEMM and r.work.dtype == dtype and r.work.n >= 512 and r.work.k >= 512
    ]


def decodes(rows: Sequence[Row], dtype: str) -> list[Row]:
    return [
        r
        for r in rows
        if r.work.kind is OpKind.ATTENTION and is_decode(r.work) and r.work.dtype == dtype and r.work.head_dim == 128
    ]


def narrow() -> None:
    for device in aiconfigurator.devices():
        rows, accelerator = measured(device)
        for dtype in ("fp8", "fp4"):
            mine = wide_gemms(rows, dtype)
            if not mine or dtype not in accelerator.peak_flops:
                continue
            tell(f"gemm.{dtype}", mine, accelerator, HELD.get(accelerator.architecture, 0.0))


def tell(section: str, rows: Sequence[Row], accelerator: Accelerator, sharpness: float = 0.0) -> None:
    fit = fit_gemm(rows, accelerator.peak_flops[rows[0].work.dtype], accelerator.memory_bandwidth, sharpness)
    values = ", ".join(f"{name}: {value:.3g}" for name, value in fit.constants.items())
    sigmas = f"sigma: {fit.sigma:.3f}, launch_sigma: {fit.launch_sigma:.3f}"
    print(
        f"{accelerator.name} {section} {{{values}, {sigmas}}} {fit.points} points, median error {fit.median_error:.1%}"
    )


def blocks() -> None:
    for device in aiconfigurator.devices():
        accelerator = load_accelerator(aiconfigurator.ACCELERATORS[device])
        for engine in ("sglang", "trtllm"):
            mine = wide_gemms(aiconfigurator.read_block_scaled(device, engine), "fp8")
            if mine and "fp8" in accelerator.peak_flops:
                tell(f"gemm.fp8 with a scale per block, {engine}", mine, accelerator)


def cached() -> None:
    for device in aiconfigurator.devices():
        rows, accelerator = measured(device)
        some = {f"gemm.{t}": wide_gemms(rows, t) for t in ("bf16", "fp8", "fp4")}
        some |= {f"attention_decode.{t}": decodes(rows, t) for t in ("bf16", "fp8")}
        for section, mine in some.items():
            near = [r for r in mine if r.work.near > 0.5 * r.work.bytes]
            if f"{section}.memory" in accelerator.efficiency and len(near) >= LEAST_NEAR:
                near = near[:: max(1, len(near) // MOST)]
                before, value, after = fastest(near, accelerator, section)
                print(
                    f"{accelerator.name} {section} cached: {value:.3g} ({len(near)} near, {before:.1%} to {after:.1%})"
                )


def fastest(near: Sequence[Row], accelerator: Accelerator, section: str) -> tuple[float, float, float]:
    """Median error of the kernels whose bytes were near at the memory's rate, the best rate, and the error with it."""
    name = f"{section}.cached"
    constant = Constant(f"{accelerator.name}.{name}", 1.0, "", 0.1, Trust.FITTED, "")
    lent = replace(accelerator, kernel_table="", efficiency={**accelerator.efficiency, name: constant})
    cost = DeviceCost(lent, None, None, ())

    def off(logarithm: float) -> float:
        moved = cost.moved({constant.id: float(np.exp(logarithm))})
        return float(np.median([abs(np.log(moved.curve(r.work) / r.seconds)) for r in near]))

    cost.price(near[0].work)
    best = minimize_scalar(off, bounds=(0.0, np.log(6.0)), method="bounded")
    return off(0.0), float(np.exp(best.x)), float(best.fun)


def thresholds() -> None:
    pairs = [(low, high) for low in (0.6, 0.7, 0.8, 0.9) for high in (1.0, 1.1, 1.2, 1.3) if low < high]
    found: dict[tuple[float, float], list[float]] = {}
    for device in aiconfigurator.devices():
        rows, accelerator = measured(device)
        mine = decodes(rows, "bf16")
        for low, high in pairs:
            resident.ALL, resident.NONE = low, high
            again = [
                replace(
                    r,
                    work=replace(r.work, near=r.work.bytes * resident.resident(r.work.bytes, accelerator.l2_capacity)),
                )
                for r in mine
            ]
            fit = fit_decode(again, accelerator.peak_flops["bf16"], accelerator.memory_bandwidth)
            found.setdefault((low, high), []).append(fit.p90_error)
    for pair, errors in sorted(found.items(), key=lambda item: float(np.mean(item[1]))):
        print(
            f"all up to {pair[0]}, none from {pair[1]}: p90 {np.mean(errors):.2%}, by device",
            *(f"{e:.1%}" for e in errors),
        )


if __name__ == "__main__":
    call({"narrow": narrow, "blocks": blocks, "cached": cached, "resident": thresholds})
