"""An engine with matrix multiplications of its own: slower where its kernels are, and nowhere else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cost_devices import accelerator
from test_device_cost import gemm

from simulator.constants import Constant, Trust
from simulator.cost.device import DeviceCost
from simulator.cost.kernels import UNPACKED_EXPERT_BYTES, UNPACKED_EXPERT_START, VECTOR_ROWS
from simulator.cost.own_kernels import library_flops
from simulator.hardware.types import Accelerator
from simulator.workload.framework import Framework
from simulator.workload.ops import OpKind, Work

CHIP = replace(accelerator(bandwidth=2e12, sms=100), boost_clock=1.5e9)
BOARD = replace(CHIP, architecture="ampere", sm_count=128, l2_capacity=64e6)


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


def library(device: Accelerator = BOARD, **values: float) -> DeviceCost:
    own = {k: Constant(f"test.{k}", v, "", 0.1, Trust.ASSUMED, "of the test") for k, v in values.items()}
    return DeviceCost(device, Framework("test", "serving", library_rows=32, constants=own), relatives=())


def test_many_rows_are_multiplied_by_the_library_between_casts() -> None:
    """llama.cpp of May 2024: blocks written out in fp16, activations cast to it, products cast back to fp32."""
    plain, own = DeviceCost(BOARD, Framework("test", "serving"), relatives=()), library()
    m, n, k = 4096, 8192, 8192
    blocks, whole = replace(gemm(m, n, k, "int8"), bytes=0.6 * n * k + 2.0 * m * (n + k)), gemm(m, n, k, "fp16")
    passes = own.price(whole).seconds - plain.price(whole).seconds
    rate = 2e12 * 0.8  # share of the bandwidth that elementwise kernels reach by default
    assert passes == pytest.approx(6.0 * m * (n + k) / rate, rel=0.1)
    written = own.price(blocks).seconds - own.price(whole).seconds
    assert written == pytest.approx(2.6 * n * k / rate, rel=0.1)
    few = gemm(32, n, k, "int8")
    assert own.price(few).seconds == plain.price(few).seconds


def test_weights_are_written_out_at_what_the_multiprocessors_can_take() -> None:
    """128 of them at 1.5 GHz and 4 B: 0.77 TB/s, of 1.6 TB/s that memory gives."""
    work = replace(gemm(512, 8192, 8192, "int8"), bytes=0.6 * 8192**2 + 2.0 * 512 * 2 * 8192)
    slow = library(unpack_bytes=4.0).price(work).seconds - library().price(work).seconds
    assert slow == pytest.approx(2.6 * 8192**2 * (1 / (4.0 * 128 * 1.5e9) - 1 / 1.6e12), rel=0.01)
    assert library(unpack_bytes=40.0).price(work).seconds == library().price(work).seconds


def test_passes_over_what_the_cache_holds_go_by_the_clock() -> None:
    """64 MB of cache, 16 B per multiprocessor and clock: 3.07 TB/s below it, 1.6 TB/s of memory above."""
    held, beyond = (Work(OpKind.ELEMENTWISE, "fp32", bytes=size) for size in (60e6, 70e6))
    fast, slow = library(cache_bytes=16.0), library()
    assert fast.price(held).seconds - 3e-6 == pytest.approx(60e6 / (16.0 * 128 * 1.5e9))
    assert slow.price(held).seconds - 3e-6 == pytest.approx(60e6 / 1.6e12)
    assert fast.price(beyond).seconds == slow.price(beyond).seconds


@pytest.mark.parametrize(
    ("m", "n", "sms", "spent"),
    [
        (512, 8192, 128, 1.0),  # 256 tiles of 128 x 128: two full waves
        (512, 4096, 128, 1.0),  # 128 tiles: one full wave
        (512, 4096, 108, 216 / 128),  # as many tiles, one more than a wave of 108 holds twice over
        (512, 1024, 128, 1.0),  # 32 tiles, each cut four times along k
        (512, 1024, 142, 142 / 128),  # the same, fourteen multiprocessors idle
        (100, 4096, 32, 128 / 100),  # one row of tiles, filled to 100 of 128
    ],
)
def test_tiles_fill_waves_of_multiprocessors(m: int, n: int, sms: int, spent: float) -> None:
    work = gemm(m, n, 4096, "fp16")
    assert library_flops(work, sms) == pytest.approx(spent * work.flops)


def test_older_kernels_reach_a_share_of_hopper() -> None:
    """446 of 654 TFLOP/s; elsewhere they are the usual ones."""
    work = gemm(8192, 8192, 65536, "fp16")
    ampere, hopper = (library(replace(BOARD, architecture=name)).price(work).seconds for name in ("ampere", "hopper"))
    peak = 0.8 * BOARD.peak("fp16")
    assert hopper - ampere == pytest.approx(work.flops / peak * (654 / 446 - 1), rel=0.1)


def test_kernels_that_are_launched() -> None:
    """A product in fp16 with two casts, weights in blocks written out, parts of k added up; vectors quantised first."""
    own = library(replace(BOARD, sm_count=100)).engine
    assert own.launched(gemm(512, 8192, 4096, "fp16")) == 3
    assert own.launched(gemm(512, 8192, 4096, "int8")) == 4
    assert own.launched(gemm(512, 1024, 4096, "int8")) == 5
    assert own.launched(gemm(1, 8192, 4096, "int8")) == 2


def test_sums_in_16_bits_are_faster_where_the_device_says_so() -> None:
    work, engine_ = gemm(8192, 8192, 8192, "fp16"), Framework("test", "serving", library_rows=32)
    peaks = {**BOARD.peak_flops, "fp16": BOARD.peak("fp16")}
    slow = DeviceCost(replace(BOARD, peak_flops=peaks), engine_, relatives=())
    fast = DeviceCost(replace(BOARD, peak_flops={**peaks, "fp16_half": 2 * peaks["fp16"]}), engine_, relatives=())
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
