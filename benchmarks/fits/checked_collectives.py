"""Reads three facts out of collectives that nanotron's sweep timed inside its jobs (1 GiB, 1 to 32 nodes of 8 H100).

The runs fall into two states by their all-reduce inside a node: 449 to 462 GB/s of bus bandwidth, and 401 to 432 GB/s.

* In the first state the all-gather over N nodes takes t = S/B + N·h: all but one chunk of a node pass N links between
  nodes on their way around the ring. The slope over 4 to 32 nodes is ``ring_hop`` of ``efa-v2``. Its all-reduces over
  8 to 32 nodes reach 177 to 188 GB/s of bus bandwidth: ``tree_share``.
* In the second the time is bound by the ranks n, t = c·n, whatever the number of bytes: something asks every rank
  about every collective on the host. One version of the repository's launch script sets
  ``TORCH_DISTRIBUTED_DEBUG=DETAIL`` (huggingface/nanotron run_multinode.sh), under which PyTorch checks every call with
  a monitored barrier and an exchange of fingerprints (pytorch ProcessGroupWrapper::runCollectiveChecks). The median of
  t/(n-1) over 8 to 32 nodes is ``host.collective_check``.

The size is not in the file: at 1 GiB the all-reduce of one node has the bus bandwidth that the measured curve of the
same device has at that size (458 against 456 GB/s). Step times are not used.

    python benchmarks/fits/checked_collectives.py --shared ../shared
"""

from __future__ import annotations

import argparse
import csv
import statistics
from dataclasses import replace
from pathlib import Path

from simulator.cost.network import CommGroup, NetworkCost
from simulator.hardware.profiles import load_link, load_node
from simulator.hardware.types import Fabric
from simulator.validation.read_tables import CHECKED_BELOW
from simulator.workload.ops import OpKind, Work

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
    per_rank = [t / (PER_NODE * n - 1) for n, t in states[True].items() if n >= 8]
    print(f"host.collective_check {statistics.median(per_rank) * 1e3:.2f} ms")


if __name__ == "__main__":
    main()
