"""Fits recover known constants; tables interpolate what they were given and say where they end."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from simulator.calibration.fitting import Peaks, fit_curves, fit_decode, fit_gemm, peaks_of
from simulator.calibration.holdout import constants_of, held_out, measured_cost, sample
from simulator.calibration.reference_tables import attention_row, gemm_row
from simulator.constants import Trust
from simulator.cost.device import DeviceCost
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
    profile, curve = measured_cost(rows, accelerator)
    works = [row.work for row in rows]
    assert profile(works)[0] == pytest.approx(rows[0].seconds, rel=0.05)
    assert min(curve(works)) > 0
    assert list(profile(works)) == pytest.approx([profile([work])[0] for work in works], rel=1e-9)  # together or alone
