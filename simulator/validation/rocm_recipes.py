"""How AMD launched the throughput runs of its vLLM page: the table of results names requests and sequences.

Read in ROCm/vllm @040de12 ``docs/dev-docker/README.md`` (vLLM 0.10.0): ``benchmark_throughput.py`` without a server,
with an fp8 cache, a budget of 131,072 tokens, 8,192 tokens of context, and as many sequences as requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simulator.validation.inferencex_recipes import PLAIN, Recipe

__all__ = ["rocm_launch"]

REQUESTS = {
    ("llama3.1-70b", 128, 2048): 3200, ("llama3.1-70b", 128, 4096): 1500, ("llama3.1-70b", 500, 2000): 2000,
    ("llama3.1-70b", 2048, 2048): 1500, ("llama3.1-405b", 128, 2048): 1500, ("llama3.1-405b", 128, 4096): 1500,
    ("llama3.1-405b", 500, 2000): 2000, ("llama3.1-405b", 2048, 2048): 500,
}  # fmt: skip
"""Model, prompt, answer → ``Num Prompts`` and ``Max Num Seqs`` of the table."""


def rocm_launch(entry: Mapping[str, Any]) -> tuple[Recipe, int]:
    """Options of an entry's run and its number of requests; plain and 0 for entries of other pages."""
    workload = entry["workload"]
    key = (str(entry["model"]), workload.get("isl"), workload.get("osl"))
    if entry["source"] != "amd_vllm" or workload.get("kind") != "offline_max_load" or key not in REQUESTS:
        return PLAIN, 0
    count = REQUESTS[key]
    fields = {"kv_dtype": "fp8", "max_num_batched_tokens": 131072, "max_num_seqs": count, "max_model_len": 8192}
    return Recipe(fields), count
