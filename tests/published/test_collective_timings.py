"""Collectives against measurements from other sources than the curves and fits in the profiles."""

from __future__ import annotations

import csv
import statistics
from pathlib import Path

import pytest

from simulator.cost.measured import BORROWED_SIGMA, lenders
from simulator.cost.network import CommGroup, NetworkCost
from simulator.hardware.profiles import load_link, load_node
from simulator.hardware.types import Fabric
from simulator.workload.ops import OpKind, Work

FABRIC = Fabric("fat-tree", load_link("ndr400"))


def message(operation: str, size: float) -> Work:
    return Work(OpKind.COLLECTIVE, "fp16", collective=operation, message=size)


def report(name: str, pairs: list[tuple[float, float]]) -> float:
    """Prints and returns the median error of (predicted, measured)."""
    errors = sorted(abs(p / m - 1) for p, m in pairs)
    bias = statistics.median(p / m - 1 for p, m in pairs)
    median = statistics.median(errors)
    print(
        f"\n{name:44s} {len(pairs):5d} points  median {median:6.1%}  "
        f"p90 {errors[int(0.9 * len(errors))]:6.1%}  bias {bias:+6.1%}"
    )
    return median


def vtrain(path: Path, gpu: str) -> list[tuple[int, float, float]]:
    with path.open() as file:
        rows = [r for r in csv.DictReader(file) if r["gpu"] == gpu]
    return [(int(r["n_gpus"]), float(r["bytes"]), float(r["out_of_place_us"]) * 1e-6) for r in rows]


def test_all_reduce_of_vtrain_on_a100(shared: Path) -> None:
    """nccl-tests from 1 MiB to 1 GiB on 2, 3 ... 8 GPUs: odd rank counts are between the measured ones."""
    rows = vtrain(shared / "reference/training_peers/vtrain/nccl_allreduce_one_node.csv", "a100")
    network = NetworkCost(load_node("dgx-a100-640"), FABRIC)
    for ranks in sorted({n for n, _, _ in rows}):
        pairs = [
            (network.price(message("all_reduce", s), CommGroup(n, n, 1)).seconds, t) for n, s, t in rows if n == ranks
        ]
        assert report(f"vTrain A100 all-reduce, {ranks} GPUs", pairs) < 0.15


def test_all_reduce_of_vtrain_on_the_cube_mesh_of_dgx1(shared: Path) -> None:
    """Nothing but the links: rings of 2 to 8 GPUs use one to six of a V100's six, at 16 of 18 flits each."""
    rows = vtrain(shared / "reference/training_peers/vtrain/nccl_allreduce_one_node.csv", "v100")
    network = NetworkCost(load_node("dgx-1-v100"), FABRIC)
    pairs = [(network.price(message("all_reduce", s), CommGroup(n, n, 1)).seconds, t) for n, s, t in rows]
    assert report("vTrain V100 all-reduce, 2 to 8 GPUs", pairs) < 0.10


@pytest.mark.parametrize(
    ("operation", "file"),
    [
        ("all_reduce", "all_reduce"),
        ("all_gather", "all_gather"),
        ("reduce_scatter", "reduce_scatter"),
        ("all_to_all", "alltoall"),
    ],
)
@pytest.mark.parametrize(("node", "folder"), [("dgx-h100", "H100-SXM-80GB"), ("hgx-h200", "H200-SXM-141GB")])
def test_collectives_of_apex(shared: Path, node: str, folder: str, operation: str, file: str) -> None:
    network = NetworkCost(load_node(node), FABRIC)
    pairs = []
    with (shared / f"reference/serving_peers/apex_comm/{folder}/{file}.csv").open() as handle:
        for r in csv.DictReader(handle):
            ranks, size = int(r["num_gpus_per_node"]), float(r["size(kb)"]) * 1024
            if size > 0 and int(r["num_nodes"]) == 1:
                pairs.append(
                    (
                        network.price(message(operation, size), CommGroup(ranks, ranks, 1)).seconds,
                        float(r["time(us)"]) * 1e-6,
                    )
                )
    assert report(f"apex_plus {folder} {operation}", pairs) < APEX_BOUND[operation]


APEX_BOUND = {"all_reduce": 0.15, "all_gather": 0.15, "reduce_scatter": 0.15, "all_to_all": 0.15}


def test_a_fit_reproduces_its_own_curve() -> None:
    """The alpha-sqrt-beta fits of every shipped curve: median error over all points."""
    pairs = []
    for lender in lenders():
        for operation, family in lender.profile.curves.items():
            for ranks, curve in family.items():
                keys = [f"{operation}.{ranks}.{leaf}" for leaf in ("latency", "sqrt", "per_byte")]
                if any(k not in lender.profile.constants for k in keys):
                    continue
                a, g, b = (lender.profile.constants[k].value for k in keys)
                share = (2 if operation == "all_reduce" else 1) * (ranks - 1) / ranks
                pairs += [(a + g * (share * s) ** 0.5 + b * share * s, t) for s, t in zip(*curve, strict=True)]
    assert report("alpha-sqrt-beta fits on their curves", pairs) < 0.15


def test_a_left_out_device_is_borrowed_within_its_sigma() -> None:
    """H200's collectives priced from its relatives: the median error is below the sigma that borrowing adds."""
    node = load_node("hgx-h200")
    mine = next(r for r in lenders() if r.accelerator.name == node.accelerator.name)
    others = [r for r in lenders() if r is not mine]
    borrowed = NetworkCost(node, FABRIC, known=lambda: others)
    pairs = []
    for operation in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all"):
        for ranks, curve in mine.profile.curves[operation].items():
            for size, seconds in zip(*curve, strict=True):
                price = borrowed.price(message(operation, size), CommGroup(ranks, ranks, 1))
                assert price.trust == "borrowed"
                pairs.append((price.seconds, seconds))
    assert report("H200 from its relatives", pairs) < BORROWED_SIGMA


def test_multi_node_all_reduce_reaches_published_bandwidth() -> None:
    """16 p5en nodes: 369.9 GB/s bus bandwidth at 16 GiB (aws-samples/awsome-distributed-training @7217859)."""
    network = NetworkCost(load_node("aws-p5en"), Fabric("fat-tree", load_link("efa-v3")))
    size, ranks = 16 * 2.0**30, 128
    seconds = network.price(message("all_reduce", size), CommGroup(ranks, 8, 16)).seconds
    assert 2 * (ranks - 1) / ranks * size / seconds == pytest.approx(369.9e9, rel=0.15)
