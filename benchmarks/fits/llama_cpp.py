"""Kernels of llama.cpp: how fast its own are, and its host.

From tokens/s of Llama-3.1 8B and 70B in fp16 and Q4_K_M on one to eight GPUs of seven kinds (one sequence, prompts of
1,024 tokens): XiongjieDai/GPU-Benchmarks-on-LLM-Inference.

1. Decoding on one GPU: ``host_per_step``, and ``vector_bytes``, the bytes that a multiprocessor reads per clock;
2. on several, without CUDA graphs: ``launch_exposed``;
3. prompts: ``cache_bytes`` and ``unpack_bytes``, of a multiprocessor and clock where activations are in the cache and
   where 4-bit weights are written out. Figures of grade C are left out.

Each minimises the median absolute error on a grid; then every kind of GPU is scored with constants fitted without it.
Prompts are also scored with ``cache_bytes`` from one format alone in the other, and with a share of the compute
efficiency of the devices' curves (``gemm_share_fp16``) on top: nothing of the kind is fitted.

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

HOST = (0.0, 2.5e-4, 5e-4, 7.5e-4, 1e-3, 1.5e-3)
BYTES = (5.5, 6.0, 6.5, 7.0, 7.5)
EXPOSED = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3)
CACHE = (6.0, 8.0, 10.0, 12.0, 14.0, 16.0, 20.0)
UNPACK = (3.5, 4.0, 4.25, 4.5, 4.75, 5.0, 5.5)
SHARE = (0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1)

PROMPTS, DECODES = "prefill_tokens_per_s", "decode_tokens_per_s"

Row = tuple[str, float]
"""Kind of GPU, relative error."""
Values = dict[str, float]


def errors(cases: Sequence[Case], quantity: str, values: Values) -> list[Row]:
    """Errors of one figure of the runs under other constants."""
    found = []
    for case in cases:
        published = next((m.value for m in case.measured if m.quantity == quantity and m.grade != "C"), 0.0)
        if not published:
            continue
        prediction, reason = run_static(under(case, values))
        assert not reason, reason
        found.append((case.labels.gpu, prediction[quantity] / published - 1))
    return found


def spread(found: Sequence[Row]) -> float:
    """Median absolute error."""
    return statistics.median(abs(e) for _, e in found)


def fit(name: str, cases: Sequence[Case], quantity: str, grid: Sequence[Values], fixed: Values) -> Values:
    """The best of the grid; each kind of GPU is printed under the best of the others."""
    known = [errors(cases, quantity, fixed | values) for values in grid]
    best = min(range(len(grid)), key=lambda i: spread(known[i]))
    held = list[Row]()
    for gpu in sorted({c.labels.gpu for c in cases}):
        other = min(range(len(grid)), key=lambda i: spread([e for e in known[i] if e[0] != gpu]))
        mine = [e for e in known[other] if e[0] == gpu]
        held += mine
        print(f"    without {gpu}: {grid[other]}, its error {statistics.median(e for _, e in mine):+.0%}")
    print(f"{name}: {grid[best]}; median |error| {spread(known[best]):.1%}, held out {spread(held):.1%}")
    return grid[best]


def across_formats(cases: Sequence[Case], fixed: Values) -> None:
    """Constants of prompts from one format, scored in the other."""
    for mine, other in (("fp16", "q4-k"), ("q4-k", "fp16")):
        of = {p: [c for c in cases if c.labels.precision == p] for p in (mine, other)}
        grid = [{**fixed, "cache_bytes": c} for c in CACHE]
        best = min(grid, key=lambda values: spread(errors(of[mine], PROMPTS, values)))
        there = spread(errors(of[other], PROMPTS, best))
        print(f"    cache_bytes {best['cache_bytes']} from {mine}: {there:.1%} in {other}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    path = parser.parse_args().shared / "reference/published_serving.yaml"
    cases = [c for c in read_file(path).cases if c.labels.source == "llamacpp" and c.split == "dev"]
    alone = [c for c in cases if "pp" not in c.labels.degree]
    several = [c for c in cases if "pp" in c.labels.degree]
    grid = [{"host_per_step": h, "vector_bytes": b} for h, b in product(HOST, BYTES)]
    found = fit("decoding on one GPU", alone, DECODES, grid, {})
    found |= fit("decoding on several", several, DECODES, [{"launch_exposed": e} for e in EXPOSED], found)
    grid = [{"cache_bytes": c, "unpack_bytes": u} for c, u in product(CACHE, UNPACK)]
    found |= fit("prompts", cases, PROMPTS, grid, found)
    across_formats(cases, found)
    fit("prompts with a share on top", cases, PROMPTS, [{"gemm_share_fp16": s} for s in SHARE], found)


if __name__ == "__main__":
    main()
