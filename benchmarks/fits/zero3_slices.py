"""Fits ``host.slice``: a view or a copy that a loop over ranks makes of one rank's part of a tensor.

DeepSpeed's ZeRO-3 cuts every parameter and gradient over all ranks and handles the parts one by one on the host. How
many views and copies it makes is counted in its source (``slices_gather``, ``slices_reduce``, ``slices_persistent`` of
``deepspeed-2021`` and ``deepspeed-2022``); the time of one is the only unknown. It minimises the mean absolute log
error of the steps of Narayanan 2021, table 2 (ZeRO-3 without model parallelism, 384 to 2,240 GPUs) and of DeepSpeed on
Azure 2022 (128 to 1,024 GPUs), both sources with the same weight, and is fitted again without either.

Before anything was fitted, 20,000 ``Tensor.narrow`` in a loop took 1.3 to 3.1 us each with PyTorch 2 on a server's
virtual core: that is what such a call is.

    python benchmarks/fits/zero3_slices.py --shared ../shared
"""

from __future__ import annotations

import argparse
import math
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np

from simulator.cost.host import OWN, SLICE
from simulator.training.pipelined import PipelinedJob
from simulator.validation.cases import Case
from simulator.validation.read import read_file

SOURCES = ("Narayanan", "Azure")
GRID = np.arange(0.0, 6.01e-6, 0.25e-6)
"""Times of a slice to try [s]."""


def seconds(case: Case, each: float) -> float:
    """The step with slices that take so long [s]."""
    job = case.subject.job
    assert job is not None and case.subject.cluster is not None
    constants = {**job.framework.constants, OWN[SLICE.id]: replace(SLICE, value=each)}
    framework = replace(job.framework, constants=constants)
    return PipelinedJob(replace(job, framework=framework), case.subject.cluster).run().seconds


def counted(case: Case, source: str) -> bool:
    """ZeRO-3 of DeepSpeed, with a published step."""
    job = case.subject.job
    if job is None or source not in case.labels.source or not job.framework.gathers_by_parameter:
        return False
    return job.plan.zero_stage == 3 and any(m.kind == "training_step_time" for m in case.measured)


def losses(cases: list[Case]) -> list[tuple[float, float]]:
    """Mean absolute log error and median error of one source, for every time of the grid."""
    published = [next(m.value for m in c.measured if m.kind == "training_step_time") for c in cases]
    found = []
    for each in GRID:
        logs = [math.log(seconds(c, float(each)) / p) for c, p in zip(cases, published, strict=True)]
        found.append((statistics.fmean(map(abs, logs)), statistics.median(logs)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    cases = read_file(parser.parse_args().shared / "reference/published_training.yaml").cases
    by_source = {s: losses([c for c in cases if counted(c, s)]) for s in SOURCES}
    for name, used in (("both", SOURCES), *((f"without {s}", tuple(o for o in SOURCES if o != s)) for s in SOURCES)):
        total = [sum(by_source[s][i][0] for s in used) for i in range(len(GRID))]
        best = int(np.argmin(total))
        print(f"{name}: {1e6 * GRID[best]:.2f} us; mean absolute log error "
              + ", ".join(f"{s} {by_source[s][best][0]:.3f} (median {by_source[s][best][1]:+.3f}), "
                          f"without slices {by_source[s][0][0]:.3f}" for s in SOURCES))  # fmt: skip


if __name__ == "__main__":
    main()
