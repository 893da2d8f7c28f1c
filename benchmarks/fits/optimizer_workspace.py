"""Fits the temporary memory of InternEvo's optimizer step on its published memory table.

Every row recomputes all activations of short sequences, so the update is the peak: what nvidia-smi showed, less the
context, the allocator's loss and the states that always reside, is left for copies of gradients (flattened, and in
fp32) and for intermediate results of Adam over lists of tensors. It is proportional to the parameters that the rank
updates; the constant is the median of bytes per such parameter.

    python benchmarks/fits/optimizer_workspace.py --shared ../shared
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from simulator.training.pipelined import PipelinedJob
from simulator.validation.cases import Case
from simulator.validation.read import read_file

SOURCE = "InternEvo GPU memory table"


def temporary_bytes(case: Case) -> float:
    """Bytes per updated parameter on the rank with the largest states."""
    assert case.subject.job is not None and case.subject.cluster is not None
    measured = next(m.value for m in case.measured if m.kind == "training_memory")
    stages = [s for s in PipelinedJob(case.subject.job, case.subject.cluster).memory().stages if s.tier.value == "hbm"]
    states = [sum(stage.by_class[name] for name in ("param", "grad", "optim")) for stage in stages]
    worst = states.index(max(states))
    loss = case.subject.job.framework.constants["fragmentation"].value
    updated = stages[worst].by_class["optim"] / 12  # master weight and two moments in fp32
    return ((measured - stages[worst].by_class["reserve"]) / (1 + loss) - states[worst]) / updated


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    folder = parser.parse_args().shared / "reference"
    cases = [c for c in read_file(folder / "published_training.yaml").cases if c.labels.source == SOURCE]
    found = sorted(map(temporary_bytes, cases))
    middle = statistics.median(found)
    spread = statistics.median(abs(x / middle - 1) for x in found)
    print(f"optimizer_workspace {middle:.1f} B per updated parameter over {len(found)} rows, sigma {1.48 * spread:.2f}")
    print("all:", " ".join(f"{x:.1f}" for x in found))


if __name__ == "__main__":
    main()
