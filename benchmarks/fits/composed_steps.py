"""Shows that vTrain's steps on one node were composed, not timed: nothing is fitted, and no constant rests on them.

``data/ground_truth_single.csv`` of VIA-Research/vTrain @f8dda84 is described as collected with Megatron-DeepSpeed. Two
checks of its development rows say otherwise, without any model of ours:

* Rows of one hidden size, micro-batch and layout are affine in layers and micro-batches (4 numbers for up to 12 rows)
  to less than a millionth in the median. Steps of a machine repeat to about a percent.
* Rows that differ in the data-parallel degree alone differ by the in-place times of the repository's own table of
  all-reduces at the size of the model's 16-bit parameters, to all printed digits; the size is that of a vocabulary of
  50,257 cut by the tensor-parallel degree without padding, as in ``src/predictor.py``.

Its predictor adds such times of profiled layers (``src/predictor.py``, ``src/trainer.py``), with gaps between kernels
as its tracer saw them, recomputes on all stages but the last, and has two all-reduces per layer and direction. The rows
are therefore read as grade C. Rows on several nodes have one number of layers per model and cannot be tested so.

    python benchmarks/fits/composed_steps.py --shared ../shared
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections import defaultdict
from itertools import combinations
from pathlib import Path

import numpy as np

VOCABULARY, POSITIONS = 50257, 1024
"""Defaults of src/config.py and the sequence length of the rows."""

Row = dict[str, float]


def rows(path: Path) -> list[Row]:
    with path.open() as file:
        found: list[Row] = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    for row in found:
        row["rounds"] = row["global_batch"] / (row["dp"] * row["micro_batch"])
    return found


def all_reduces(path: Path) -> dict[tuple[int, int], float]:
    """In-place times on A100 [us] by ranks and MiB."""
    with path.open() as file:
        found = [r for r in csv.DictReader(file) if r["gpu"] == "a100"]
    return {(int(r["n_gpus"]), round(int(r["bytes"]) / 2**20)): float(r["in_place_us"]) for r in found}


def affine(steps: list[Row]) -> list[float]:
    """Relative residuals of groups of at least six rows under four coefficients."""
    groups: dict[tuple[float, ...], list[Row]] = defaultdict(list)
    for row in steps:
        groups[tuple(row[k] for k in ("hidden", "seq_len", "tp", "dp", "pp", "micro_batch"))].append(row)
    found: list[float] = []
    for group in (g for g in groups.values() if len(g) >= 6):
        times = np.array([r["step_ms"] for r in group])
        terms = np.array([[r["rounds"] * r["layers"], r["rounds"], r["layers"], 1.0] for r in group])
        weighted = terms / times[:, None]
        solution = np.linalg.lstsq(weighted, np.ones(len(group)), rcond=None)[0]
        found += list(np.abs(weighted @ solution - 1))
    return found


def parameter_bytes(row: Row) -> float:
    """16-bit parameters of a rank, as the repository's predictor counts them."""
    h, tp = row["hidden"], row["tp"]
    layer = 3 * h * (h // tp) + 3 * h // tp + h * (h // tp) + 8 * h * (h // tp) + 4 * h // tp + 6 * h
    return 2 * (row["layers"] * layer + 2 * (VOCABULARY // tp) * h + POSITIONS * h)


def differences(steps: list[Row], table: dict[tuple[int, int], float]) -> list[float]:
    """Pairs that differ in the data-parallel degree alone: measured less tabulated difference [us]."""
    groups: dict[tuple[float, ...], dict[int, Row]] = defaultdict(dict)
    for row in steps:
        if row["pp"] == 1:
            groups[tuple(row[k] for k in ("hidden", "tp", "layers", "micro_batch", "rounds"))][int(row["dp"])] = row
    found = []
    for group in groups.values():
        for a, b in combinations(sorted(group), 2):
            size = round(parameter_bytes(group[a]) / 2**20)
            if (b, size) in table and (a == 1 or (a, size) in table):
                tabulated = table[b, size] - (table[a, size] if a > 1 else 0.0)
                found.append((group[b]["step_ms"] - group[a]["step_ms"]) * 1e3 - tabulated)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    folder = parser.parse_args().shared / "reference/training_peers/vtrain"
    table = all_reduces(folder / "nccl_allreduce_one_node.csv")
    for name in ("single", "multi"):
        steps = rows(folder / f"step_times_{name}_node_dev.csv")
        residuals = affine(steps)
        if residuals:
            print(f"{name} node: {len(residuals)} rows, relative residual of four coefficients: "
                  f"median {statistics.median(residuals):.1e}, largest {max(residuals):.1e}")  # fmt: skip
        pairs = differences(steps, table)
        if pairs:
            print(f"{name} node: {len(pairs)} pairs, largest distance to the table {max(map(abs, pairs)):.2f} us")


if __name__ == "__main__":
    main()
