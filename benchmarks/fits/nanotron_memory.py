"""What stays reserved beyond tensors in nanotron's pipelines: outputs that warm-up forwards handed to communicators.

Reserved memory of rank 0 (first stage) after the sweep's pipeline fix, minus what our tensors take with
``holds_handed_over: no``, against the outputs of the row-parallel layers and the embedding before they are scattered,
times the warm-up forwards but one. A slope of 1 is the rule that :func:`simulator.training.memory.memory_ledger` has;
nothing is fitted.

    python benchmarks/fits/nanotron_memory.py --shared ../shared
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np

from simulator.training.pipelined import PipelinedJob
from simulator.validation.cases import Case
from simulator.validation.read import read_file
from simulator.workload.plan import Plan


def surplus(case: Case) -> tuple[float, float] | None:
    """Reserved bytes beyond our tensors, and the bytes of the rule, of one pipeline with tensor parallelism."""
    job, cluster = case.subject.job, case.subject.cluster
    published = next((m.value for m in case.measured if m.quantity == "reserved_first"), 0.0)
    assert job is not None and cluster is not None
    plan: Plan = job.plan
    if not published or job.framework.name != "nanotron" or min(plan.tensor_parallel, plan.pipeline_parallel) == 1:
        return None
    plain = replace(job, framework=replace(job.framework, holds_handed_over="no"))
    first, bare = (PipelinedJob(j, cluster).memory().stages[0].by_class for j in (job, plain))
    reserved = sum(size for name, size in bare.items() if name != "reserve")
    return published - reserved, first["fragmentation"] - bare["fragmentation"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    path = parser.parse_args().shared / "reference/training_peers/nanotron/h100_sweep_dev.csv"
    found: dict[int, list[tuple[float, float]]] = {}
    for case in read_file(path).cases:
        if (pair := surplus(case)) is not None and case.subject.job is not None:
            found.setdefault(case.subject.job.plan.tensor_parallel, []).append(pair)
    for ranks, pairs in sorted(found.items()):
        beyond, rule = np.array(pairs).T
        slope = float(rule @ beyond / max(rule @ rule, 1.0))
        none = [b / 2**30 for b, r in pairs if r == 0]
        print(f"tensor parallel {ranks:2d}: {len(pairs):3d} runs, slope {slope:.2f}, "
              f"two stages (rule: nothing) {statistics.median(none) if none else float('nan'):.2f} GiB")  # fmt: skip


if __name__ == "__main__":
    main()
