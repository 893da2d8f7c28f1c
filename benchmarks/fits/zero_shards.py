"""Fits ``host_per_shard`` of nanotron: slicing and copying back one parameter's part of one data-parallel rank.

With ZeRO-1 nanotron cuts every parameter over the data-parallel ranks, so one gather of updated parameters slices and
copies parameters × ranks small tensors one by one (``all_gather_coalesced`` in src/nanotron/distributed.py). The runs
without pipeline and without checked collectives, on 32 ranks or more, are fitted: the constant that makes their median
error zero, and the same on two halves.

    python benchmarks/fits/zero_shards.py --shared ../shared
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

GRID = tuple(step * 1e-6 for step in range(0, 26, 2))
FEWEST_RANKS = 32


def errors(cases: list[Case], seconds: float) -> list[float]:
    """Signed errors of the step times with so long a slice and copy."""
    shard = Constant("trial.shard", seconds, "s", 0.2, Trust.FITTED, "trial")
    found = []
    for case in cases:
        job = case.subject.job
        assert job is not None and case.subject.cluster is not None
        framework = replace(job.framework, constants={**job.framework.constants, "host_per_shard": shard})
        published = next(m.value for m in case.measured if m.kind == "training_step_time")
        found.append(
            PipelinedJob(replace(job, framework=framework), case.subject.cluster).run().seconds / published - 1
        )
    return found


def fitted(case: Case) -> bool:
    """ZeRO-1 over many ranks, nothing else unusual."""
    job = case.subject.job
    assert job is not None
    plan = job.plan
    usual = plan.pipeline_parallel == 1 and not job.framework.checked_collectives and plan.zero_stage == 1
    return usual and plan.data_parallel >= FEWEST_RANKS and any(m.kind == "training_step_time" for m in case.measured)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    path = parser.parse_args().shared / "reference/training_peers/nanotron/h100_sweep_dev.csv"
    cases = [c for c in read_file(path).cases if fitted(c)]
    for name, some in (("all", cases), ("even", cases[::2]), ("odd", cases[1::2])):
        best = min(GRID, key=lambda seconds: abs(statistics.median(errors(some, seconds))))
        there, without = ([abs(e) for e in errors(some, s)] for s in (best, 0.0))
        print(f"{name}: host_per_shard {best * 1e6:.0f} us from {len(some)} rows; median error "
              f"{statistics.median(there):.1%}, {statistics.median(without):.1%} without")  # fmt: skip


if __name__ == "__main__":
    main()
