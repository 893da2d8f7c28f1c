"""Fits ``gemm.fp8.tensor_scaled``: fp8 GEMMs with one scale per tensor, as Transformer Engine calls them in training.

``gemm.fp8`` of a profile belongs to a serving engine's kernels (CUTLASS with a scale per token, casts inside). Training
with delayed scaling calls cuBLASLt with one scale per tensor; so does TensorRT-LLM, whose timings are fitted here:

    t = t0 + ((F / (e_f·P))^p + (Q / (e_b·BW))^p)^(1/p) + c·m·k / BW

The last term is the engine's own cast of the 16-bit input. It is fitted to set the GEMM apart and not used: a training
step's casts are priced by their own bytes. ``t0`` holds the launches of both kernels.

Half of the weight shapes are fitted, the error is that of the other half; the printed constants are of all.

    python benchmarks/fits/fp8_training.py        (extra ``measured``)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from simulator.calibration import aiconfigurator
from simulator.calibration.fitting import two_sigmas
from simulator.cost.kernel_table import Row
from simulator.hardware.profiles import load_accelerator
from simulator.hardware.types import Accelerator

ENGINE = "trtllm"
LEAST_SIZE = 512
START = (10e-6, 0.7, 0.7, 1.5, 5.0)
LEAST = (1e-6, 0.05, 0.05, 1e-3, 0.1)
MOST = (1e-4, 1.0, 1.0, 8.0, 50.0)

Array = NDArray[np.float64]


class Fit:
    """The constants (t0, e_f, e_b, p - 1, c) fitted to ``rows``."""

    def __init__(self, rows: Sequence[Row], device: Accelerator) -> None:
        self.peak, self.bandwidth = device.peak_flops["fp8"], device.memory_bandwidth
        seconds = np.array([r.seconds for r in rows])

        def residual(x: Array) -> Array:
            deviation: Array = np.log(self.model(rows, np.exp(x)) / seconds)
            return deviation

        bounds = (np.log(LEAST), np.log(MOST))
        self.found = np.exp(least_squares(residual, np.log(START), bounds=bounds, loss="soft_l1", f_scale=0.1).x)

    def model(self, rows: Sequence[Row], x: Array) -> Array:
        """Seconds of every row with the constants ``x``."""
        flops, moved = np.array([r.work.flops for r in rows]), np.array([r.work.bytes for r in rows])
        inputs = np.array([float(r.work.m) * r.work.k for r in rows])
        sharpness = 1 + x[3]
        a, b = flops / (x[1] * self.peak), moved / (x[2] * self.bandwidth)
        seconds: Array = x[0] + (a**sharpness + b**sharpness) ** (1 / sharpness) + x[4] * inputs / self.bandwidth
        return seconds

    def deviation(self, rows: Sequence[Row]) -> Array:
        """Measured over predicted, less 1."""
        return np.array([r.seconds for r in rows]) / self.model(rows, self.found) - 1


def main() -> None:
    for name in aiconfigurator.devices():
        device = load_accelerator(aiconfigurator.ACCELERATORS[name])
        if "fp8" not in device.peak_flops or ENGINE not in aiconfigurator.engines(name):
            continue
        kernels, _ = aiconfigurator.read_kernels(name, ENGINE)
        rows = [r for r in kernels if r.work.dtype == "fp8" and min(r.work.m, r.work.n, r.work.k) >= LEAST_SIZE]
        rows = [r for r in rows if r.work.groups == 1 and r.work.heads == 0]
        if not rows:
            continue
        weights = sorted({(r.work.n, r.work.k) for r in rows})
        kept = set(weights[::2])
        others = Fit([r for r in rows if (r.work.n, r.work.k) in kept], device)
        away = np.abs(others.deviation([r for r in rows if (r.work.n, r.work.k) not in kept]))
        whole = Fit(rows, device)
        found = whole.found
        launch = found[0] / whole.model(rows, found)
        sigma, launch_sigma = two_sigmas(whole.deviation(rows), launch, 1 - launch)
        limit = "" if found[1] < MOST[1] else "  above the datasheet's peak, not used"
        print(f"{device.name}: launch {found[0] * 1e6:.1f} us, compute {found[1]:.3f}, memory {found[2]:.2f}, "
              f"sharpness {1 + found[3]:.1f}, sigma {sigma:.3f}, launch_sigma {launch_sigma:.3f} ({len(rows):,} GEMMs; "
              f"its casts {found[4]:.1f} B per input; held-out shapes: median error {np.median(away):.1%}, "
              f"p90 {np.quantile(away, 0.9):.1%}){limit}")  # fmt: skip


if __name__ == "__main__":
    main()
