"""The host times in ``workloads/frameworks`` are those the fits give, and measured steps need them."""

from __future__ import annotations

import csv
import importlib.util
import statistics
from pathlib import Path
from types import ModuleType

import pytest

from simulator.workload.framework_files import load_framework


def fit_script(name: str) -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "fits" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"fits_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_deepspeed_steps_of_vtrain_are_host_bound(shared: Path) -> None:
    script = fit_script("training_host_floor")
    with (shared / "reference/training_peers/vtrain/step_times_single_node_dev.csv").open() as file:
        rows = [{k: float(v) for k, v in r.items()} for r in csv.DictReader(file)]
    constants = load_framework("deepspeed-2022").constants
    layer, step = constants["host_per_layer"].value, constants["host_per_step"].value

    def error(host_layer: float, host_step: float) -> float:
        return statistics.median(map(abs, script.log_errors(rows, host_layer, host_step)))

    assert error(layer, step) < 0.10
    assert error(0.0, 0.0) > 3 * error(layer, step)
    assert error(0.5 * layer, step) > error(layer, step) < error(1.5 * layer, step)


def test_engines_of_2023_and_2024_have_the_host_line_of_their_profiles(shared: Path) -> None:
    script = fit_script("serving_host")
    for stamp, name in (("2023-11", "vllm-0.2"), ("2024-05", "vllm-0.5")):
        constants = load_framework(name).constants
        start, slope = script.host_line(shared / "reference/vidur/profiling", stamp)
        assert constants["host_per_step"].value == pytest.approx(start, rel=0.03)
        assert constants["host_per_sequence"].value == pytest.approx(slope, rel=0.03)
