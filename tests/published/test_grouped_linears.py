"""Grouped linears of Transformer Engine 2.11 on B200, a GEMM per expert: loops of calls on one GPU, under load.

Shares of 2,250 TFLOP/s from MooreThreads/SimuMax @4dcaae5 configs/system (group_matmul, gradients in fp32): experts,
rows of each, width, depth, and the shares of forward, input gradient and weight gradient. Nothing was fitted to them.
"""

from __future__ import annotations

import statistics
from dataclasses import replace

import pytest

from simulator.cost.device import DeviceCost
from simulator.hardware.profiles import load_accelerator
from simulator.training.sustained import accumulated_share, sustained_share
from simulator.workload.framework_files import load_framework
from simulator.workload.ops import OpKind, Work

MEASURED = (
    (20, 1232, 3072, 5120, 0.513415, 0.421541, 0.327600),
    (20, 1232, 5120, 1536, 0.397438, 0.389142, 0.319779),
    (40, 616, 3072, 5120, 0.461797, 0.321281, 0.257892),
    (40, 616, 5120, 1536, 0.325778, 0.280662, 0.272326),
    (80, 308, 3072, 5120, 0.386760, 0.304432, 0.161580),
    (80, 308, 5120, 1536, 0.234988, 0.249550, 0.178027),
    (160, 154, 3072, 5120, 0.199686, 0.194662, 0.093652),
    (160, 154, 5120, 1536, 0.115812, 0.122765, 0.082824),
)
"""All of DeepSeek-V2's, expert parallel 8, 4, 2 and 1."""

DIRECTIONS = ("forward", "backward", "weight_gradient")


def work(groups: int, m: int, n: int, k: int, direction: str) -> Work:
    gradient = direction == "weight_gradient"
    moved = 2.0 * (m * n + m * k) + (8.0 if gradient else 2.0) * n * k
    rows, width, depth = (n, k, groups * m) if gradient else (groups * m, n, k)
    flops = 2.0 * groups * m * n * k
    return Work(OpKind.GROUPED_GEMM, "bf16", flops, groups * moved, rows, width, depth, groups, operator=direction)


def ratios(apart: bool) -> list[float]:
    """Predicted over measured times."""
    device = load_accelerator("b200-sxm")
    cost = DeviceCost(device, replace(load_framework("megatron-core"), gemm_per_expert=apart), recorded=True)
    load, added = sustained_share(device, "bf16"), accumulated_share(device, "bf16")
    assert load is not None
    assert added is not None
    found = []
    for *shape, forward, backward, gradient in MEASURED:
        for direction, share in zip(DIRECTIONS, (forward, backward, gradient), strict=True):
            asked = work(*shape, direction)
            priced = cost.price(asked)
            slower = load.value * (added.value if direction == "weight_gradient" else 1.0)
            seconds = priced.seconds / (slower if priced.bound == "compute" else 1.0)
            found.append(seconds * share * 2250e12 / asked.flops)
    return found


def test_a_grouped_linear_is_a_gemm_per_expert() -> None:
    """As one kernel over all experts it would be too fast; with the launch of each there is hardly a bias."""
    one, each = ratios(apart=False), ratios(apart=True)
    assert statistics.median(one) < 0.85
    assert statistics.median(each) == pytest.approx(1.0, abs=0.06)
    assert statistics.fmean(abs(r - 1.0) for r in each) < 0.6 * statistics.fmean(abs(r - 1.0) for r in one)
