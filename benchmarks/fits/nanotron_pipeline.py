"""Fits the host time per tensor-parallel rank that nanotron's pipelines have beyond ``host_per_layer``.

At micro-batch 1 a pipelined layer takes the same time whatever the model's size and the number of stages, but more the
more tensor-parallel ranks there are: host bound. Steps of the sweep on H100 after its pipeline fix, time of one
layer and slot = step / (micro-batches + stages − 1) / layers per stage; the lower quartile at each tensor-parallel
size leaves out runs that the network slowed. A layer's forward, recomputation-free backward included, is three
forwards.

    python benchmarks/fits/nanotron_pipeline.py --shared ../shared
"""

from __future__ import annotations

import argparse
import csv
import statistics
from pathlib import Path

from simulator.workload.framework_files import load_framework

PASSES = 3.0


def layer_times(path: Path) -> dict[int, list[float]]:
    """Seconds of one layer and slot by tensor-parallel size, for pipelines with micro-batch 1."""
    found: dict[int, list[float]] = {}
    with path.open() as file:
        for r in csv.DictReader(file):
            if r["status"] != "Success" or r["after_pp_fix"] != "True" or r["pp"] == "1" or r["micro_batch"] != "1":
                continue
            steps, stages, replicas = float(r["grad_accum"]), float(r["pp"]), float(r["dp"])
            step = replicas * steps * 4096 / (float(r["tokens_per_s_per_gpu"]) * float(r["gpus"]))
            found.setdefault(int(r["tp"]), []).append(step / (steps + stages - 1) / (float(r["layers"]) / stages))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    path = parser.parse_args().shared / "reference/training_peers/nanotron/h100_sweep_dev.csv"
    start = load_framework("nanotron").constants["host_per_layer"].value
    slopes = []
    for ranks, seconds in sorted(layer_times(path).items()):
        if ranks == 1 or len(seconds) < 4:
            continue
        quartile = statistics.quantiles(seconds, n=4)[0]
        slopes.append((quartile / PASSES - start) / ranks)
        print(f"tensor parallel {ranks:2d}: {len(seconds):3d} runs, layer {quartile * 1e3:5.1f} ms, "
              f"beyond host_per_layer {slopes[-1] * 1e3:.2f} ms per rank")  # fmt: skip
    print(f"host_per_tensor_rank {statistics.median(slopes) * 1e3:.2f} ms (one source)")


if __name__ == "__main__":
    main()
