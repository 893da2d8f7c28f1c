"""Every record of the published files is read or listed, and the figures that have to be exact are."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from simulator.validation.cases import Case
from simulator.validation.read import read_file
from simulator.validation.run import answer_case


@pytest.fixture(scope="module")
def training(shared: Path) -> tuple[dict, list[Case], set[str]]:
    path = shared / "reference/published_training.yaml"
    reading = read_file(path)
    data = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
    return data, reading.cases, {s.id for s in reading.skipped}


def test_no_record_is_lost(training: tuple[dict, list[Case], set[str]]) -> None:
    data, cases, skipped = training
    known = {c.id for c in cases} | skipped
    records = {str(r["id"]) for section in data.values() if isinstance(section, list) for r in section}
    assert records == known


def test_every_serving_entry_is_read_or_listed(shared: Path) -> None:
    path = shared / "reference/published_serving.yaml"
    reading = read_file(path)
    entries = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)["entries"]
    assert {e["id"] for e in entries} == {c.id for c in reading.cases} | {s.id for s in reading.skipped}
    assert all(s.reason for s in reading.skipped)


def test_bubble_rates_to_the_printed_digits(training: tuple[dict, list[Case], set[str]]) -> None:
    cases = [c for c in training[1] if c.subject.runner == "bubble"]
    assert len(cases) == 12
    for case in cases:
        found, reason = answer_case(case)
        assert not reason
        for m in case.measured:  # the paper's interleaved rows leave out some transfers
            assert found[m.quantity] == pytest.approx(m.value, abs=4e-3 if m.quantity == "1F1B-I" else 1.5e-4), case.id


def test_korthikanti_steps_with_the_shared_constants(training: tuple[dict, list[Case], set[str]]) -> None:
    errors = []
    for case in (c for c in training[1] if c.id.startswith("korthikanti_t5")):
        found, reason = answer_case(case)
        assert not reason
        published = next(m.value for m in case.measured if m.kind == "training_step_time")
        errors.append(abs(found["step"] / published - 1))
    assert len(errors) == 8
    assert sum(errors) / 8 < 0.06
