"""Intervals hold what they say: on made-up deviations exactly, on measured devices about 80 %."""

from __future__ import annotations

import importlib.util
import math
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from simulator.calibration.coverage import Spread, beyond, borrowed, fitted, tabled
from simulator.calibration.fitting import two_sigmas
from simulator.calibration.reference_tables import gemm_row
from simulator.cost.device import DeviceCost
from simulator.cost.kernel_table import coordinates
from simulator.cost.resolve import fitted_accelerators
from simulator.cost.sensitivity import Z80
from simulator.hardware.profiles import load_accelerator
from simulator.workload.ops import OpKind, Work


def test_sigmas_of_launch_and_body_are_found_back() -> None:
    generator = np.random.Generator(np.random.PCG64(3))
    launch = generator.uniform(0, 1, 20000)
    body = 1 - launch
    deviation = np.hypot(0.4 * launch, 0.1 * body) * generator.standard_normal(20000)
    sigma, launch_sigma = two_sigmas(deviation, launch, body)
    assert sigma == pytest.approx(0.1, rel=0.15)  # of long kernels, a fifth of whose time may be launch
    assert launch_sigma == pytest.approx(0.4, rel=0.05)
    held = np.abs(deviation) <= Z80 * np.hypot(launch_sigma * launch, sigma * body)
    assert held.mean() == pytest.approx(0.8, abs=0.01)


def test_share_inside_and_factor_agree() -> None:
    deviation = np.linspace(-1, 1, 2001)
    one = Spread("device", "gemm", deviation, np.full(2001, 0.25))
    wide = replace(one, sigma=one.sigma * one.factor)
    assert one.inside == pytest.approx(0.25 * Z80, abs=0.01)
    assert wide.inside == pytest.approx(0.8, abs=0.01)


def test_a_sigma_above_one_does_not_take_a_share_to_zero() -> None:
    base = load_accelerator("h100-sxm")
    wild = {key: replace(c, sigma=1.5) for key, c in base.efficiency.items()}
    work = gemm_row(1024, 4096, 4096, 1.0).work
    device = DeviceCost(replace(base, efficiency=wild))
    from simulator.cost.sensitivity import interval

    price = device.price(work)
    found = interval(lambda s: device.moved(s).price(work).seconds, device.constants, price.constants)
    assert 0.0 <= found.low < price.seconds < found.high < math.inf


def test_launch_has_a_sigma_of_its_own(tmp_path: Path) -> None:
    device = load_accelerator("h200-sxm")
    sigmas = {
        leaf: device.efficiency[f"gemm.bf16.{leaf}"].sigma for leaf in ("launch", "compute", "memory", "sharpness")
    }
    assert sigmas["launch"] > sigmas["compute"] == sigmas["memory"] == sigmas["sharpness"]


def test_expert_widths_off_the_grid_are_far_from_those_on_it() -> None:
    def place(width: int) -> tuple[float, ...]:
        return coordinates(Work(OpKind.GROUPED_GEMM, "bf16", 1.0, 1.0, 512, 3 * width, 4096, 8))[1]

    def distance(a: int, b: int) -> float:
        return math.dist(place(a), place(b))

    assert distance(1024, 1024 + 4) > 3.0 > distance(1024, 1024 + 128)


def test_measured_devices() -> None:
    """Two devices of the installed package; without it nothing can be said."""
    pytest.importorskip("aiconfigurator_core")
    pytest.importorskip("pandas")
    from simulator.calibration.aiconfigurator import ACCELERATORS, read_kernels

    shares: dict[str, list[float]] = {}
    for device in ("h200_sxm", "a100_sxm"):
        rows = [r for r in read_kernels(device)[0] if r.work.kind is not OpKind.GROUPED_GEMM]
        rows = rows[::8]
        accelerator, relatives = load_accelerator(ACCELERATORS[device]), fitted_accelerators()
        for what, found in (
            ("fitted", fitted(rows, accelerator, relatives)), ("borrowed", borrowed(rows, accelerator, relatives)),
            ("table", tabled(rows, accelerator, 0.3)),
        ):  # fmt: skip
            shares.setdefault(what, []).extend(one.inside for one in found)
    for what, some in shares.items():
        assert 0.72 < statistics.mean(some) < 0.9, what
    assert beyond([], load_accelerator("h100-sxm")) == []


def test_expert_tables_of_the_package() -> None:
    """Balanced routing: time is proportional to the touched experts until all are."""
    pytest.importorskip("aiconfigurator_core")
    pytest.importorskip("pandas")
    from simulator.calibration.aiconfigurator import read_kernels

    rows = [r for r in read_kernels("h200_sxm")[0] if r.work.kind is OpKind.GROUPED_GEMM and r.work.dtype == "bf16"]
    same = [r for r in rows if (r.work.k, r.work.n) == (6144, 3 * 3072) and r.work.m <= 128]  # 128 experts, 4 a token
    assert {r.work.groups for r in same} >= {4, 32, 128}
    rates = [r.seconds / r.work.bytes for r in same if r.work.m >= 16]
    assert max(rates) < 1.35 * min(rates)
    assert any(r.work.n == 2 * 1856 for r in rows)  # squared ReLU: two matrices


def test_shipped_sigmas_are_what_the_fit_prints() -> None:
    """One device of the script that writes them; a change of curves or of their sigmas wants it run again."""
    pytest.importorskip("aiconfigurator_core")
    path = Path(__file__).resolve().parents[3] / "benchmarks" / "fits" / "intervals.py"
    spec = importlib.util.spec_from_file_location("fits_intervals", path)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    device = load_accelerator("a100-sxm-80gb")
    found = script.sigmas_of("a100_sxm")
    assert set(found) == {"attention_decode.bf16", "attention_prefill.bf16", "gemm.bf16"}
    for section, (sigma, launch_sigma) in found.items():
        assert device.efficiency[f"{section}.compute" if "decode" not in section else f"{section}.memory"].sigma == (
            pytest.approx(sigma, abs=6e-4)
        )
        assert device.efficiency[f"{section}.launch"].sigma == pytest.approx(launch_sigma, abs=6e-4)
