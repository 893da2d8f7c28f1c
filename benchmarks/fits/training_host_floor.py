"""Fits Megatron-DeepSpeed's host time per layer and per step on vTrain's measured single-node A100 steps.

GPU time comes from DeviceCost and NetworkCost for a plain GPT layer (unfused attention, full recomputation, 1F1B, as
vTrain's README says); the host floor is then the only unknown: a layer's forward takes at least ``host_per_layer``,
recomputation the same and backward twice that. Two numbers are fitted to 732 rows.

nanotron's sweep on H100 needs no model: at tensor parallel 8 and micro-batch 1 the fastest time per layer and
micro-batch is the same for 1.3, 3.6 and 8.9 B parameters, so it is the host's; forward and backward are three forwards.

    python benchmarks/fits/training_host_floor.py --shared ../shared
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
from functools import cache
from pathlib import Path

from simulator.cost.device import DeviceCost
from simulator.cost.network import CommGroup, NetworkCost
from simulator.hardware.profiles import load_link, load_node
from simulator.hardware.types import Fabric
from simulator.workload.ops import OpKind, Work

VOCABULARY = 51200
NODE = load_node("dgx-a100-640")
DEVICE = DeviceCost(NODE.accelerator)
NETWORK = NetworkCost(NODE, Fabric("fat-tree", load_link("hdr200")))

Row = dict[str, float]


def gemm(m: int, n: int, k: int) -> float:
    return DEVICE.price(Work(OpKind.GEMM, "fp16", 2.0 * m * n * k, 2.0 * (m * n + n * k + m * k), m, n, k)).seconds


def elementwise(elements: float, passes: float) -> float:
    return DEVICE.price(Work(OpKind.ELEMENTWISE, "fp16", 0.0, 2.0 * elements * passes)).seconds


def all_reduce(size: float, ranks: int) -> float:
    work = Work(OpKind.COLLECTIVE, "fp16", collective="all_reduce", message=size)
    return NETWORK.price(work, CommGroup(ranks, ranks, 1)).seconds


@cache
def forward(tokens: int, hidden: int, heads: int, seq: int, tp: int) -> float:
    """GPU seconds of one layer's forward on one rank."""
    local, head = hidden // tp, hidden // heads
    pairs = tokens // seq * heads // tp
    seconds = gemm(tokens, 3 * local, hidden) + gemm(tokens, hidden, local)
    seconds += gemm(tokens, 4 * local, hidden) + gemm(tokens, hidden, 4 * local)
    bmm = Work(OpKind.GEMM, "fp16", 2.0 * pairs * seq * seq * head, 2.0 * pairs * (2 * seq * head + seq * seq))
    scores = float(pairs) * seq * seq
    seconds += 2 * DEVICE.price(bmm).seconds + elementwise(scores, 2) + elementwise(scores, 2.5)
    seconds += 2 * elementwise(tokens * hidden, 2) + 2 * elementwise(tokens * hidden, 3.5)
    seconds += elementwise(tokens * 4 * local, 2)
    return seconds


@cache
def layer(tokens: int, hidden: int, heads: int, seq: int, tp: int) -> tuple[float, float]:
    """Seconds of forward + recomputation + backward of one layer: (on the device, its share of communication)."""
    compute = 4 * forward(tokens, hidden, heads, seq, tp)
    return compute, 6 * all_reduce(2.0 * tokens * hidden, tp) if tp > 1 else 0.0


def predict(row: Row, host_layer: float, host_step: float) -> float:
    """Step time [s]."""
    tokens, seq, hidden = int(row["micro_batch"] * row["seq_len"]), int(row["seq_len"]), int(row["hidden"])
    tp, dp, pp = int(row["tp"]), int(row["dp"]), int(row["pp"])
    micro = row["global_batch"] / row["dp"] / row["micro_batch"]
    compute, communication = layer(tokens, hidden, int(row["heads"]), seq, tp)
    per_layer = max(compute + communication, 4 * host_layer)
    head = 3 * gemm(tokens, VOCABULARY // tp, hidden) + 3 * elementwise(tokens * VOCABULARY / tp, 4)
    stage = row["layers"] / pp * per_layer
    parameters = (12 * hidden * hidden * row["layers"] / pp + VOCABULARY * hidden) / tp
    steps = (micro - 1) * (stage + head) + pp * stage + head
    reduction = all_reduce(2 * parameters, dp) if dp > 1 else 0.0
    optimizer = DEVICE.price(Work(OpKind.ELEMENTWISE, "fp32", 0.0, 30 * parameters)).seconds
    return steps + reduction + optimizer + host_step


def log_errors(rows: list[Row], host_layer: float, host_step: float) -> list[float]:
    return [math.log(predict(r, host_layer, host_step) / (r["step_ms"] * 1e-3)) for r in rows]


def report(name: str, errors: list[float]) -> None:
    size = sorted(abs(math.expm1(e)) for e in errors)
    print(f"  {name:28s} median |error| {statistics.median(size):.1%}  p90 {size[int(0.9 * len(size))]:.1%}  "
          f"median bias {math.expm1(statistics.median(errors)):+.1%}")  # fmt: skip


def nanotron(path: Path) -> None:
    fastest: dict[float, float] = {}
    with path.open() as file:
        for r in csv.DictReader(file):
            if r["status"] != "Success" or r["tp"] != "8" or r["micro_batch"] != "1":
                continue
            accumulation, stages, replicas = float(r["grad_accum"]), float(r["pp"]), float(r["dp"])
            step = replicas * accumulation * 4096 / (float(r["tokens_per_s_per_gpu"]) * float(r["gpus"]))
            layer_time = step / (accumulation + stages - 1) / (float(r["layers"]) / stages)
            size = float(r["params_b"])
            fastest[size] = min(layer_time, fastest.get(size, math.inf))
    for size, seconds in sorted(fastest.items()):
        print(f"nanotron {size:.2f} B, tensor parallel 8: fastest layer {seconds * 1e3:.2f} ms, "
              f"host_per_layer {seconds / 3e-3:.2f} ms")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    folder = parser.parse_args().shared / "reference/training_peers/vtrain"
    with (folder / "step_times_single_node_dev.csv").open() as file:
        rows = [{k: float(v) for k, v in r.items()} for r in csv.DictReader(file)]
    grid = [(a * 1e-5, b * 1e-3) for a in range(0, 121, 5) for b in range(0, 61, 5)]
    best = min(grid, key=lambda p: statistics.mean(abs(e) for e in log_errors(rows, *p)))
    print(f"host_per_layer {best[0] * 1e3:.2f} ms, host_per_step {best[1] * 1e3:.0f} ms from {len(rows)} rows")
    report("fitted", log_errors(rows, *best))
    report("without host time", log_errors(rows, 0.0, 0.0))
    for size in (1, 2, 4, 8):
        report(f"fitted, micro-batch {size}", log_errors([r for r in rows if r["micro_batch"] == size], *best))
    for tp in (1, 2, 4, 8):
        report(f"fitted, tensor parallel {tp}", log_errors([r for r in rows if r["tp"] == tp], *best))
    nanotron(folder.parent / "nanotron/h100_sweep_dev.csv")


if __name__ == "__main__":
    main()
