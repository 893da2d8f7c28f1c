"""Published kernel timings: a tenth of a device's points predicts the other nine tenths better than any roofline.

The tables are read where they lie (``../shared/reference``, or the installed ``aiconfigurator-core``); the bounds are
those that issue and literature ask for, not what the code happens to reach.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from simulator.calibration import aiconfigurator
from simulator.calibration.holdout import held_out, learning_curve, leave_one_device_out
from simulator.calibration.reference_tables import read_table
from simulator.cost.kernel_table import Row
from simulator.cost.resolve import fitted_accelerators
from simulator.hardware.profiles import load_accelerator

TARGET, ROOFLINE = 0.06, 0.25

measured = pytest.mark.skipif(
    importlib.util.find_spec("aiconfigurator_core") is None, reason="pip install 'fmsim[measured]'"
)


def vidur(shared: Path, device: str, what: str) -> list[Row]:
    folder = shared / "reference" / "vidur" / "profiling"
    rows: dict[object, Row] = {}
    for path in sorted(folder.glob(f"{device}__*{what}*.csv.gz")):
        for row in read_table(path):
            rows.setdefault(row.work, row)
    return list(rows.values())


@pytest.mark.parametrize(("device", "name"), [("a100", "a100-sxm-80gb"), ("h100", "h100-sxm")])
def test_vidur_gemms(shared: Path, device: str, name: str) -> None:
    rows = vidur(shared, device, "__mlp")
    assert len(rows) > 5000
    found = {h.key: h for h in held_out(rows, load_accelerator(name))}["gemm.bf16.forward"]
    assert found.profile <= TARGET
    assert found.profile < found.roofline / 3


def test_vidur_attention(shared: Path) -> None:
    rows = vidur(shared, "a100", "attention_2024-05")
    found = {h.key: h for h in held_out(rows, load_accelerator("a100-sxm-80gb"))}
    assert {"attention_decode.bf16", "attention_prefill.bf16.forward"} <= set(found)
    for one in found.values():
        assert one.profile <= TARGET, one
        assert one.profile < one.roofline / 3


def test_apex_gemms_of_a_v100(shared: Path) -> None:
    (path,) = (shared / "reference" / "serving_peers" / "apex_gemm").glob("*.csv.gz")
    rows = read_table(path)
    (found,) = held_out(rows, load_accelerator("v100-sxm-16gb"))
    assert found.profile <= TARGET


def test_every_format_of_the_peers_is_read(shared: Path) -> None:
    peers = shared / "reference"
    files = {
        "training_peers/simumax/op_efficiency.csv": 100, "serving_peers/llmcompass/matmul_A100.csv": 10,
        "vidur/profiling/a100__meta-llama_Llama-2-7b-hf__mlp.csv.gz": 1000,
    }  # fmt: skip
    for name, least in files.items():
        rows = read_table(peers / name)
        assert len(rows) >= least, name
        assert all(row.seconds > 0 and row.work.flops > 0 for row in rows)


@measured
@pytest.mark.parametrize("device", ["h200_sxm", "h100_sxm", "a100_sxm", "b200_sxm"])
def test_aiconfigurator_kernels(device: str) -> None:
    rows, coverage = aiconfigurator.read_kernels(device)
    assert {line.partition(":")[0] for line in coverage} == {"gemm", "attention_prefill", "attention_decode", "moe"}
    rows = [r for r in rows if r.work.kind.value != "grouped_gemm" and r.work.dtype == "bf16"]
    found = {h.key: h for h in held_out(rows, load_accelerator(aiconfigurator.ACCELERATORS[device]))}
    for key in ("gemm.bf16.forward", "attention_decode.bf16", "attention_prefill.bf16.forward"):
        assert found[key].profile <= TARGET, found[key]
        assert found[key].roofline >= ROOFLINE, found[key]


@measured
def test_more_points_are_better_and_a_relative_is_worse_than_a_measurement() -> None:
    rows, _ = aiconfigurator.read_kernels("h200_sxm")
    rows = [r for r in rows if r.work.kind.value == "gemm" and r.work.dtype == "bf16"]
    accelerator = load_accelerator("h200-sxm")
    few, many = (row["profile"] for row in learning_curve(rows, accelerator, (0.005, 0.2)))
    assert many < few
    (alone,) = leave_one_device_out(rows, accelerator, fitted_accelerators())
    assert many < alone["borrowed"] < 0.25
