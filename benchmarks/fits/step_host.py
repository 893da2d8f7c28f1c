"""Fits how many operators a step of Megatron-DeepSpeed calls per parameter tensor (``operators_per_parameter``).

Steps of vTrain on one node, one replica and one stage, differ in layers L and micro-batches n alone inside a group of
equal hidden size, tensor parallelism and micro-batch, so that least squares of the relative errors give

    t = a·L·n + b·n + c·L + d

c is what a step spends per layer whatever the micro-batches: passes over gradients and states, and host calls per
parameter tensor. The passes are priced and taken off; the rest is divided by what an operator costs and by the tensors
of a layer.

    python benchmarks/fits/step_host.py --shared ../shared
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simulator.cost.host import OPERATOR
from simulator.training.pipelined import PipelinedJob
from simulator.validation.cases import Case
from simulator.validation.read import read_file
from simulator.workload.ops import TensorClass

FEWEST = 6
"""Steps of a group: two more than unknowns."""

Group = tuple[int, int, int]


def groups(cases: list[Case]) -> dict[Group, list[Case]]:
    """Cases of one replica and one stage by hidden size, tensor parallelism and micro-batch."""
    found: dict[Group, list[Case]] = {}
    for case in cases:
        job = case.subject.job
        assert job is not None
        if job.plan.pipeline_parallel == 1 and job.plan.data_parallel == 1:
            key = (job.model.hidden_size, job.plan.tensor_parallel, job.batch.micro_batch_size)
            found.setdefault(key, []).append(case)
    return found


def coefficients(cases: list[Case]) -> NDArray[np.float64]:
    """a, b, c, d of one group [s]."""
    rows, measured = [], []
    for case in cases:
        assert case.subject.job is not None
        job = case.subject.job
        layers, count = job.model.num_hidden_layers, job.batch.microbatches(job.plan)
        rows.append((layers * count, count, layers, 1.0))
        measured.append(next(m.value for m in case.measured if m.kind == "training_step_time"))
    weight = 1.0 / np.array(measured)
    found = np.linalg.lstsq(np.array(rows) * weight[:, None], np.ones(len(rows)), rcond=None)[0]
    return np.asarray(found, dtype=np.float64)


def passes(case: Case) -> tuple[float, int]:
    """Seconds of the update per layer, and parameter tensors of a layer."""
    job, cluster = case.subject.job, case.subject.cluster
    assert job is not None and cluster is not None
    work = PipelinedJob(job, cluster)
    layer = next(b for b, _ in work.chunks[0].blocks if b.name == "layer")
    tensors = [t for t in layer.states if t.cls is TensorClass.PARAM]
    whole = [(t, n) for b, n in work.chunks[0].blocks for t in b.states if t.cls is TensorClass.PARAM]
    share = sum(t.elements(work.mesh(0)) for t in tensors) / sum(n * t.elements(work.mesh(0)) for t, n in whole)
    return work.update_time(0).seconds * share, len(tensors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    path = parser.parse_args().shared / "reference/training_peers/vtrain/step_times_single_node_dev.csv"
    found = []
    for (hidden, tensor, micro), cases in sorted(groups(read_file(path).cases).items()):
        layers = {c.subject.job.model.num_hidden_layers for c in cases if c.subject.job is not None}
        counts = {c.subject.job.batch.global_batch_size for c in cases if c.subject.job is not None}
        if len(cases) < FEWEST or len(layers) < 2 or len(counts) < 2:
            continue
        a, _, c, _ = coefficients(cases)
        update, tensors = passes(cases[0])
        calls = (c - update) / tensors / OPERATOR.value
        found.append(calls)
        print(f"hidden {hidden} tensor parallel {tensor} micro-batch {micro}: {len(cases):2d} steps, {a * 1e3:.2f} ms "
              f"per layer and micro-batch, {c * 1e3:.3f} ms per layer and step, update {update * 1e3:.3f} ms: "
              f"{calls:+.2f} operators per tensor")  # fmt: skip
    print(f"operators per parameter tensor: median {statistics.median(found):.2f} of {len(found)} groups, one source")


if __name__ == "__main__":
    main()
