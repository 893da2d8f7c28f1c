"""Reads two facts out of the collectives that nanotron's sweep timed inside its jobs (1 GiB, 1 to 32 nodes of 8 H100).

The runs fall into two states by their all-reduce inside a node: 449 to 462 GB/s of bus bandwidth, and 401 to 432 GB/s.

* In the first state the all-gather over N nodes takes t = S/B + N·h: all but one chunk of a node pass N links between
  nodes on their way around the ring. The slope over 4 to 32 nodes is ``ring_hop`` of ``efa-v2``.
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
from pathlib import Path

from simulator.validation.read_tables import CHECKED_BELOW

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    states = all_gathers(parser.parse_args().shared / "reference/training_peers/nanotron/h100_sweep_dev.csv")
    for state, times in states.items():
        print("checked  " if state else "unchecked", "  ".join(f"{n} nodes {t * 1e3:.2f} ms" for n, t in times.items()))
    free = {n: t for n, t in states[False].items() if n >= 4}
    slope = statistics.linear_regression(list(free), list(free.values())).slope
    print(f"ring_hop {slope * 1e6:.0f} us")
    per_rank = [t / (PER_NODE * n - 1) for n, t in states[True].items() if n >= 8]
    print(f"host.collective_check {statistics.median(per_rank) * 1e3:.2f} ms")


if __name__ == "__main__":
    main()
