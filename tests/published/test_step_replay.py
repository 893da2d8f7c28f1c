"""Measured training steps replayed by the pipeline executor: order and waiting are ours, seconds are the trace's.

Published: Understanding Stragglers in Large Model Training Using What-if Analysis (OSDI'25), artifact
ByteDance-Seed/StragglerAnalysis: three jobs of 64, 128 and 8 GPUs with the measured length of every step and the length
of the authors' replay (``step_t_nodelay``), which leaves launch gaps out as ours does.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow")

from simulator.validation.read_steps import read_steps
from simulator.validation.step_runs import run_step


@pytest.mark.parametrize(("job", "steps"), [("AR", 44), ("SE", 43), ("ST", 32)])
def test_every_measured_step_within_two_per_cent(shared: Path, job: str, steps: int) -> None:
    trace = shared / "traces" / "bytedance_straggler" / f"trace-{job}.parquet"
    if not trace.is_file():
        pytest.skip("no step traces")
    cases = [case for case in read_steps(trace).cases if case.subject.setting("step") is not None]
    assert len(cases) == steps
    errors = []
    for case in cases:
        found, reason = run_step(case.subject)
        assert not reason
        published = {m.quantity: m.value for m in case.measured}
        errors.append([found[q] / published[q] - 1 for q in ("step", "operations")])
    measured, authors = np.abs(np.array(errors)).T
    assert measured.max() < 0.02
    assert authors.max() < 0.01  # an independent replay of the same operations


def test_a_slower_operation_lengthens_the_replay(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from simulator.validation import step_runs

    trace = shared / "traces" / "bytedance_straggler" / "trace-ST.parquet"
    if not trace.is_file():
        pytest.skip("no step traces")
    number = int(str(read_steps(trace).cases[0].subject.setting("step")))
    plain = step_runs.replay_step(str(trace), number)
    table = step_runs._Step.table

    def slower(self: step_runs._Step, kind: str) -> np.ndarray:
        found = table(self, kind)
        return found * 1.1 if kind.endswith("compute") else found

    monkeypatch.setattr(step_runs._Step, "table", slower)
    assert 1.08 * plain < step_runs.replay_step(str(trace), number) < 1.1 * plain
