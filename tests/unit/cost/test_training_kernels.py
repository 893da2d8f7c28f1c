"""Kernels of a training step: fp8 GEMMs that cast their operands, and attention with few heads."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simulator.cost.device import DeviceCost
from simulator.hardware.profiles import load_accelerator
from simulator.workload.ops import OpKind, Work

H100 = load_accelerator("h100-sxm")
B200 = load_accelerator("b200-sxm")


def gemm(m: int, n: int, k: int, **more: object) -> Work:
    return Work(OpKind.GEMM, "fp8", 2.0 * m * n * k, m * k + n * k + 2.0 * m * n, m, n, k, **more)  # type: ignore[arg-type]


def prompt(heads: int, length: int, backward: bool = False) -> Work:
    flops = 4.0 * heads * 128 * length * (length + 1) / 2 * (2.5 if backward else 1.0)
    return Work(
        OpKind.ATTENTION, "bf16", flops, 2.0 * length * 128 * 4 * heads, batch=1, q_len=length, kv_len=(length + 1) / 2,
        heads=heads, kv_heads=heads, head_dim=128, causal=True, backward=backward,
    )  # fmt: skip


def test_an_fp8_gemm_of_a_step_casts_its_input_and_a_weight_gradient_finds_it_cast() -> None:
    step = DeviceCost(H100, recorded=True)
    work = gemm(8192, 12288, 12288, casts=True, operator="forward")
    cast = step.price(work).seconds - step.price(replace(work, operator="weight_gradient")).seconds
    # 2 B in, 1 B out, 1 B out transposed, at 80 % of 3,350 GB/s, and the launch of the kernel that does it
    assert cast == pytest.approx(4 * 8192 * 12288 / (0.8 * 3350e9) + 3e-6)


def test_an_fp8_gemm_reads_operands_of_one_byte() -> None:
    """t0 + ((F / (e_f·P))^p + (Q / (e_b·BW))^p)^(1/p) with the bytes of fp8 operands, as the curve was fitted."""
    m, n, k = 1024, 8192, 8192
    stored = replace(gemm(m, n, k, casts=True, operator="weight_gradient"), bytes=2.0 * (m * k + n * k + m * n))
    curve = {leaf: H100.efficiency[f"gemm.fp8.tensor_scaled.{leaf}"].value for leaf in ("launch", "compute", "memory")}
    p = H100.efficiency["gemm.fp8.tensor_scaled.sharpness"].value
    compute = 2.0 * m * n * k / (curve["compute"] * 1978.9e12)
    memory = (m * k + n * k + 2.0 * m * n) / (curve["memory"] * 3350e9)
    expected = curve["launch"] - 3e-6 + (compute**p + memory**p) ** (1 / p)
    assert DeviceCost(H100, recorded=True).price(stored).seconds == pytest.approx(expected)


def test_serving_and_operands_that_arrive_in_fp8_keep_their_curve() -> None:
    step, serving = DeviceCost(H100, recorded=True), DeviceCost(H100)
    plain = gemm(8192, 12288, 12288)
    assert step.price(plain) == serving.price(plain)
    # The engine's own kernel makes a 16-bit input narrow: 2 B in and 1 B out at its share of the bandwidth.
    cast = serving.price(replace(plain, casts=True)).seconds - serving.price(plain).seconds
    share = H100.efficiency["gemm.fp8.cast"].value
    assert cast == pytest.approx(3 * 8192 * 12288 / (share * 3350e9))
    experts = replace(plain, kind=OpKind.GROUPED_GEMM, groups=8)
    assert serving.price(replace(experts, casts=True)) == serving.price(experts)


def test_the_best_fp8_rate_is_the_best_that_others_achieved() -> None:
    """1402.6 TFLOP/s on H100: maximum achievable matmul, stas00/ml-engineering; not in the fit."""
    price = DeviceCost(H100, recorded=True).price(gemm(16384, 16384, 16384, casts=True, operator="weight_gradient"))
    assert 2 * 16384.0**3 / price.seconds == pytest.approx(1402.6e12, rel=0.05)


def test_relatives_lend_the_curve() -> None:
    price = DeviceCost(load_accelerator("h800-sxm"), recorded=True).price(gemm(8192, 8192, 8192, casts=True))
    assert "h800-sxm.gemm.fp8.tensor_scaled.compute" in price.constants


@pytest.mark.parametrize("length", [4096, 8192, 16384])
def test_heads_are_free_up_to_one_wave_of_blocks(length: int) -> None:
    """128 rows per block on H100: 4 heads of 4,096 tokens are 128 blocks on 132 multiprocessors."""
    cost = DeviceCost(H100)
    one, wave = (cost.price(prompt(n, length)).seconds for n in (1, 4 * 4096 // length))
    assert wave == pytest.approx(one)


def test_many_heads_are_bound_by_the_whole_device() -> None:
    cost = DeviceCost(B200)
    for backward in (False, True):
        launch, one, two = (cost.price(prompt(n, 4096, backward)).seconds for n in (1, 128, 256))
        assert two - one == pytest.approx(one, rel=0.05)
        assert launch < one / 4


def test_few_heads_on_blackwell_take_the_measured_time() -> None:
    """TensorRT-LLM, one head and one sequence: 64, 114 and 211 us (aiconfigurator-core 0.12.0); vLLM's were fitted."""
    cost = DeviceCost(B200)
    for length, measured in ((4096, 64e-6), (8192, 114e-6), (16384, 211e-6)):
        assert cost.price(prompt(1, length)).seconds == pytest.approx(measured, rel=0.15)


def test_training_kernels_of_few_heads_on_b200() -> None:
    """Fraction of 2,250 TFLOP/s with masked scores counted: SimuMax @4dcaae5, one sequence of 4,096 tokens."""
    cost = DeviceCost(B200)
    for heads, backward, fraction in ((4, False, 0.168), (8, False, 0.310), (4, True, 0.343), (8, True, 0.659)):
        measured = 4.0 * heads * 128 * 4096.0**2 * (2.5 if backward else 1.0) / (2250e12 * fraction)
        assert cost.price(prompt(heads, 4096, backward)).seconds == pytest.approx(measured, rel=0.35)
