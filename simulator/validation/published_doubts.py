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

__all__ = ["doubts_of"]


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
