"""Fits what one call costs a host: ``host.operator`` and ``host.collective``, shared by all training frameworks.

How many operators and collectives a layer calls is counted in the frameworks' sources
(``workloads/frameworks/*.yaml``). The two times are chosen so that simulated steps match measured ones where the host
binds: rows of every source in which the host is at least a tenth of the step. Sources weigh the same however many rows
they have. A weak prior (12 us and 40 us, assumed) decides what one source alone leaves open. Each source is left out in
turn; :mod:`simulator.validation.held_out` scores with those values. Rows of grade C are left out, those on one node of
vTrain among them: their host times are a tracer's (``composed_steps.py``).

    python benchmarks/fits/training_host.py --shared ../shared
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
from pathlib import Path

from simulator.cost.host import COLLECTIVE, OPERATOR
from simulator.training.pipelined import PipelinedJob
from simulator.validation.cases import Case
from simulator.validation.read import read_file

FILES = ("nanotron/h100_sweep_dev.csv", "vtrain/step_times_multi_node_dev.csv")
OPERATORS = (10e-6, 12e-6, 15e-6, 17e-6, 19e-6, 22e-6)
COLLECTIVES = (15e-6, 40e-6, 80e-6)
PRIOR = {OPERATOR.id: 12e-6, COLLECTIVE.id: 40e-6}
WEIGHT = 0.01
"""Of the squared log ratio to the prior, against the mean absolute log error of the steps."""

ROWS = 48
BOUND = 0.1
FEWEST = 8

Grid = dict[tuple[float, float], list[float]]


def seconds(case: Case, operator: float, collective: float) -> tuple[float, float]:
    """Step time and its part that waits for the host [s]."""
    job, cluster = case.subject.job, case.subject.cluster
    assert job is not None and cluster is not None
    scale = {OPERATOR.id: operator / OPERATOR.value, COLLECTIVE.id: collective / COLLECTIVE.value}
    step = PipelinedJob(job, cluster, scale).run()
    return step.seconds, step.parts.get("host", 0.0)


def errors(cases: list[Case]) -> Grid:
    """Absolute log errors of the host-bound rows at every point of the grid."""
    found: Grid = {}
    bound = []
    for case in cases:
        whole, host = seconds(case, OPERATOR.value, COLLECTIVE.value)
        if host >= BOUND * whole:
            bound.append(case)
    for point in itertools.product(OPERATORS, COLLECTIVES):
        found[point] = [
            abs(math.log(seconds(c, *point)[0] / next(m.value for m in c.measured if m.kind == "training_step_time")))
            for c in bound[:: max(1, len(bound) // ROWS)]
        ]
    return found


def best(grids: dict[str, Grid]) -> tuple[float, float]:
    """The point of the grid with the least mean error over the sources."""

    def loss(point: tuple[float, float]) -> float:
        prior = sum(math.log(v / p) ** 2 for v, p in zip(point, PRIOR.values(), strict=True))
        return sum(statistics.mean(g[point]) for g in grids.values()) / max(1, len(grids)) + WEIGHT * prior

    return min(itertools.product(OPERATORS, COLLECTIVES), key=loss)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    reference = parser.parse_args().shared / "reference"
    paths = [*(reference / "training_peers" / f for f in FILES), reference / "published_training.yaml"]
    sources: dict[str, list[Case]] = {}
    for case in (c for path in paths for c in read_file(path).cases if c.subject.runner == "training"):
        job = case.subject.job
        if job is None or case.labels.grade == "C" or job.plan.offload != "none" or job.framework.checked_collectives:
            continue
        if any(m.kind == "training_step_time" for m in case.measured):
            sources.setdefault(case.labels.source.split()[0], []).append(case)
    grids = {name: errors(cases[:: max(1, len(cases) // (3 * ROWS))]) for name, cases in sources.items()}
    for name, grid in grids.items():
        print(f"{name:24s} {len(next(iter(grid.values()))):3d} rows bound by the host")
    grids = {name: grid for name, grid in grids.items() if len(next(iter(grid.values()))) >= FEWEST}
    point = best(grids)
    print(f"{OPERATOR.id} {point[0] * 1e6:.0f} us, {COLLECTIVE.id} {point[1] * 1e6:.0f} us from {len(grids)} sources")
    for name, grid in grids.items():
        others = best({n: g for n, g in grids.items() if n != name})
        print(f"  without {name:24s} {others[0] * 1e6:.0f} us, {others[1] * 1e6:.0f} us; "
              f"its median error {statistics.median(grid[point]):.1%} fitted with it, "
              f"{statistics.median(grid[others]):.1%} without")  # fmt: skip


if __name__ == "__main__":
    main()
