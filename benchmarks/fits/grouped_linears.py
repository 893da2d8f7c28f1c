"""Checks that a grouped linear of Transformer Engine is one GEMM per expert, to the device and to the host.

SimuMax called its grouped GEMM 40 times in a row on one B200, for 20 to 256 experts of 128 to 9,832 rows. Nothing is
fitted for the device: the price is that of one kernel over all groups, under load as a training step has it, and of the
launch of the GEMM curve for every group but the first. Where GEMMs are shortest the loop measures what the host needs
for each (``host.group``).

    python benchmarks/fits/grouped_linears.py --shared ../shared
"""

from __future__ import annotations

import argparse
import csv
import statistics
from dataclasses import replace
from pathlib import Path

from simulator.cost.device import DeviceCost
from simulator.hardware.profiles import load_accelerator
from simulator.training.sustained import accumulated_share, sustained_share
from simulator.workload.framework_files import load_framework
from simulator.workload.ops import OpKind, Work

SHORTEST = 6e-6
"""GEMMs below this [s] run faster than they are launched."""


def work_of(shape: dict[str, str]) -> Work:
    """The grouped GEMM of a row: forward, input gradient or weight gradient."""
    groups, m, n, k = (int(shape[key]) for key in ("ng", "M", "N", "K"))
    gradient = shape["stage"] == "bwd_grad_w"
    added = 8.0 if shape["main_grad_dtype"] == "fp32" else 4.0  # read and written
    moved = 2.0 * (m * n + m * k) + (added if gradient else 2.0) * n * k
    rows, width, depth = (n, k, groups * m) if gradient else (groups * m, n, k)
    flops, operator = 2.0 * groups * m * n * k, "weight_gradient" if gradient else "forward"
    return Work(OpKind.GROUPED_GEMM, "bf16", flops, groups * moved, rows, width, depth, groups, operator=operator)


def main() -> None:
    """Prints ratios of predicted to measured times, with one launch and with a launch per group."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    path = parser.parse_args().shared / "reference" / "training_peers" / "simumax" / "op_efficiency.csv"
    device = load_accelerator("b200-sxm")
    shares = [c.value for c in (sustained_share(device, "bf16"), accumulated_share(device, "bf16")) if c is not None]
    framework = load_framework("megatron-core")
    costs = [DeviceCost(device, replace(framework, gemm_per_expert=apart), recorded=True) for apart in (False, True)]
    ratios: dict[tuple[str, bool], list[float]] = {}
    shortest: list[float] = []
    with path.open() as file:
        for row in csv.DictReader(file):
            if row["gpu"] != "B200-SXM" or row["op"] != "group_matmul":
                continue
            shape = dict(part.strip().split("=") for part in row["shape"].split(";"))
            gradient = shape["stage"] == "bwd_grad_w"
            if shape["main_grad_dtype"] != "fp32" and not gradient:
                continue  # the same GEMM a second time
            work = work_of(shape)
            measured = work.flops / (float(row["peak_tflops"]) * 1e12 * float(row["fraction_of_peak"]))
            for apart, cost in zip((False, True), costs, strict=True):
                priced = cost.price(work)
                added = gradient and shape["main_grad_dtype"] == "fp32"
                share = 1.0 if priced.bound != "compute" else shares[0] * (shares[1] if added else 1.0)
                ratios.setdefault((shape["stage"], apart), []).append(priced.seconds / share / measured)
            if costs[0].price(work).seconds / work.groups < SHORTEST and not gradient:
                shortest.append(measured / work.groups)
    for (stage, apart), found in sorted(ratios.items()):
        each = "a launch per group" if apart else "one launch"
        errors = statistics.fmean(abs(r - 1) for r in found)
        median = statistics.median(found)
        print(f"{stage:13s} {each:18s} {len(found):2d} rows: median {median:.2f}, mean error {errors:.1%}")
    low = [1e6 * seconds for seconds in sorted(shortest)]
    print(f"host per GEMM: {low[0]:.1f} to {low[-1]:.1f} us, median {statistics.median(low):.1f}, of {len(low)}")


if __name__ == "__main__":
    main()
