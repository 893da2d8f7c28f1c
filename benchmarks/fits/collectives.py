"""Fits of the two constants that shape collectives where nothing was measured (simulator/cost).

``collective.sqrt``: kappa of t = a + kappa·sqrt(a·b·V) + b·V, median over the alpha-sqrt-beta fits of the shipped
profiles (one per accelerator, operation and number of ranks).
``collective.sqrt.between``: the same between nodes, chosen so that the median of the signed log error of NetworkCost
against published multi-node nccl-tests curves is zero.

    python benchmarks/fits/collectives.py --shared ../shared
"""

from __future__ import annotations

import argparse
import math
import statistics
from pathlib import Path

import yaml

from simulator.cost.measured import lenders
from simulator.cost.network import CommGroup, NetworkCost
from simulator.hardware.profiles import load_link, load_node
from simulator.hardware.types import Fabric
from simulator.workload.ops import OpKind, Work

MULTI_NODE = {
    "p5_2n": ("aws-p5", "efa-v2", 2),
    "p4de_2n": ("aws-p4d", "efa-v1", 2),
    "b200_1n_vs_4n": ("aws-p6-b200", "efa-v4", 4),
}


def kappas() -> dict[str, float]:
    """Kappa of every fitted curve, by constant id."""
    found = {}
    for lender in lenders():
        constants = lender.profile.constants
        for key, sqrt in constants.items():
            if key.endswith(".sqrt"):
                head = key.removesuffix(".sqrt")
                product = constants[f"{head}.latency"].value * constants[f"{head}.per_byte"].value
                found[sqrt.id] = sqrt.value / math.sqrt(product)
    return found


def multi_node(shared: Path) -> list[tuple[str, int, int, float]]:
    """Published all-reduce times as (curve, nodes, bytes, seconds)."""
    facts = yaml.load((shared / "reference/hardware_facts.yaml").read_text(), Loader=yaml.CSafeLoader)
    rows = []
    for entry in facts["networks"]["nccl_measured"]:
        if entry["id"] not in MULTI_NODE:
            continue
        nodes = MULTI_NODE[entry["id"]][2]
        for size, micros in entry.get("curve", {}).items():
            rows.append((entry["id"], nodes, int(size), micros * 1e-6))
        for mib, (_, busbw) in entry.get("curve_mib", {}).items():
            size, ranks = int(mib) * 2**20, 8 * nodes
            rows.append((entry["id"], nodes, size, 2 * (ranks - 1) / ranks * size / (busbw * 1e9)))
    return rows


def errors(rows: list[tuple[str, int, int, float]], kappa: float) -> list[tuple[str, int, float]]:
    """Signed log errors of NetworkCost with ``collective.sqrt.between`` set to ``kappa``."""
    from simulator.cost.network import SQRT_BETWEEN

    out = []
    costs = {
        name: NetworkCost(
            load_node(node), Fabric("fat-tree", load_link(link)), None, {SQRT_BETWEEN.id: kappa / SQRT_BETWEEN.value}
        )
        for name, (node, link, _) in MULTI_NODE.items()
    }
    for name, nodes, size, seconds in rows:
        work = Work(OpKind.COLLECTIVE, "fp32", collective="all_reduce", message=float(size))
        predicted = costs[name].price(work, CommGroup(8 * nodes, 8, nodes)).seconds
        out.append((name, size, math.log(predicted / seconds)))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    rows = multi_node(parser.parse_args().shared)
    values = sorted(kappas().values())
    deciles = statistics.quantiles(values, n=10)
    print(
        f"collective.sqrt: median {statistics.median(values):.2f} of {len(values)} curves, "
        f"p10 {deciles[0]:.2f}, p90 {deciles[-1]:.2f}"
    )
    grid = [0.1 * i for i in range(51)]
    best = min(grid, key=lambda k: abs(statistics.median(e for *_, e in errors(rows, k))))
    print(f"collective.sqrt.between: {best:.1f}")
    for name, size, error in errors(rows, best):
        print(f"  {name:14s} {size:>12d} B  {math.expm1(error):+.0%}")
    print(f"  median |error| {statistics.median(abs(math.expm1(e)) for *_, e in errors(rows, best)):.0%}")


if __name__ == "__main__":
    main()
