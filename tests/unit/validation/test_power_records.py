"""Published power: which records are answered, which are told why not, and how near the answers are."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest
import yaml

from simulator.validation.read_power import power_case
from simulator.validation.read_serving import read_serving_file
from simulator.validation.read_training import read_training_file
from simulator.validation.run import answer_case

RECORD = {
    "id": "x", "split": "dev", "quality": "A", "source": "MLPerf power logs v4.0", "system": "1xSMC-H100-SXM-80GB",
    "workload": "llama2_70b_lora", "gpus_per_node": 8, "n_nodes": 1, "node_power_mean_w": 7144.5,
}  # fmt: skip


def test_a_run_with_a_published_launch_file_is_a_case() -> None:
    case = power_case(RECORD, "f")
    assert case.subject.job is not None
    assert case.subject.job.batch.global_batch_size == 8
    assert (case.subject.job.plan.tensor_parallel, case.subject.job.plan.data_parallel) == (4, 2)
    assert any("config_SYS-821GE" in words for words in case.assumed)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"workload": "bert"}, "launch file"),
        ({"n_nodes": 64}, "launch file"),
        ({"node_power_mean_w": None, "energy_mwh": 433}, "estimate"),
    ],
)
def test_other_records_are_told_why_not(change: dict[str, Any], why: str) -> None:
    record = {k: v for k, v in (RECORD | change).items() if v is not None}
    with pytest.raises(ValueError, match=why):
        power_case(record, "f")


def test_nodes_in_training_are_answered_within_20_percent(shared: Path) -> None:
    data = yaml.load((shared / "reference" / "published_training.yaml").read_text(), Loader=yaml.CSafeLoader)
    reading = read_training_file({"runs": [], "power": data["power"]}, "f")
    power = [s for s in reading.skipped if s.section == "power"]
    assert len(reading.cases) + len(power) == len(data["power"])
    assert len(reading.cases) == 4
    for case in reading.cases:
        found, reason = answer_case(case)
        assert not reason
        assert 0.8 < found["node"] / case.measured[0].value < 1.2


def test_static_batches_of_splitwise_are_answered_with_a_known_bias(shared: Path) -> None:
    data = yaml.load((shared / "reference" / "published_serving.yaml").read_text(), Loader=yaml.CSafeLoader)
    entries = [e for e in data["entries"] if "avg_power_frac_tdp" in e.get("metrics", {})][::6]
    errors: dict[str, list[float]] = {"power_peak": [], "power_mean": []}
    for case in read_serving_file({**data, "entries": entries}, "f").cases:
        found, _ = answer_case(case)
        for m in case.measured:
            if m.kind == "power":
                errors[m.quantity].append(found[m.quantity] / m.value - 1)
    assert len(errors["power_mean"]) == len(entries)
    for quantity, values in errors.items():
        assert -0.35 < statistics.median(values) < 0, quantity
