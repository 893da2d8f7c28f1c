"""Host times of serving engines, from measurements of vLLM's 2023-24 generations.

``host_per_step`` and ``host_per_sequence``: Theil-Sen line through scheduling + input preparation + sampling + output
processing (+ worker communication where tensor parallel) against the batch, from Vidur's CPU profiles on A100.
Engines that replay CUDA graphs: what their decode times have beyond the kernels, which DeviceCost prices. Those of
engines that launch every kernel are in ``eager_launches.py``.

    python benchmarks/fits/serving_host.py --shared ../shared
"""

from __future__ import annotations

import argparse
import csv
import gzip
import statistics
from itertools import combinations
from pathlib import Path

import yaml

from simulator.cost.device import DeviceCost
from simulator.cost.network import CommGroup, NetworkCost
from simulator.hardware.profiles import load_link, load_node
from simulator.hardware.types import Fabric
from simulator.workload.framework import Framework
from simulator.workload.ops import DTYPE_BYTES, OpKind, Work

HOST_PARTS = ("schedule_median", "sampler_e2e_median", "prepare_inputs_e2e_median", "process_model_outputs_median")
MODELS = {  # layers, hidden, heads, kv heads, head dim, feed-forward width, matrices of the feed-forward
    "llama2-70b": (80, 8192, 64, 8, 128, 28672, 3),
}
VOCABULARY = 128256


def read(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt") as file:
        return [{k.lower(): v for k, v in row.items()} for row in csv.DictReader(file)]


def line(points: list[tuple[float, float]]) -> tuple[float, float]:
    """Intercept and slope of the Theil-Sen line."""
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(points, 2) if a[0] != b[0]]
    slope = statistics.median(slopes)
    return statistics.median(y - slope * x for x, y in points), slope


def host_line(folder: Path, stamp: str) -> tuple[float, float]:
    """Seconds per step and per sequence of the engine that was profiled at ``stamp``."""
    points = []
    for row in read(folder / f"a100__cpu_overheads_{stamp}.csv.gz"):
        workers = float(row.get("ray_comm_time_mean") or row.get("ray_comm_time_median") or 0.0)
        milliseconds = sum(float(row[p]) for p in HOST_PARTS) + workers
        points.append((float(row["batch_size"]), milliseconds * 1e-3))
    return line(points)


