"""Reads three facts out of collectives that nanotron's sweep timed inside its jobs (1 GiB, 1 to 32 nodes of 8 H100),
and fits a fourth to its steps.

The runs fall into two states by their all-reduce inside a node: 449 to 462 GB/s of bus bandwidth, and 401 to 432 GB/s.

* In the first state the all-gather over N nodes takes t = S/B + N·h: all but one chunk of a node pass N links between
  nodes on their way around the ring. The slope over 4 to 32 nodes is ``ring_hop`` of ``efa-v2``. Its all-reduces over
  8 to 32 nodes reach 177 to 188 GB/s of bus bandwidth: ``tree_share``.
* In the second the time is bound by the ranks n, t = c·n, whatever the number of bytes: something asks every rank
  about every collective on the host. One version of the repository's launch script sets
  ``TORCH_DISTRIBUTED_DEBUG=DETAIL`` (huggingface/nanotron run_multinode.sh), under which PyTorch checks every call with
  a monitored barrier and an exchange of fingerprints (pytorch ProcessGroupWrapper::runCollectiveChecks). The median of
  t per rank beyond the node over 8 to 32 nodes is ``host.collective_check``.

Ranks of the same node answer over the loopback, in less time than that. ``host.collective_check_inside`` is fitted to
steps: the value per rank at which a simulated step is the measured one, in rows whose tensor parallelism stays in the
node and binds the step; the median over the degrees. Without those steps it follows, less sharply, from the timed
collectives: with all numbers of nodes together, a check c inside and s beyond and a call in the first state f take
(f^p + (8·c + 8·(N-1)·s)^p)^(1/p), as host and device wait for each other most where both take equally long.

The size is not in the file: at 1 GiB the all-reduce of one node has the bus bandwidth that the measured curve of the
same device has at that size (458 against 456 GB/s).

    python benchmarks/fits/checked_collectives.py --shared ../shared
"""

from __future__ import annotations

import argparse
import csv
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from simulator.cost.host import CHECK_INSIDE
from simulator.cost.network import CommGroup, NetworkCost
from simulator.hardware.profiles import load_link, load_node
from simulator.hardware.types import Fabric
from simulator.training.pipelined import PipelinedJob
from simulator.validation.read import read_file
from simulator.validation.read_tables import CHECKED_BELOW
from simulator.workload.ops import OpKind, Work

TRIED = tuple(i * 0.04e-3 for i in range(1, 11))
"""Tried seconds per rank of a node."""

BOUND = 0.25
"""Least share of a step that waits for checks inside the node."""

SIZE = 2.0**30
PER_NODE = 8
BROKEN_BELOW = 100.0


def all_gathers(path: Path) -> dict[bool, dict[int, float]]:
    """Median seconds by number of nodes, without and with checks."""
    found: dict[bool, dict[int, list[float]]] = {False: {}, True: {}}
    with path.open() as file:
        for row in csv.DictReader(file):
            inside = float(row["allreduce_intra_gbps"] or 0)
            if inside < BROKEN_BELOW:
                continue
            nodes = int(row["nodes"])
            ranks = PER_NODE * nodes
            seconds = (ranks - 1) / ranks * SIZE / (float(row["allgather_gbps"]) * 1e9)
            found[inside < CHECKED_BELOW].setdefault(nodes, []).append(seconds)
    return {state: {n: statistics.median(v) for n, v in sorted(by.items())} for state, by in found.items()}


def all_reduces(path: Path) -> dict[int, float]:
    """Median bus bandwidth of unchecked all-reduces by number of nodes [B/s]."""
    found: dict[int, list[float]] = {}
    with path.open() as file:
        for row in csv.DictReader(file):
            if float(row["allreduce_intra_gbps"] or 0) >= CHECKED_BELOW:
                found.setdefault(int(row["nodes"]), []).append(float(row["allreduce_gbps"]) * 1e9)
    return {nodes: statistics.median(v) for nodes, v in sorted(found.items())}


