"""Published figures of whole clusters beside ours: failures of other sites, checkpoints, stragglers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from simulator.validation.read import read_file
from simulator.validation.rows import RowRecord, rows_of
from simulator.validation.run import answer_case


def answered(path: Path, *runners: str) -> list[RowRecord]:
    cases = [case for case in read_file(path).cases if case.subject.runner in runners]
    return [row for case in cases for row in rows_of(case, *answer_case(case), "")]


@pytest.fixture(scope="module")
def rows(shared: Path) -> dict[tuple[str, str], RowRecord]:
    found = answered(shared / "reference/published_training.yaml", "failures", "checkpoint")
    for row in found:
        print(f"{row.id} {row.kind} {row.quantity}: {row.predicted:.4g} (published {row.published:.4g})")
    return {(row.id, row.quantity): row for row in found}


def test_every_record_is_answered(rows: dict[tuple[str, str], RowRecord]) -> None:
    assert len(rows) > 10
    assert all(math.isfinite(row.predicted) for row in rows.values())


def test_rates_of_one_site_predict_those_of_another(rows: dict[tuple[str, str], RowRecord]) -> None:
    llama = rows["llama3_405b_54days", "count 16384 4665600"]
    assert llama.predicted == pytest.approx(419, rel=0.15), "from StepFun's servers"
    assert rows["llama3_405b_54days", "effective_time"].predicted == 1.0, "above 90 % with StepFun's failures, too"
    assert rows["infinitehbd_trace", "count 3200 29816640"].predicted == pytest.approx(584, rel=0.15)
    assert rows["imbue_70b", "count 4088 604800"].predicted == pytest.approx(15.3, rel=0.1)
    projected = rows["meta_rsc", "mttf 16384"], rows["meta_rsc", "mttf 131072"]
    assert projected[0].predicted / projected[1].predicted == pytest.approx(8.0), "MTTF falls with the size"


def test_checkpoints(rows: dict[tuple[str, str], RowRecord]) -> None:
    assert rows["narayanan_1t", "bytes"].error == pytest.approx(0.0, abs=0.05)
    assert rows["bloom", "bytes"].error == pytest.approx(0.0, abs=0.1)


@pytest.mark.parametrize(("trace", "published"), [("AR", 1.97), ("SE", 1.54), ("ST", 1.18)])
def test_stragglers_slow_a_job_as_published(shared: Path, trace: str, published: float) -> None:
    pytest.importorskip("pyarrow")
    path = shared / f"traces/bytedance_straggler/trace-{trace}.parquet"
    [row] = answered(path, "slow_down")
    print(f"\n{trace}: slow-down {row.predicted:.3f} (published {row.published:.3f})")
    assert row.published == pytest.approx(published, abs=0.006)
    assert row.predicted == pytest.approx(row.published, rel=0.02)
