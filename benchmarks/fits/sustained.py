"""Fits ``gemm.bf16.continuous.sustained``: the share of the compute units' clock in a kernel benchmark that training
keeps hour after hour, and ``accumulated``: what a GEMM keeps of that which adds to a matrix in fp32.

Kernel benchmarks last milliseconds; a training step draws full power all the time, and the power limit lowers the
clock.

* B200 and A100-PCIe: GEMMs that SimuMax called a hundred times in a row on one device, with the shapes and layouts of
  training, against the fitted curve of the device (one source). Calls of 1 ms last long enough for the limit to bite.
* A100-SXM and H100-SXM: step times. For every source the factor that makes the median error of its compute-bound rows
  zero; the constant is the median over sources, and each source is also scored with the median of the others.

    python benchmarks/fits/sustained.py --shared ../shared
"""

from __future__ import annotations

import argparse
import csv
import statistics
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from simulator.constants import Constant, Trust
from simulator.cost.device import DeviceCost
from simulator.hardware.profiles import load_accelerator
from simulator.hardware.types import Accelerator, NodeGroup
from simulator.validation.cases import Case
from simulator.validation.read import measurement_files, read_file
from simulator.validation.training_runs import run_training
from simulator.workload.ops import OpKind, Work

KEY = "gemm.bf16.continuous.sustained"
SHORTEST = 1e-3
"""A hundred calls of a GEMM below this [s] are over before the power limit lowers the clock."""

GRID = (1.0, 0.92, 0.84, 0.76, 0.68, 0.6, 0.52)
ROWS = 24
"""Rows per source: evenly spaced, so that every source weighs the same and the fit takes a minute."""

FEWEST = 3
"""Rows of a source, whose median then has one on either side."""


def kernels(path: Path, gpu: str, accelerator: str) -> None:
    """Prints both shares of a device from measured GEMMs."""
    device = DeviceCost(load_accelerator(accelerator))
    calls: dict[bool, list[tuple[Work, float]]] = {False: [], True: []}
    with path.open() as file:
        for row in csv.DictReader(file):
            if row["gpu"] != gpu or row["op"] != "matmul":
                continue
            shape = dict(part.strip().split("=") for part in row["shape"].split(";"))
            m, k, n = (int(shape[x]) for x in "mkn")
            flops, fp32 = 2.0 * m * k * n, shape["out_dtype"] == "fp32"
            measured = flops / (float(row["peak_tflops"]) * 1e12 * float(row["fraction_of_peak"]))
            if measured >= SHORTEST and (fp32 or shape["accumulate"] == "False"):
                work = Work(OpKind.GEMM, "bf16", flops, 2.0 * (m * k + k * n) + (8.0 if fp32 else 2.0) * m * n, m, n, k)
                calls[fp32].append((work, measured))

    def share(kept: float, of: list[tuple[Work, float]]) -> float:
        """Median of the times at a share of the compute units' clock over those measured, less 1."""
        return statistics.median(device.price(replace(w, flops=w.flops / kept)).seconds / t for w, t in of) - 1

    sustained, added = (zero([(share(kept, calls[fp32]), kept) for kept in GRID]) for fp32 in (False, True))
    print(f"{gpu}: sustained {sustained:.2f} of {len(calls[False])} GEMMs >= 1 ms, accumulated "
          f"{added / sustained:.2f} of {len(calls[True])} more, one source")  # fmt: skip


def with_share(case: Case, share: float) -> Case:
    """The case on devices that keep ``share``."""
    constant = Constant("trial.sustained", share, "", 0.1, Trust.FITTED, "trial")
    assert case.subject.cluster is not None
    groups = []
    for group in case.subject.cluster.groups:
        device: Accelerator = group.node.accelerator
        efficiency = {**device.efficiency, KEY: constant}
        groups.append(NodeGroup(replace(group.node, accelerator=replace(device, efficiency=efficiency)), group.count))
    cluster = replace(case.subject.cluster, groups=tuple(groups))
    return replace(case, subject=replace(case.subject, cluster=cluster))


def computed(case: Case) -> bool:
    """16-bit rows without offload, sharded parameters and experts, where GEMMs are most of the step.

    A mixture's host operators are counted by hand and its GEMMs are short: what is wrong there would become a share.
    """
    job = case.subject.job
    assert job is not None
    return (
        not any(layer.mlp is not None and layer.mlp.num_experts for layer, _ in job.model.layers)
        and job.plan.precision != "fp8"
        and job.plan.offload == "none"
        and not job.framework.checked_collectives
        and not (job.plan.zero_stage == 3 and not job.framework.overlap_param_gather)
    )


def bias(cases: list[Case], share: float) -> float:
    errors = []
    for case in cases:
        found, _ = run_training(with_share(case, share).subject)
        published = next(m.value for m in case.measured if m.kind == "training_step_time")
        if found and found.get("part.host", 0.0) + found.get("part.tensor_parallel", 0.0) < 0.3 * found["step"]:
            errors.append(found["step"] / published - 1)
    return statistics.median(errors) if len(errors) >= FEWEST else float("nan")


def steps(cases: list[Case], words: str) -> None:
    by_source: dict[str, list[Case]] = {}
    for case in cases:
        if (
            words in case.labels.gpu
            and case.labels.grade != "C"
            and computed(case)
            and any(m.kind == "training_step_time" for m in case.measured)
        ):
            by_source.setdefault(case.labels.source, []).append(case)
    best: dict[str, float] = {}
    for source, mine in sorted(by_source.items()):
        some = mine[:: max(1, len(mine) // ROWS)]
        curve = [(bias(some, share), share) for share in GRID]
        if any(b != b for b, _ in curve):
            continue
        found = zero(curve)
        print(f"  {source:44s} {len(some):3d} rows, bias at 1: {curve[0][0]:+.1%}, zero at {found:.2f}"
              f"{'' if found > GRID[-1] else ' or below: not the GEMMs, left out'}")  # fmt: skip
        if found > GRID[-1]:
            best[source] = found
    if len(best) < 2:
        return
    middle = statistics.median(best.values())
    print(f"{words}: sustained {middle:.2f} from {len(best)} sources")
    for source in best:
        others = statistics.median(v for s, v in best.items() if s != source)
        print(f"  without {source:40s} {others:.2f}")


def zero(curve: list[tuple[float, float]]) -> float:
    """Share at which the bias vanishes, by straight lines between the grid points; clipped to the grid."""
    if curve[0][0] >= 0:
        return 1.0
    for (b0, s0), (b1, s1) in pairwise(curve):
        if b0 <= 0 <= b1:
            return s0 + (s1 - s0) * (0 - b0) / (b1 - b0)
    return curve[-1][1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    reference = parser.parse_args().shared / "reference"
    table = reference / "training_peers/simumax/op_efficiency.csv"
    for gpu in sorted({row["gpu"] for row in csv.DictReader(table.open())}):
        kernels(table, gpu, "b200-sxm" if gpu.startswith("B200") else "a100-pcie-80gb")
    files = measurement_files([reference / "published_training.yaml", reference / "training_peers"])
    cases = [c for f in files for c in read_file(f).cases if c.subject.runner == "training"]
    for words in ("A100-80GB", "A100-40GB", "H100"):
        steps(cases, words)


if __name__ == "__main__":
    main()
