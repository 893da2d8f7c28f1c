"""Published figures that their own source contradicts: they are compared, but as grade C.

``published_doubts.csv``: an entry, a figure of it, and what speaks against it. Prompts of llama.cpp
(XiongjieDai/GPU-Benchmarks-on-LLM-Inference, README and notebooks of May 2024) go through in chunks of 512 tokens, so
that longer ones run at a lower rate: attention grows and nothing is saved. Seven runs of 54 become faster with every
test, by up to 2.6 times, and some vary by up to 14 % where others do by 0.1 to 1 %, while generation is as fast as
elsewhere. Input embeddings stay in host memory, in a mapped file on the machine's volume, and the benchmark draws
tokens at random: rows that come from a disk one by one explain it (1.5 ms each on the A100). That cause is inferred.
"""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

__all__ = ["doubts_of", "page_doubt"]

RUNNER = (
    "the page ran GPUStack's benchmark-runner (guidellm) at 1,000 or 1 requests per second, not a closed loop, and its "
    "times are of another kind: tokens of a request over its whole latency, or those of a client that reads them late"
)

PAGES = {("gpustack", "qwen3.5-9b"): RUNNER, ("gpustack", "qwen3.5-35b-a3b"): RUNNER, ("gpustack", "glm-5.2"): RUNNER}
"""Source and model of pages whose runs are not what their entries say (gpustack/gpustack docs/performance-lab,
qwen3.5-9b/h100.md @6ceec5b, qwen3.5-35b-a3b/h200.md @3d853b4, glm-5.2/h200.md @8e96bd2). GLM-5.2: 651.51 s of latency
for 1,024 tokens are its TPOT of 636.24 ms, and the entries give vLLM's and every layout's run the launch of the best
one. Qwen3.5-9B: a latency of 24.11 s beside a TTFT of 1.6 s, 281 tokens of 15 ms and a peak of 20 million tokens/s."""


@cache
def _known() -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    with Path(__file__).with_suffix(".csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["id"], {})[row["figure"]] = row["source"]
    return found


def doubts_of(entry: str) -> dict[str, str]:
    """Figures of an entry that count as grade C, and why."""
    return _known().get(entry, {})


def page_doubt(source: str, model: str) -> str:
    """Why every entry of a page counts as grade C, or ``""``."""
    return PAGES.get((source, model), "")
