"""Kernels of llama.cpp: how fast its own matrix multiplications are, and its host.

From tokens/s of Llama-3.1 8B and 70B in fp16 and Q4_K_M on one to eight GPUs of seven kinds (one sequence, prompts of
1,024 tokens): XiongjieDai/GPU-Benchmarks-on-LLM-Inference.

1. Decoding: ``host_per_step``, and ``vector_bytes``, the bytes that a multiprocessor reads per clock;
2. prompts in both formats: ``gemm_share_fp16``, the share of the usual compute efficiency; the version of that May
   multiplies prompts in fp16 whatever the weights are stored in.

Each minimises the median absolute error on a grid; then every kind of GPU is scored with constants fitted without it.

    python benchmarks/fits/llama_cpp.py --shared ../shared
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from simulator.validation.cases import Case
from simulator.validation.read import read_file
from simulator.validation.serving_runs import run_static
from simulator.validation.trials import under

HOST = (1e-3, 1.5e-3, 2e-3, 2.5e-3, 3e-3)
BYTES = (5.5, 6.0, 6.5, 7.0, 7.5)
SHARE = (0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 1.0)

Row = tuple[str, float]
"""Kind of GPU, relative error."""


def errors(cases: Sequence[Case], quantity: str, **values: float) -> list[Row]:
    """Errors of one figure of the runs under other constants."""
    found = []
    for case in cases:
        prediction, reason = run_static(under(case, values))
        published = next(m.value for m in case.measured if m.quantity == quantity)
        assert not reason, reason
        found.append((case.labels.gpu, prediction[quantity] / published - 1))
    return found


def spread(found: Sequence[Row]) -> float:
    """Median absolute error."""
    return statistics.median(abs(e) for _, e in found)


def fit(name: str, cases: Sequence[Case], quantity: str, grid: Sequence[dict[str, float]]) -> None:
    """The best of the grid, and each kind of GPU under the best of the others."""
    known = [errors(cases, quantity, **values) for values in grid]
    best = min(range(len(grid)), key=lambda i: spread(known[i]))
    held = list[Row]()
    for gpu in sorted({c.labels.gpu for c in cases}):
        other = min(range(len(grid)), key=lambda i: spread([e for e in known[i] if e[0] != gpu]))
        mine = [e for e in known[other] if e[0] == gpu]
        held += mine
        print(f"    without {gpu}: {grid[other]}, its error {statistics.median(e for _, e in mine):+.0%}")
    print(f"{name}: {grid[best]}; median |error| {spread(known[best]):.0%}, held out {spread(held):.0%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    path = parser.parse_args().shared / "reference/published_serving.yaml"
    cases = [c for c in read_file(path).cases if c.labels.source == "llamacpp" and c.split == "dev"]
    decode = [{"host_per_step": h, "vector_bytes": b} for h, b in product(HOST, BYTES)]
    fit("decoding", cases, "decode_tokens_per_s", decode)
    fit("prompts", cases, "prefill_tokens_per_s", [{"gemm_share_fp16": s} for s in SHARE])
    for precision in ("fp16", "q4-k"):
        runs = [c for c in cases if c.labels.precision == precision]
        fit(f"prompts in {precision} alone", runs, "prefill_tokens_per_s", [{"gemm_share_fp16": s} for s in SHARE])


if __name__ == "__main__":
    main()
