"""Fits ``host_per_message``: what a pipeline message of nanotron cost before the pipeline fix of its sweep.

Whatever the model, the tensor parallelism or the bytes of a message, the pipelined runs before the fix take 0.4 to
0.5 s longer per micro-batch with two stages and 0.9 to 1.1 s with four or more: a rank with one neighbour exchanges one
pair of messages per micro-batch, a rank with two neighbours two pairs. The constant is the value that makes the median
error of two halves of those rows zero (every other row); its error is that of the other half. No run after the fix is
used.

    python benchmarks/fits/pipeline_messages.py --shared ../shared
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace
from pathlib import Path

from simulator.constants import Constant, Trust
from simulator.training.pipelined import PipelinedJob
from simulator.validation.cases import Case
from simulator.validation.read import read_file

GRID = (0.0, 0.35, 0.4, 0.45, 0.5, 0.55)
BEFORE = "before the fix"


def errors(cases: list[Case], seconds: float) -> list[float]:
    """Signed errors of the step times with so long a wait."""
    wait = Constant("trial.message", seconds, "s", 0.2, Trust.FITTED, "trial")
    found = []
    for case in cases:
        job = case.subject.job
        assert job is not None and case.subject.cluster is not None
        framework = replace(job.framework, constants={**job.framework.constants, "host_per_message": wait})
        published = next(m.value for m in case.measured if m.kind == "training_step_time")
        found.append(
            PipelinedJob(replace(job, framework=framework), case.subject.cluster).run().seconds / published - 1
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    path = parser.parse_args().shared / "reference/training_peers/nanotron/h100_sweep_dev.csv"
    cases = [
        c
        for c in read_file(path).cases
        if BEFORE in c.labels.source and any(m.kind == "training_step_time" for m in c.measured)
    ]
    for name, mine, others in (("even", cases[::2], cases[1::2]), ("odd", cases[1::2], cases[::2])):
        best = min(GRID, key=lambda seconds: abs(statistics.median(errors(mine, seconds))))
        there = [abs(e) for e in errors(others, best)]
        before = [abs(e) for e in errors(others, 0.0)]
        print(f"{name} rows: host_per_message {best:.2f} s; median error of the others {statistics.median(there):.1%}, "
              f"{statistics.median(before):.1%} without")  # fmt: skip


if __name__ == "__main__":
    main()
