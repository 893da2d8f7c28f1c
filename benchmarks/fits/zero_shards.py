"""Checks ``operators_per_shard`` of nanotron: copying back one parameter's part of one data-parallel rank.

With ZeRO-1 nanotron cuts every parameter over the data-parallel ranks, so one gather of updated parameters copies
parameters × ranks small tensors one by one (``all_gather_coalesced`` in src/nanotron/distributed.py). The runs without
pipeline and without checked collectives, on 32 ranks or more, are priced with no, one and two operators per copy; what
an operator costs is ``host.operator``, which other rows decide.

    python benchmarks/fits/zero_shards.py --shared ../shared
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace
from pathlib import Path

from simulator.training.pipelined import PipelinedJob
from simulator.validation.cases import Case
from simulator.validation.read import read_file

COUNTS = (0, 1, 2)
FEWEST_RANKS = 32


def errors(cases: list[Case], count: int) -> list[float]:
    """Signed errors of the step times with so many operators."""
    found = []
    for case in cases:
        job = case.subject.job
        assert job is not None and case.subject.cluster is not None
        framework = replace(job.framework, operators_per_shard=count)
        published = next(m.value for m in case.measured if m.kind == "training_step_time")
        found.append(
            PipelinedJob(replace(job, framework=framework), case.subject.cluster).run().seconds / published - 1
        )
    return found


def counted(case: Case) -> bool:
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
    cases = [c for c in read_file(path).cases if counted(c)]
    for name, some in (("all", cases), ("even", cases[::2]), ("odd", cases[1::2])):
        for count in COUNTS:
            found = errors(some, count)
            print(f"{name}: {count} operators per shard, {len(some)} rows; median error "
                  f"{statistics.median(map(abs, found)):.1%}, bias {statistics.median(found):+.1%}")  # fmt: skip


if __name__ == "__main__":
    main()
