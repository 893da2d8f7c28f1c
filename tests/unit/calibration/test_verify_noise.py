"""What a verification says of the machine: measured against measured, in passes, over time and against the profile."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from simulator.calibration.report import print_against
from simulator.calibration.retimed import Retimed, by_group, chosen, compare_kernels
from simulator.calibration.verify import Comparison, summarise
from simulator.errors import ConfigError
from simulator.hardware.profiles import load_accelerator


def compared(name: str, *passes: float, predicted: float = 1.0) -> Comparison:
    return Comparison("decode", name, passes, predicted, predicted, predicted)


def test_error_is_against_the_median_and_noise_between_passes() -> None:
    one = compared("a", 1.0, 1.1, 2.0, predicted=1.21)
    assert one.error == pytest.approx(0.1)
    assert one.noise == pytest.approx(2.0 / 1.1 - 1)  # the middle of the three pairs
    assert compared("b", 1.0).noise == 0.0
    assert summarise([one, compared("c", 1.0, 1.0)]).worst_noise == one.noise


def test_cases_are_put_beside_an_earlier_verification(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    earlier = tmp_path / "then.json"
    rows = [{"kind": "decode", "name": n, "measured_s": s} for n, s in (("a", 1.0), ("b", 2.0), ("gone", 5.0))]
    earlier.write_text(json.dumps({"comparisons": rows}), encoding="utf-8")
    print_against([compared("a", 1.1), compared("b", 1.6), compared("new", 1.0)], earlier, Console(width=200))
    said = capsys.readouterr().out
    assert "2 cases against then.json" in said and "at most 20.0%" in said and "15.0% either way" in said
    earlier.write_text("[]", encoding="utf-8")
    with pytest.raises(ConfigError, match="not what 'fmsim verify --json' writes"):
        print_against([compared("a", 1.0)], earlier, Console())


def test_kernels_of_a_profile_are_found_again() -> None:
    found = chosen(load_accelerator("cpu-xeon-amx-1t"), "cpu", 12)
    assert len(found) == 12 and all(case.work.operator == row.work.operator for case, row in found)
    assert len({case.group for case, _ in found}) >= 3
    assert chosen(load_accelerator("h100-sxm"), "cuda") == []
    same = [row.seconds for _, row in found]
    moved = compare_kernels(found, [same, [1.2 * s for s in same], [1.1 * s for s in same]])
    assert all(one.ratio == pytest.approx(0.1) for one in moved)
    assert by_group([Retimed("gemm", 1.0, 1.2), Retimed("gemm", 1.0, 0.8)])["all"] == pytest.approx((0.0, 0.2))
