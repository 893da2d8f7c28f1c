"""Kernel times against measurements that the efficiency curves were not fitted to.

The curves of A100 and H100 come from another project's tables (aiconfigurator); the timings here are Vidur's,
LLMServingSim's and apex_plus's. Each test prints its error table (``pytest -s``) and holds the median error under a
bound, and under that of the plain roofline wherever kernels are large enough for a roofline to be meant.
"""

from __future__ import annotations

import csv
import gzip
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

from simulator.cost.device import DeviceCost
from simulator.cost.priced import Priced
from simulator.hardware.profiles import load_accelerator
from simulator.workload.ops import OpKind, Work

Row = tuple[Work, float]


def gemm(m: int, n: int, k: int, dtype: str = "fp16") -> Work:
    return Work(OpKind.GEMM, dtype, 2.0 * m * n * k, 2.0 * (m * k + n * k + m * n), m, n, k)


def read(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt") as file:
        yield from csv.DictReader(file)


def vidur_gemms(folder: Path, device: str) -> list[Row]:
    """Four projections of eight models at tensor parallel 1 to 8, 1 to 4,096 tokens and more, in ms."""
    rows = []
    for path in sorted(folder.glob(f"{device}__*__mlp.csv.gz")):
        for r in read(path):
            tp, m, hidden = int(r["num_tensor_parallel_workers"]), int(r["num_tokens"]), int(r["n_embd"])
            heads, kv_heads, wide = int(r["n_head"]), int(r["n_kv_head"]), int(r["n_expanded_embd"])
            up = wide * (2 if r["use_gated_mlp"] == "True" else 1)
            head = hidden // heads
            if heads % tp or kv_heads % tp:
                continue
            shapes = {
                "attn_pre_proj": ((heads + 2 * kv_heads) * head // tp, hidden),
                "attn_post_proj": (hidden, hidden // tp),
                "mlp_up_proj": (up // tp, hidden),
                "mlp_down_proj": (hidden, wide // tp),
            }
            for name, (n, k) in shapes.items():
                measured = r[f"time_stats.{name}.median"]
                if measured:
                    rows.append((gemm(m, n, k), float(measured) * 1e-3))
    return rows


def apex_gemms(path: Path) -> list[Row]:
    wanted = ((int(r["m"]), int(r["n"]), int(r["k"]), float(r["time(us)"]) * 1e-6) for r in read(path))
    return [(gemm(m, n, k), seconds) for m, n, k, seconds in wanted if m >= 64 and n >= 512 and k >= 512]


def llmservingsim_gemms(path: Path) -> list[Row]:
    """Llama-3.1-70B on one H100 [ns]."""
    shapes = {"q_proj": (8192, 8192), "o_proj": (8192, 8192), "up_proj": (28672, 8192), "down_proj": (8192, 28672)}
    return [
        (gemm(int(r["input"]), *shapes[r["layer_name"]], "bf16"), float(r["latency(ns)"]) * 1e-9)
        for r in read(path)
        if r["layer_name"] in shapes
    ]


def table(name: str, prices: list[tuple[Priced, float]]) -> tuple[float, float]:
    """Prints and returns the median errors of the model and of the plain roofline."""
    errors = sorted(abs(p.seconds / t - 1) for p, t in prices)
    naive = statistics.median(abs(p.floor / t - 1) for p, t in prices)
    bias = statistics.median(p.seconds / t - 1 for p, t in prices)
    faster = sum(p.floor > t for p, t in prices) / len(prices)
    print(
        f"\n{name:34s} {len(prices):6d} kernels  median {statistics.median(errors):6.1%}  p90 "
        f"{errors[int(0.9 * len(errors))]:6.1%}  bias {bias:+6.1%}  roofline {naive:6.1%}  "
        f"faster than roofline {faster:.1%}  trust {prices[0][0].trust}"
    )
    return statistics.median(errors), naive


@pytest.mark.parametrize(("device", "profile", "bound"), [("a100", "a100-sxm-80gb", 0.20), ("h100", "h100-sxm", 0.20)])
def test_gemms_of_vidur(shared: Path, device: str, profile: str, bound: float) -> None:
    cost = DeviceCost(load_accelerator(profile))
    rows = vidur_gemms(shared / "reference/vidur/profiling", device)
    assert len(rows) > 2000
    error, _ = table(f"Vidur {device}, all", [(cost.price(w), t) for w, t in rows])
    assert error < bound
    large = [(cost.price(w), t) for w, t in rows if w.m >= 512]
    error, naive = table(f"Vidur {device}, 512 tokens and more", large)
    assert error < min(bound, naive)


def test_gemms_of_llmservingsim(shared: Path) -> None:
    folder = shared / "reference/serving_peers/llmservingsim_v0/H100/meta-llama/Llama-3.1-70B/tp1"
    cost = DeviceCost(load_accelerator("h100-sxm"))
    error, naive = table(
        "LLMServingSim h100", [(cost.price(w), t) for w, t in llmservingsim_gemms(folder / "layers.csv.gz")]
    )
    assert error < min(0.15, naive)


def test_gemms_of_a_device_without_curves(shared: Path) -> None:
    """V100-PCIe has no measurements of ours: everything is borrowed from later generations."""
    from dataclasses import replace

    pcie = replace(
        load_accelerator("v100-sxm-16gb"), name="v100-pcie", peak_flops={"fp16": 112e12, "fp32": 14e12}, efficiency={}
    )
    rows = apex_gemms(next((shared / "reference/serving_peers/apex_gemm").glob("V100*.csv.gz")))
    error, naive = table("apex_plus V100-PCIe", [(DeviceCost(pcie).price(w), t) for w, t in rows[::7]])
    assert error < min(0.30, naive)


def attention_rows(path: Path) -> dict[str, list[Row]]:
    """Vidur's attention table for Llama-3-8B: 32 heads, 8 KV heads, head size 128."""
    heads, kv_heads, head = 32, 8, 128
    rows: dict[str, list[Row]] = {"decode": [], "prefill": [], "chunk": []}
    for r in read(path):
        if not r["attn_ms_median"]:
            continue
        batch, chunk, cached = int(r["batch_size"]), int(r["prefill_chunk_size"]), int(r["kv_cache_size"])
        seconds = float(r["attn_ms_median"]) * 1e-3
        decode = r["phase"] == "decode"
        query = 1 if decode else chunk
        context = cached if decode else cached + (chunk + 1) / 2
        keys = cached if decode else cached + chunk
        moved = 2.0 * 2 * batch * keys * kv_heads * head + 2.0 * 2 * batch * query * heads * head
        work = Work(
            OpKind.ATTENTION, "bf16", 4.0 * batch * query * context * heads * head, moved, batch=batch, q_len=query,
            kv_len=context, heads=heads, kv_heads=kv_heads, head_dim=head, causal=not decode,
        )  # fmt: skip
        rows["decode" if decode else "prefill" if cached == 0 else "chunk"].append((work, seconds))
    return rows


def test_attention_of_vidur(shared: Path) -> None:
    path = shared / "reference/vidur/profiling/a100__meta-llama_Meta-Llama-3-8B_tp1__attention_sampled.csv.gz"
    cost = DeviceCost(load_accelerator("a100-sxm-80gb"))
    medians = {
        phase: table(f"Vidur a100 attention, {phase}", [(cost.price(w), t) for w, t in rows])[0]
        for phase, rows in attention_rows(path).items()
        if rows
    }
    assert medians["prefill"] < 0.20
    assert medians["chunk"] < 0.15
    assert medians["decode"] < 0.25


def test_mixture_of_experts_of_llmservingsim(shared: Path) -> None:
    """Experts of Qwen3-30B-A3B (2048 x 768, top 8) on an RTX PRO 6000: 1 to 2,048 tokens, 8 to 128 experts touched."""
    folder = shared / "reference/serving_peers/llmservingsim_v1/RTXPRO6000/Qwen/Qwen3-30B-A3B-Instruct-2507/bf16/tp1"
    cost = DeviceCost(load_accelerator("rtx-pro-6000-server"))
    hidden, wide, per_token = 2048, 768, 8
    errors = []
    for r in read(folder / "moe.csv.gz"):
        rows, experts = int(r["tokens"]) * per_token, int(r["activated_experts"])
        works = [
            Work(
                OpKind.GROUPED_GEMM,
                "bf16",
                2.0 * rows * n * k,
                2.0 * (rows * (n + k) + experts * n * k),
                rows,
                n,
                k,
                experts,
            )
            for n, k in ((2 * wide, hidden), (hidden, wide))
        ]
        works.append(Work(OpKind.ELEMENTWISE, "bf16", 0.0, 2.0 * rows * 3 * wide))
        errors.append(sum(cost.price(w).seconds for w in works) / (float(r["time_us"]) * 1e-6) - 1)
    size = sorted(map(abs, errors))
    print(
        f"\nLLMServingSim experts {len(errors):6d} points  median {statistics.median(size):6.1%}  "
        f"p90 {size[int(0.9 * len(size))]:6.1%}"
    )
    assert statistics.median(size) < 0.12
