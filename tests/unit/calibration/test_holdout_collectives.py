"""Collectives held out: a power law is interpolated exactly, and a device left out is priced by others."""

from __future__ import annotations

import pytest

from simulator.calibration.holdout_collectives import collective_lines, held_out_collectives
from simulator.hardware.profiles import load_accelerator


def test_a_power_law_leaves_no_error_and_the_roofline_its_share() -> None:
    device = load_accelerator("h200-sxm")
    rate = device.scale_up.link.bandwidth
    points = [(2.0**k, 4.0 * 2.0**k / rate) for k in range(10, 31)]
    small, large = held_out_collectives({("nccl", "all_gather", 2): points}, device)
    assert small["key"] == "nccl all_gather 2, below 1 MiB" and large["key"] == "nccl all_gather 2, from 1 MiB"
    for row in (small, large):
        assert row["profile"] == pytest.approx(0.0, abs=1e-12)
        assert row["roofline"] == pytest.approx(1 - 1 / 8)  # half of the bytes are on the wire, at four times the rate


def test_borrowed_prices_do_not_see_the_device_itself() -> None:
    device = load_accelerator("h200-sxm")
    (row,) = held_out_collectives({("nccl", "all_reduce", 8): [(2.0**k, 20e-6) for k in range(10, 20)]}, device)
    assert 0.0 < row["borrowed"] < 0.5  # NCCL takes 15 to 30 us on its relatives
    lines = collective_lines([row])
    assert [line.partition(":")[0] for line in lines] == ["h200-sxm nccl, below 1 MiB", "nccl all_reduce, below 1 MiB"]