def decode_layer(
    device: DeviceCost, network: NetworkCost, model: str, tp: int, batch: int, context: float, dtype: str = "fp16"
) -> float:
    """Kernel seconds of one decoder layer."""
    _, hidden, heads, kv_heads, head, wide, matrices = MODELS[model]
    queries, keys = heads // tp, max(1, kv_heads // tp)
    seconds = 0.0
    for n, k in (
        (head * (queries + 2 * keys), hidden),
        (hidden, head * queries),
        ((matrices - 1) * wide // tp, hidden),
        (hidden, wide // tp),
    ):
        size = 2.0 * (batch * k + batch * n) + DTYPE_BYTES[dtype] * n * k
        work = Work(OpKind.GEMM, dtype, 2.0 * batch * n * k, size, batch, n, k)
        seconds += device.price(work).seconds
    cache = 2.0 * 2 * batch * context * keys * head + 4.0 * batch * queries * head
    flops = 4.0 * batch * context * queries * head
    attention = Work(OpKind.ATTENTION, "fp16", flops, cache, batch=batch, q_len=1, kv_len=context, heads=queries,
                     kv_heads=keys, head_dim=head)  # fmt: skip
    seconds += device.price(attention).seconds
    seconds += 4 * device.price(Work(OpKind.ELEMENTWISE, "fp16", 0.0, 4.0 * batch * hidden)).seconds
    reduce = Work(OpKind.COLLECTIVE, "fp16", collective="all_reduce", message=2.0 * batch * hidden)
    return seconds + 2 * network.price(reduce, CommGroup(tp, tp, 1)).seconds


def graphs(name: str, rows: list[tuple[str, str, str, int, int, float, float]]) -> None:
    """Host time per step and sequence of engines that replay CUDA graphs.

    ``rows``: node, model, dtype of the GEMMs, tensor parallel, batch, context, seconds per token.
    """
    engine = Framework("graphs", "serving", cuda_graphs=True, small_all_reduce="custom", attention_kernel="flash-3")
    points = []
    for node_name, model, dtype, tp, batch, context, seconds in rows:
        node = load_node(node_name)
        costs = DeviceCost(node.accelerator, engine), NetworkCost(node, Fabric("fat-tree", load_link("ndr400")), engine)
        layers, hidden = MODELS[model][:2]
        head = Work(
            OpKind.GEMM,
            "bf16",
            2.0 * batch * hidden * VOCABULARY / tp,
            2.0 * hidden * VOCABULARY / tp,
            batch,
            VOCABULARY // tp,
            hidden,
        )
        kernels = layers * decode_layer(*costs, model, tp, batch, context, dtype) + costs[0].price(head).seconds
        points.append((float(batch), seconds - kernels, kernels, seconds))
    start, slope = line([(b, rest) for b, rest, *_ in points])
    start, slope = max(0.0, start), max(0.0, slope)
    fitted = [abs((k + start + slope * b) / s - 1) for b, _, k, s in points]
    bare = [abs(k / s - 1) for *_, k, s in points]
    print(
        f"{name}: host_per_step {start * 1e3:.1f} ms, host_per_sequence {slope * 1e6:.0f} us; median |error| "
        f"{statistics.median(fitted):.0%}, without host {statistics.median(bare):.0%} ({len(points)} points)"
    )


def inference_x(path: Path) -> None:
    nodes = {"h100_sxm": "dgx-h100", "h200_sxm": "hgx-h200", "b200_sxm": "dgx-b200"}
    for backend in ("vllm", "trtllm"):
        rows = []
        for r in read(path):
            decode = r["backend"] == backend and r["mode"] == "agg" and float(r["osl"]) >= float(r["isl"])
            if decode and "Llama-3.1-70B" in r["model_path"] and float(r["conc"]) <= 64:
                context = float(r["isl"]) + float(r["osl"]) / 2
                tp, batch, seconds = int(float(r["tp_size"])), int(float(r["conc"])), float(r["tpot_ms"]) * 1e-3
                rows.append((nodes[r["system"]], "llama2-70b", r["precision"], tp, batch, context, seconds))
        graphs(f"{backend} 2026", rows)


def amd_vllm(path: Path) -> None:
    published = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
    tables = [rows for rows in published.values() if isinstance(rows, list)]
    found = []
    for r in (r for rows in tables for r in rows if isinstance(r, dict)):
        if r.get("source") == "amd_vllm" and r["workload"]["kind"] == "static_batch" and "70b" in r["model"]:
            w = r["workload"]
            dtype = "fp8" if "fp8" in r["dtype"] else "bf16"
            batch = int(w["batch"])
            seconds = r["metrics"]["e2e_ms"] * 1e-3
            found.append(
                ("mi300x-8x", "llama2-70b", dtype, int(r["tp"]), batch, w["isl"] + w["osl"] / 2, seconds / w["osl"])
            )
    graphs("vLLM 0.10 on MI300X", [f for f in found if f[4] <= 64])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    reference = parser.parse_args().shared / "reference"
    profiles = reference / "vidur/profiling"
    for stamp in ("2023-11", "2024-01", "2024-05"):
        step, per_sequence = host_line(profiles, stamp)
        print(f"{stamp}: host_per_step {step * 1e3:.1f} ms, host_per_sequence {per_sequence * 1e6:.0f} us")
    inference_x(reference / "serving_peers/inferencex_runs.csv.gz")
    amd_vllm(reference / "published_serving.yaml")


if __name__ == "__main__":
    main()
