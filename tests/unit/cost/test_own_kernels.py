"""An engine with matrix multiplications of its own: slower where its kernels are, and nowhere else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cost_devices import accelerator
from test_device_cost import gemm

from simulator.constants import Constant, Trust
from simulator.cost.device import DeviceCost
from simulator.cost.kernels import UNPACKED_EXPERT_BYTES, UNPACKED_EXPERT_START, VECTOR_ROWS
from simulator.workload.framework import Framework
from simulator.workload.ops import OpKind

CHIP = replace(accelerator(bandwidth=2e12, sms=100), boost_clock=1.5e9)


def engine(**values: float) -> DeviceCost:
    own = {k: Constant(f"test.{k}", v, "", 0.1, Trust.ASSUMED, "of the test") for k, v in values.items()}
    return DeviceCost(CHIP, Framework("test", "serving", constants=own), relatives=())


def test_vectors_are_read_at_what_the_multiprocessors_can_take() -> None:
    """100 of them at 1.5 GHz and 4 B: 0.6 TB/s, of 1.7 TB/s that memory gives."""
    few, many = gemm(VECTOR_ROWS, 8192, 8192), gemm(VECTOR_ROWS + 1, 8192, 8192)
    own, library = engine(vector_bytes=4.0), engine()
    body = own.price(few).seconds - 4e-6
    assert body == pytest.approx(few.bytes / (4.0 * 100 * 1.5e9), rel=0.01)
    assert own.price(many).seconds == library.price(many).seconds
    assert engine(vector_bytes=40.0).price(few).seconds == library.price(few).seconds


def test_a_share_of_the_compute_efficiency_counts_where_compute_does() -> None:
    large, other = gemm(8192, 8192, 8192, "fp16"), gemm(8192, 8192, 8192, "bf16")
    half, library = engine(gemm_share_fp16=0.5), engine()
    assert half.price(large).seconds == pytest.approx(2 * library.price(large).seconds, rel=0.03)
    assert half.price(other).seconds == library.price(other).seconds
    assert "test.gemm_share_fp16" in half.price(large).constants


def test_many_rows_are_multiplied_by_the_library_between_casts() -> None:
    """llama.cpp of May 2024: blocks written out in fp16, activations cast to it, products cast back to fp32."""
    plain = DeviceCost(CHIP, Framework("test", "serving"), relatives=())
    own = DeviceCost(CHIP, Framework("test", "serving", library_rows=32), relatives=())
    m, n, k = 4096, 8192, 8192
    blocks, whole = replace(gemm(m, n, k, "int8"), bytes=0.6 * n * k + 2.0 * m * (n + k)), gemm(m, n, k, "fp16")
    passes = own.price(whole).seconds - plain.price(whole).seconds
    rate = 2e12 * 0.8  # share of the bandwidth that elementwise kernels reach by default
    assert passes == pytest.approx(6.0 * m * (n + k) / rate, rel=0.1)
    written = own.price(blocks).seconds - own.price(whole).seconds
    assert written == pytest.approx(2.6 * n * k / rate, rel=0.1)
    few = gemm(32, n, k, "int8")
    assert own.price(few).seconds == plain.price(few).seconds


def test_sums_in_16_bits_are_faster_where_the_device_says_so() -> None:
    work, engine_ = gemm(8192, 8192, 8192, "fp16"), Framework("test", "serving", library_rows=32)
    peaks = {**CHIP.peak_flops, "fp16": CHIP.peak("fp16")}
    slow = DeviceCost(replace(CHIP, peak_flops=peaks), engine_, relatives=())
    fast = DeviceCost(replace(CHIP, peak_flops={**peaks, "fp16_half": 2 * peaks["fp16"]}), engine_, relatives=())
    spared = slow.price(work).seconds - fast.price(work).seconds
    assert spared == pytest.approx(work.flops / (0.8 * peaks["fp16"]) / 2, rel=0.1)
    other = gemm(16, 8192, 8192, "fp16")
    assert slow.price(other).seconds == fast.price(other).seconds


def test_unpacking_does_not_gain_from_faster_memory() -> None:
    """100 multiprocessors at 1.5 GHz: a rate of theirs, on devices without fp4 units only."""
    few = replace(gemm(64, 4096, 4096, "fp4"), kind=OpKind.GROUPED_GEMM, groups=16, bytes=1e9)
    slow, fast = (DeviceCost(replace(CHIP, memory_bandwidth=b), relatives=()).price(few).seconds for b in (4e12, 8e12))
    rate = UNPACKED_EXPERT_BYTES.value * 100 * 1.5e9
    assert slow == pytest.approx(fast, rel=0.01)
    assert fast >= few.bytes / rate + UNPACKED_EXPERT_START.value
    units = replace(CHIP, peak_flops={**CHIP.peak_flops, "fp4": 8e15}, memory_bandwidth=8e12)
    assert DeviceCost(units, relatives=()).price(few).seconds < 0.5 * fast
