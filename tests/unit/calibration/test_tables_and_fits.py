"""Fits recover known constants; tables interpolate what they were given and say where they end."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from simulator.calibration.fitting import Peaks, fit_curves, fit_decode, fit_experts, fit_gemm, peaks_of
from simulator.calibration.holdout import constants_of, held_out, measured_cost, sample
from simulator.calibration.reference_tables import attention_row, gemm_row
from simulator.calibration.resident import resident
from simulator.constants import Constant, Trust
from simulator.cost.device import DeviceCost
from simulator.cost.experts import expert_block, kernels_of, unaligned
from simulator.cost.kernel_table import KernelTable, Row, read_rows, write_rows
from simulator.hardware.profiles import load_accelerator
from simulator.workload.ops import OpKind, Work

PEAK, BANDWIDTH = 300e12, 2e12


def synthetic_gemms(launch: float, compute: float, memory: float, sharpness: float, count: int = 120) -> list[Row]:
    """GEMMs of a device that follows the formula exactly."""
    generator = np.random.Generator(np.random.PCG64(1))
    rows = []
    for _ in range(count):
        m, n, k = (int(2 ** generator.uniform(low, 14)) for low in (0, 8, 8))
        row = gemm_row(m, n, k, 1.0)
        a, b = row.work.flops / (compute * PEAK), row.work.bytes / (memory * BANDWIDTH)
        rows.append(replace(row, seconds=launch + (a**sharpness + b**sharpness) ** (1 / sharpness)))
    return rows


@pytest.mark.parametrize("truth", [(4e-6, 0.8, 0.9, 3.0), (1e-5, 0.5, 0.7, 1.2)])
def test_gemm_fit_recovers_the_constants(truth: tuple[float, ...]) -> None:
    fit = fit_gemm(synthetic_gemms(*truth), PEAK, BANDWIDTH)
    assert list(fit.constants.values()) == pytest.approx(list(truth), rel=0.02)
    assert fit.median_error < 1e-3


def test_gemm_fit_survives_outliers() -> None:
    rows = synthetic_gemms(4e-6, 0.8, 0.9, 3.0)
    spoilt = [replace(r, seconds=5 * r.seconds) if i % 20 == 0 else r for i, r in enumerate(rows)]
    fit = fit_gemm(spoilt, PEAK, BANDWIDTH)
    assert fit.constants["compute"] == pytest.approx(0.8, rel=0.05)


def test_decode_fit_recovers_the_constants() -> None:
    rows = []
    for batch in (1, 4, 32, 128):
        for context in (128, 1024, 8192):
            for kv_heads in (1, 8):
                row = attention_row(batch, 1, context, 32, kv_heads, 128, 1.0)
                seconds = 1e-5 + row.work.bytes / (0.85 * BANDWIDTH) + 2e-8 * batch * kv_heads
                rows.append(replace(row, seconds=seconds))
    fit = fit_decode(rows, PEAK, BANDWIDTH)
    assert list(fit.constants.values()) == pytest.approx([1e-5, 0.85, 2e-8], rel=0.02)


def test_no_price_of_a_peak_is_above_what_was_measured() -> None:
    rows = synthetic_gemms(4e-6, 0.8, 0.9, 3.0)
    peaks = peaks_of(rows)
    assert all(r.work.flops / peaks.flops["bf16"] < r.seconds for r in rows)
    assert all(r.work.bytes / peaks.bandwidth < r.seconds for r in rows)


def test_table_file_round_trip(tmp_path: Path) -> None:
    rows = [
        *synthetic_gemms(4e-6, 0.8, 0.9, 3.0, 10),
        attention_row(4, 1, 1000, 32, 8, 128, 2e-5),
        Row(Work(OpKind.ELEMENTWISE, "fp32", 10.0, 123456.0, operator="rms_norm.backward"), 1.5e-5, 0.03),
    ]
    for name in ("t.csv", "t.csv.gz"):
        write_rows(tmp_path / name, rows)
        again = read_rows(tmp_path / name)
        assert [r.work for r in again] == [r.work for r in rows]
        assert [r.seconds for r in again] == pytest.approx([r.seconds for r in rows], rel=1e-4)
    first = (tmp_path / "t.csv.gz").read_bytes()
    write_rows(tmp_path / "t.csv.gz", rows)
    assert (tmp_path / "t.csv.gz").read_bytes() == first


def test_table_reproduces_its_points_and_marks_the_rest() -> None:
    def curve(work: Work) -> float:
        return 1e-6 + work.bytes / 1e11

    works = [Work(OpKind.ELEMENTWISE, "fp32", bytes=4.0**p, operator="gelu") for p in range(6, 13)]
    rows = [Row(w, 3 * curve(w) * (1 + 0.2 * (i % 2)), 0.0) for i, w in enumerate(works)]
    table = KernelTable(rows, curve)
    for row in rows:
        found = table.correction(row.work)
        assert found is not None and found.inside
        assert curve(row.work) * found.factor == pytest.approx(row.seconds, rel=0.03)
    far = table.correction(replace(works[-1], bytes=4.0**20))
    assert far is not None and not far.inside
    assert 2.5 < far.factor < 4.0  # the mean of what was seen, not 1
    assert table.correction(replace(works[0], operator="never-measured")) is None


def test_a_device_prices_measured_kernels_by_its_table(tmp_path: Path) -> None:
    base = load_accelerator("h100-sxm")
    works = [gemm_row(m, n, 4096, 1.0).work for m in (1, 64, 1024, 8192) for n in (1024, 4096, 16384)]
    device = DeviceCost(base)
    rows = [Row(w, 1.5 * device.price(w).seconds) for w in works]
    write_rows(tmp_path / "t.csv.gz", rows)
    measured = DeviceCost(replace(base, kernel_table=str(tmp_path / "t.csv.gz")))
    inside = measured.price(replace(works[5], m=100))
    assert inside.trust is Trust.MEASURED
    assert inside.seconds == pytest.approx(1.5 * device.price(replace(works[5], m=100)).seconds, rel=0.05)
    constant = next(c for c in measured.constants.entries.values() if ".table." in c.id)
    assert 0 < constant.sigma < 0.1 and "t.csv.gz" in constant.source
    beyond = measured.price(replace(works[5], n=1 << 20, flops=1e15, bytes=1e10))
    assert beyond.trust is not Trust.MEASURED and any(i.endswith(".beyond") for i in beyond.constants)
    # Moved constants move the price, and a measured price does not depend on the curve behind it.
    moved = measured.moved({constant.id: 1.1}).price(replace(works[5], m=100)).seconds
    assert moved == pytest.approx(1.1 * inside.seconds)
    curve = f"{base.name}.gemm.bf16.compute"
    assert measured.moved({curve: 0.5}).price(replace(works[5], m=100)).seconds == inside.seconds


def test_a_tenth_of_a_formulas_points_predicts_the_rest() -> None:
    accelerator = replace(load_accelerator("a100-sxm-80gb"), efficiency={}, kernel_table="")
    peaks = Peaks({"bf16": accelerator.peak("bf16")}, accelerator.memory_bandwidth)
    rows = []
    for row in synthetic_gemms(4e-6, 0.8, 0.9, 3.0, 400):
        a = row.work.flops / (0.8 * peaks.flops["bf16"])
        b = row.work.bytes / (0.9 * peaks.bandwidth)
        rows.append(replace(row, seconds=4e-6 + math.hypot(a, b)))
    (found,) = held_out(rows, accelerator, 0.1)
    assert found.used + found.tested <= len(rows)
    assert found.profile < 0.01 < found.roofline


def test_sample_splits_every_kind_and_loses_nothing() -> None:
    rows = [
        *synthetic_gemms(4e-6, 0.8, 0.9, 3.0, 100),
        *(attention_row(b, 1, 512, 8, 8, 64, 1e-5) for b in range(1, 61)),
    ]
    used, rest = sample(rows, 0.1, seed=3)
    assert len(used) == 10 + 8 and len(used) + len(rest) == len(rows)
    assert sample(rows, 0.1, seed=3)[0] == used


def test_fitted_constants_price_as_the_fit_says() -> None:
    accelerator = load_accelerator("a100-sxm-80gb")
    rows = synthetic_gemms(4e-6, 0.8, 0.9, 3.0)
    fits = fit_curves(rows, Peaks(dict(accelerator.peak_flops), accelerator.memory_bandwidth))
    constants = constants_of("x", fits, "test")
    assert constants["gemm.bf16.launch"].unit == "s" and constants["gemm.bf16.launch"].trust is Trust.FITTED
    profile, curve, _ = measured_cost(rows, accelerator)
    works = [row.work for row in rows]
    assert profile(works)[0] == pytest.approx(rows[0].seconds, rel=0.05)
    assert min(curve(works)) > 0
    assert list(profile(works)) == pytest.approx([profile([work])[0] for work in works], rel=1e-9)  # together or alone


def test_gemm_fit_tells_cast_and_cache_apart() -> None:
    """A narrow input is made by a kernel of its own, and half of the operands were in the cache of the benchmark."""
    launch, compute, memory, sharpness, cached, cast = 5e-6, 0.8, 0.7, 2.0, 2.5, 0.2
    rows = []
    for index, row in enumerate(synthetic_gemms(launch, compute, memory, sharpness, 300)):
        moved = row.work.bytes
        near = moved if index % 2 else 0.0
        work = replace(row.work, dtype="fp8", near=near, casts=True)
        read = (moved - near) / (memory * BANDWIDTH) + near / (cached * BANDWIDTH)
        body = math.hypot(work.flops / (compute * PEAK), read)
        rows.append(Row(work, launch + body + 3.0 * work.m * work.k / (cast * BANDWIDTH)))
    fit = fit_gemm(rows, PEAK, BANDWIDTH)
    truth = {"launch": launch, "compute": compute, "memory": memory, "sharpness": sharpness, "cached": cached}
    assert fit.constants == pytest.approx(truth | {"cast": cast}, rel=0.05)


def test_expert_fit_prices_as_the_kernels_of_a_model_do() -> None:
    """The fit has the formula of a block in arrays; the device adds up kernels. Both must say the same."""
    accelerator = load_accelerator("h200-sxm")
    truth = {"launch": 8e-6, "compute": 0.5, "memory": 0.8, "sharpness": 1.7, "unaligned": 3.0}
    own = {
        f"grouped_gemm.bf16.{leaf}": Constant(
            f"x.{leaf}", value, "s" if leaf == "launch" else "", 0.1, Trust.FITTED, "t"
        )
        for leaf, value in truth.items()
    }
    device = DeviceCost(replace(accelerator, efficiency=own, kernel_table=""), None, None, ())
    blocks = [
        expert_block("bf16", tokens, per_token, hidden, width, min(experts, tokens * per_token), gated)
        for tokens in (1, 16, 256, 4096)
        for per_token, experts, hidden in ((2, 8, 4096), (8, 128, 2048))
        for width in (88, 176, 768, 4096)
        for gated in (True, False)
    ]
    rows = [Row(block, device.curve(block)) for block in blocks]
    peak = accelerator.peak_flops["bf16"]
    fit = fit_experts(rows, peak, accelerator.memory_bandwidth, accelerator.sm_count)
    assert fit.constants == pytest.approx(truth, rel=0.02)


def test_kernels_of_a_block_do_its_work() -> None:
    for gated, matrices in ((True, 3), (False, 2)):
        block = expert_block("fp8", 64, 6, 2048, 88, 60, gated)
        parts = kernels_of(block)
        assert sum(part.flops for part in parts) == block.flops == 2.0 * 64 * 6 * 2048 * 88 * matrices
        up, down = (part for part in parts if part.kind is OpKind.GROUPED_GEMM)
        weights = 60 * 2048 * 88 * matrices
        assert up.bytes + down.bytes == weights + 2.0 * (64 * 2048 + 384 * ((matrices - 1) * 88 + 88 + 2048))
        assert not unaligned(replace(up, n=176)) and unaligned(down)  # 88 = 5.5 x 16


def test_a_timing_that_its_neighbours_contradict_counts_for_little() -> None:
    def curve(work: Work) -> float:
        return 1e-6 + work.flops / 1e14

    works = [gemm_row(m, n, 4096, 1.0).work for m in (64, 128, 256, 512, 1024) for n in (1024, 2048, 4096, 8192)]
    rows = [Row(work, curve(work)) for work in works]
    spoilt = [replace(row, seconds=3 * row.seconds) if i == 9 else row for i, row in enumerate(rows)]
    beside = replace(works[9], m=300, n=2500)
    found = KernelTable(spoilt, curve).correction(beside)
    assert found is not None and abs(found.factor - 1) < 0.25  # trusted, the point says 1.8


@pytest.mark.parametrize(
    ("round_bytes", "share"), [(0.5e8, 1.0), (0.8e8, 1.0), (0.95e8, 0.5), (1.1e8, 0.0), (1e9, 0.0)]
)
def test_what_stays_in_the_cache(round_bytes: float, share: float) -> None:
    assert resident(round_bytes, 1e8) == pytest.approx(share)
    assert resident(round_bytes, 0.0) == 0.0


def test_prices_of_models_do_not_use_the_cache_of_a_benchmark() -> None:
    device = DeviceCost(load_accelerator("l40s"))
    far = attention_row(8, 1, 2048, 32, 8, 128, 1.0).work
    near = replace(far, near=far.bytes)
    assert device.floor(near) < device.floor(far) == far.bytes / device.accelerator.memory_bandwidth
    assert device.price(near).seconds < device.price(far).seconds
    assert not any(name.endswith(".cached") for name in device.price(far).constants)
