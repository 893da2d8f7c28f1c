"""Replays of Vidur's reference runs under Vidur's own operation times: scheduler and metrics, not cost.

The iteration formula and the tables are those of the folder's README (microsoft/vidur, MIT licence).
"""

from __future__ import annotations

import csv
import gzip
import math
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simulator.serving.run import ServingRun
from simulator.serving.simulate import simulate_deployment
from simulator.strategies.batching.prefill_first import PrefillFirst
from simulator.strategies.protocols import BatchShape, Segment
from simulator.validation.cases import Subject
from simulator.validation.vidur_ties import AGREE, settle
from simulator.workload.requests.provenance import TraceProvenance
from simulator.workload.requests.table import RequestTable

__all__ = ["TIES", "TableCost", "run_vidur"]

TIES = "ties"
"""Start of the note of a run whose difference is named."""

LINEAR = frozenset({
    "add", "attn_post_proj", "attn_pre_proj", "attn_rope", "input_layernorm", "mlp_act", "mlp_down_proj", "mlp_up_proj",
    "post_attention_layernorm",
})  # fmt: skip


def _rows(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return list(csv.DictReader(file))


class TableCost:
    """Seconds of an iteration from operation times by tokens, contexts and batch.

    Parameters
    ----------
    path
        An ``ops__<config>.csv.gz``; the layers per stage, stages and grouped queries follow from the
        configuration's name.
    config
        ``<gpu>_<model>_tp<n>[pp<n>]``.
    """

    def __init__(self, path: Path, config: str) -> None:
        self.stages = int(config.rpartition("pp")[2]) if "pp" in config.rpartition("_")[2] else 1
        self.layers = (32 if "8b" in config or "7b" in config else 80) // self.stages
        self.penalty = 1.0 if "llama2-7b" in config else 1.1
        parallel = "_tp1" not in config
        self.linear: dict[int, float] = {}
        self.send: dict[int, float] = {}
        self.save: dict[int, float] = {}
        self.decode: dict[tuple[int, int], float] = {}
        self.prefill: dict[tuple[int, int], float] = {}
        for row in _rows(path):
            op, x, ms = row["op"], int(float(row["x1"])), float(row["ms"])
            if op in LINEAR or (op == "all_reduce" and parallel):
                self.linear[x] = self.linear.get(x, 0.0) + (ms if op in LINEAR else 2 * (ms + 0.02))
            elif op in ("send_recv", "attn_kv_cache_save"):
                (self.send if op == "send_recv" else self.save)[x] = ms
            elif op in ("attn_decode", "attn_prefill"):
                (self.decode if op == "attn_decode" else self.prefill)[x, int(float(row["x2"]))] = ms

    def _layer(self, batch: BatchShape) -> float:
        ms = self.linear[-(-batch.tokens // 8) * 8] + self.save[batch.tokens]
        if batch.prefill:
            context = sum(-(-c // 64) * 64 for _, c in batch.prefill)
            size = round(math.sqrt(sum(t * t for t, _ in batch.prefill)))
            ms += self.prefill[context, size] * (self.penalty if len(batch.prefill) > 1 else 1.0)
        if batch.decodes:
            mean = batch.decode_context // batch.decodes
            ms += self.decode[batch.decodes, -(-mean // 64) * 64] * (self.penalty if batch.decodes > 1 else 1.0)
        return ms

    def stage_times(self, batch: BatchShape) -> list[float]:
        """Seconds each stage is occupied."""
        compute = self.layers * self._layer(batch) / 1000
        send = self.send[-(-batch.tokens // 8) * 8] / 1000 if self.stages > 1 else 0.0
        return [compute + send] * (self.stages - 1) + [compute]

    def iteration(self, batch: BatchShape) -> float:
        """Seconds through all stages."""
        return sum(self.stage_times(batch))

    def decode_segment(self, batch: BatchShape) -> Segment:
        """Constant until the mean context passes the next multiple of 64."""
        mean = batch.decode_context // batch.decodes
        return Segment(self.iteration(batch), 0.0, -(-mean // 64) * 64 - mean + 1)


@cache
def _cost(path: str, config: str) -> TableCost:
    return TableCost(Path(path), config)


def run_vidur(subject: Subject) -> tuple[dict[str, float], str]:
    """Largest difference of first token and of end of any request [s], the median end-to-end latency, and the ties
    behind the difference: an answer with a note that names them, or says that they do not explain it."""
    folder, name = Path(str(subject.setting("folder"))), str(subject.setting("name"))
    workload, rate = str(subject.setting("workload")), float(str(subject.setting("qps")))
    requests = _rows(next(folder.glob(f"requests__{workload}*.csv.gz")))
    theirs = _rows(folder / f"runs/{name}.csv.gz")
    arrivals = np.array([round(float(r["unit_arrival"]) / rate, 6) for r in requests])
    ttft, e2e = (np.array([float(r[k]) for r in theirs]) for k in ("ttft_s", "e2e_s"))

    def replay(moved: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        run, late = _run(subject, requests, moved), moved - arrivals
        return run.ttft + late - ttft, run.e2e + late - e2e

    first, end = replay(arrivals)
    found = {
        "max_ttft_difference": float(np.abs(first).max()),
        "max_e2e_difference": float(np.abs(end).max()),
        "max_difference": float(max(np.abs(first).max(), np.abs(end).max())),
        "e2e_p50": float(np.median(e2e + end)),
        "median_relative": float(np.median(np.abs(end) / e2e)),
    }
    if found["max_difference"] < AGREE:
        return found, ""
    ties, left = settle(replay, arrivals)
    named = ", ".join(f"request {row} at {arrivals[row]:.6f} s ({shift * 1e6:+.0f} us)" for row, shift in ties.items())
    if left < AGREE:
        return found, f"{TIES}: {named}; the rest within {left * 1e3:.2f} ms"
    return found, f"not explained by ties: {left:.3f} s are left" + (f" beside {named}" if named else "")


def _run(subject: Subject, requests: list[dict[str, str]], arrivals: NDArray[np.float64]) -> ServingRun:
    """Our policies under Vidur's operation times."""
    folder, name, config = (str(subject.setting(k)) for k in ("folder", "name", "cfg"))
    table = RequestTable(
        arrivals,
        np.array([int(r["num_prefill_tokens"]) for r in requests]),
        np.array([int(r["num_decode_tokens"]) for r in requests]),
        name,
        TraceProvenance("vidur", "vidur", len(requests), len(requests)),
    )
    cost = _cost(str(Path(folder) / f"ops/ops__{config}.csv.gz"), config)
    padded = subject.setting("sched") == "vllm"
    return simulate_deployment(
        table, cost, kv_blocks=int(str(subject.setting("kv_blocks"))),
        batching=PrefillFirst(count_padding=True) if padded else "chunked-prefill",
        max_num_batched_tokens=4096 if padded else 512, max_num_seqs=int(str(subject.setting("batch_cap"))),
        pipeline_stages=cost.stages,
    )  # fmt: skip
