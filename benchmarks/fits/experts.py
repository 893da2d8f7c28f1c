"""What expert blocks are made of, from timings of aiconfigurator-core (extra ``measured``).

For every device and type: the curve of the grouped GEMMs of its blocks, the factor on those whose widths are no
multiple of 16 elements (``unaligned_experts`` of simulator/cost/kernels.py), and the median error of three prices: one
GEMM of all matrices by the device's GEMM curve, the kernels of the block one after the other by the same curve, and the
same by the block's own curve. Factors by architecture are medians over its devices; beside that of each device is the
median of the others.

The curves of served blocks by the library whose kernels run are ``benchmarks/fits/expert_kernels.py``.

    python benchmarks/fits/experts.py
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from simulator.calibration import aiconfigurator
from simulator.calibration.fitting import CurveFit, fit_experts
from simulator.cost.device import DeviceCost
from simulator.cost.experts import is_block, kernels_of, unaligned
from simulator.cost.kernel_table import Row
from simulator.hardware.profiles import load_accelerator
from simulator.hardware.types import Accelerator
from simulator.workload.ops import Work


def odd(row: Row) -> bool:
    return any(unaligned(part) for part in kernels_of(row.work))


def error(rows: Sequence[Row], seconds: Callable[[Work], float]) -> float:
    return float(np.median([abs(seconds(row.work) / row.seconds - 1) for row in rows]))


def curve_of(rows: Sequence[Row], accelerator: Accelerator) -> CurveFit:
    peak = accelerator.peak_flops[rows[0].work.dtype]
    return fit_experts(rows, peak, accelerator.memory_bandwidth, accelerator.sm_count)


def one_gemm(cost: DeviceCost) -> Callable[[Work], float]:
    return lambda work: cost.curve(replace(work, operator="forward", rows=0))


def main() -> None:
    factors: dict[tuple[str, str], dict[str, float]] = {}
    for device in aiconfigurator.devices():
        accelerator = load_accelerator(aiconfigurator.ACCELERATORS[device])
        cost = DeviceCost(replace(accelerator, kernel_table=""))
        blocks = [row for row in aiconfigurator.read_kernels(device)[0] if is_block(row.work)]
        for dtype in sorted({row.work.dtype for row in blocks} & set(accelerator.peak_flops)):
            mine = [row for row in blocks if row.work.dtype == dtype]
            fit = curve_of(mine, accelerator)
            values = ", ".join(f"{name} {value:.3g}" for name, value in fit.constants.items())
            print(
                f"{accelerator.name} {dtype}: {len(mine)} blocks; one GEMM {error(mine, one_gemm(cost)):.1%}, "
                f"its kernels {error(mine, cost.curve):.1%}, own curve {fit.median_error:.1%} ({values})"
            )
            if sum(map(odd, mine)) >= 25:
                architecture = accelerator.architecture.partition("+")[0]
                factors.setdefault((architecture, dtype), {})[accelerator.name] = fit.constants["unaligned"]
    for (architecture, dtype), found in sorted(factors.items()):
        apart = [
            f"{name} {value:.2f} ({statistics.median([v for n, v in found.items() if n != name] or [value]):.2f})"
            for name, value in found.items()
        ]
        print(f"unaligned {architecture} {dtype}: {statistics.median(found.values()):.2f}; {', '.join(apart)}")


if __name__ == "__main__":
    main()