def inside(path: Path) -> dict[int, list[float]]:
    """Seconds per rank by tensor-parallel degree: those at which steps that wait for their checks are as measured."""
    found: dict[int, list[float]] = {}
    for case in read_file(path).cases:
        job, cluster = case.subject.job, case.subject.cluster
        published = [m.value for m in case.measured if m.kind == "training_step_time"]
        if job is None or cluster is None or case.labels.grade == "C" or not published:
            continue
        if not job.framework.checked_collectives or not 2 <= job.plan.tensor_parallel <= PER_NODE:
            continue
        steps = [
            PipelinedJob(job, cluster, {CHECK_INSIDE.id: value / CHECK_INSIDE.value}).run().seconds for value in TRIED
        ]
        if (steps[-1] - steps[0]) / (TRIED[-1] - TRIED[0]) * CHECK_INSIDE.value < BOUND * published[0]:
            continue
        value = float(np.interp(published[0], steps, TRIED, left=0.0, right=0.0))
        if value:
            found.setdefault(job.plan.tensor_parallel, []).append(value)
    return dict(sorted(found.items()))


def without_steps(states: dict[bool, dict[int, float]]) -> tuple[float, float, float]:
    """Seconds per rank of the node and beyond it, and the sharpness p, from the timed all-gathers alone."""
    nodes = np.array(sorted(states[False]))
    free, checked = (np.array([states[s][n] for n in nodes]) for s in (False, True))

    def misses(x: NDArray[np.float64]) -> NDArray[np.float64]:
        asked = PER_NODE * (x[0] + (nodes - 1) * x[1]) * 1e-3
        logarithms: NDArray[np.float64] = np.log((free ** x[2] + asked ** x[2]) ** (1 / x[2]) / checked)
        return logarithms

    here, beyond, sharpness = least_squares(misses, (0.2, 0.3, 3.0), bounds=((0.0, 0.1, 1.0), (1.0, 1.0, 20.0))).x
    return here * 1e-3, beyond * 1e-3, sharpness


def tree_share(measured: dict[int, float]) -> float:
    """Share of the link at which the priced all-reduces of 8 nodes and more are as fast as the timed ones in the mean;
    on fewer the ring takes over."""

    def bias(share: float) -> float:
        link = replace(load_link("efa-v2"), tree_share=share)
        network = NetworkCost(load_node("aws-p5"), Fabric("rail-optimized", link))
        work = Work(OpKind.COLLECTIVE, "bf16", collective="all_reduce", message=SIZE)
        ratios = []
        for nodes, bus in measured.items():
            if nodes >= 8:
                ranks = PER_NODE * nodes
                seconds = network.price(work, CommGroup(ranks, PER_NODE, nodes)).seconds
                ratios.append(2 * (ranks - 1) / ranks * SIZE / seconds / bus - 1)
        return abs(statistics.fmean(ratios))

    return min((share / 100 for share in range(30, 101)), key=bias)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    path = parser.parse_args().shared / "reference/training_peers/nanotron/h100_sweep_dev.csv"
    states = all_gathers(path)
    for state, times in states.items():
        print("checked  " if state else "unchecked", "  ".join(f"{n} nodes {t * 1e3:.2f} ms" for n, t in times.items()))
    free = {n: t for n, t in states[False].items() if n >= 4}
    slope = statistics.linear_regression(list(free), list(free.values())).slope
    print(f"ring_hop {slope * 1e6:.0f} us")
    print(f"tree_share {tree_share(all_reduces(path)):.2f}")
    here = PER_NODE * CHECK_INSIDE.value
    per_rank = [(t - here) / (PER_NODE * (n - 1)) for n, t in states[True].items() if n >= 8]
    print(f"host.collective_check {statistics.median(per_rank) * 1e3:.2f} ms")
    alone = without_steps(states)
    print(f"without steps {alone[0] * 1e3:.2f} ms inside, {alone[1] * 1e3:.2f} ms beyond")
    by_degree = {degree: statistics.median(values) for degree, values in inside(path).items()}
    print(f"host.collective_check_inside {statistics.median(by_degree.values()) * 1e3:.2f} ms, by degree "
          + ", ".join(f"{degree}: {value * 1e3:.2f}" for degree, value in by_degree.items()))  # fmt: skip


if __name__ == "__main__":
    main()
