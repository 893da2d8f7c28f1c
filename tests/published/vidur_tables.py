"""Vidur's operation times as an IterationCost, and the replay of one of its runs.

Formula, tables and runs: ``../shared/reference/vidur/README.md`` (microsoft/vidur, MIT licence).
"""

from __future__ import annotations

import csv
import gzip
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from simulator.serving.run import ServingRun
from simulator.serving.simulate import simulate_deployment
from simulator.strategies.batching.prefill_first import PrefillFirst
from simulator.strategies.protocols import BatchShape, Segment
from simulator.workload.requests.provenance import TraceProvenance
from simulator.workload.requests.table import RequestTable

LINEAR = {
    "add", "attn_post_proj", "attn_pre_proj", "attn_rope", "input_layernorm", "mlp_act", "mlp_down_proj", "mlp_up_proj",
    "post_attention_layernorm",
}  # fmt: skip


def _rows(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt") as file:
        return list(csv.DictReader(file))


class VidurCost:
    """Seconds of an iteration from the tables, by the README's formula."""

    def __init__(self, folder: Path, config: str) -> None:
        self.layers = (32 if "8b" in config or "7b" in config else 80) // (2 if config.endswith("pp2") else 1)
        self.penalty = 1.0 if "llama2" in config else 1.1
        self.all_reduce = "tp1" not in config
        self.stages = 2 if config.endswith("pp2") else 1
        self.linear: dict[int, float] = {}
        self.send: dict[int, float] = {}
        self.save: dict[int, float] = {}
        self.decode: dict[tuple[int, int], float] = {}
        self.prefill: dict[tuple[int, int], float] = {}
        for row in _rows(folder / "ops" / f"ops__{config}.csv.gz"):
            op, x1, ms = row["op"], int(float(row["x1"])), float(row["ms"])
            if op in LINEAR:
                self.linear[x1] = self.linear.get(x1, 0.0) + ms
            elif op == "all_reduce" and self.all_reduce:
                self.linear[x1] = self.linear.get(x1, 0.0) + 2 * (ms + 0.02)
            elif op == "send_recv":
                self.send[x1] = ms
            elif op == "attn_kv_cache_save":
                self.save[x1] = ms
            elif op == "attn_decode":
                self.decode[x1, int(float(row["x2"]))] = ms
            elif op == "attn_prefill":
                self.prefill[x1, int(float(row["x2"]))] = ms

    def _layer(self, batch: BatchShape) -> float:
        tokens = batch.tokens
        ms = self.linear[-(-tokens // 8) * 8] + self.save[tokens]
        if batch.prefill:
            context = sum(-(-c // 64) * 64 for _, c in batch.prefill)
            size = round(math.sqrt(sum(t * t for t, _ in batch.prefill)))
            ms += self._prefill(context, size) * (self.penalty if len(batch.prefill) > 1 else 1.0)
        if batch.decodes:
            mean = batch.decode_context // batch.decodes
            ms += self.decode[batch.decodes, min(-(-mean // 64) * 64, 4096)] * (
                self.penalty if batch.decodes > 1 else 1.0
            )
        return ms

    def _prefill(self, context: int, size: int) -> float:
        """Beyond the table (summed contexts above 4,096, which only prefix caching gives) a straight line goes on."""
        size = min(size, 512) if context else size
        if context <= 4096:
            return self.prefill[context, size]
        last, before = self.prefill[4096, size], self.prefill[3072, size]
        return last + max(0.0, last - before) * (context - 4096) / 1024

    def stage_times(self, batch: BatchShape) -> list[float]:
        compute = self.layers * self._layer(batch) / 1000
        send = self.send[-(-batch.tokens // 8) * 8] / 1000 if self.stages > 1 else 0.0
        return [compute + send] * (self.stages - 1) + [compute]

    def iteration(self, batch: BatchShape) -> float:
        return sum(self.stage_times(batch))

    def decode_segment(self, batch: BatchShape) -> Segment:
        mean = batch.decode_context // batch.decodes
        return Segment(self.iteration(batch), 0.0, -(-mean // 64) * 64 - mean + 1)


@cache
def cost_of(folder: Path, config: str) -> VidurCost:
    return VidurCost(folder, config)


@dataclass(frozen=True)
class Replay:
    """Differences of a replay to Vidur's own run, per request [s]."""

    name: str
    ttft: np.ndarray
    e2e: np.ndarray
    e2e_vidur: np.ndarray
    restarts: int
    run: ServingRun

    @property
    def worst(self) -> float:
        return float(max(np.abs(self.ttft).max(), np.abs(self.e2e).max()))


def summary(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "summary.csv").open() as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def replay(folder: Path, name: str) -> Replay:
    """Serve the requests of a Vidur run under the same limits and times."""
    facts = summary(folder)[name]
    requests = _rows(
        folder / ("requests__chat2000.csv.gz" if facts["workload"] == "chat" else "requests__arxiv1000.csv.gz")
    )
    qps = float(facts["qps"])
    table = RequestTable(
        np.array([round(float(r["unit_arrival"]) / qps, 6) for r in requests]),
        np.array([int(r["num_prefill_tokens"]) for r in requests]),
        np.array([int(r["num_decode_tokens"]) for r in requests]),
        name,
        TraceProvenance("vidur", "vidur", len(requests), len(requests)),
    )
    vllm = facts["sched"] == "vllm"
    cost = cost_of(folder, facts["cfg"])
    run = simulate_deployment(
        table,
        cost,
        kv_blocks=int(facts["kv_blocks"]),
        batching=PrefillFirst(count_padding=True) if vllm else "chunked-prefill",
        max_num_batched_tokens=4096 if vllm else 512,
        max_num_seqs=int(facts["batch_cap"]),
        pipeline_stages=cost.stages,
    )
    theirs = _rows(folder / "runs" / f"{name}.csv.gz")
    ttft = np.array([float(r["ttft_s"]) for r in theirs])
    e2e = np.array([float(r["e2e_s"]) for r in theirs])
    return Replay(name, run.ttft - ttft, run.e2e - e2e, e2e, int(facts["restarts"]), run)
