"""Profiling tables of peers in their published formats.

Each reader turns one file into rows of the kernel table; which reader fits is seen from the columns.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from simulator.cost.kernel_table import Row
from simulator.errors import ConfigError
from simulator.workload.ops import DTYPE_BYTES, OpKind, Work

__all__ = ["attention_row", "gemm_row", "read_table"]


def gemm_row(m: float, n: float, k: float, seconds: float, dtype: str = "bf16") -> Row:
    """A forward GEMM C[m,n] = A[m,k]·B[k,n] and its time [s]."""
    size = DTYPE_BYTES[dtype]
    moved = (m * k + n * k) * size + m * n * max(2.0, size)
    work = Work(OpKind.GEMM, dtype, 2.0 * m * n * k, moved, int(m), int(n), int(k), operator="forward")
    return Row(work, seconds)


def attention_row(
    batch: int, queries: int, cached: float, heads: int, kv_heads: int, width: int, seconds: float, dtype: str = "bf16"
) -> Row:
    """Causal attention of ``queries`` new tokens after ``cached`` ones; one new token is a decode."""
    keys = cached + (queries + 1) / 2 if queries > 1 else cached + 1
    flops = 4.0 * batch * queries * keys * heads * width
    size = DTYPE_BYTES[dtype]
    moved = batch * width * (2.0 * (cached + queries) * kv_heads * size + 2 * 2.0 * queries * heads)
    work = Work(
        OpKind.ATTENTION, dtype, flops, moved, batch=batch, q_len=queries, kv_len=keys, heads=heads, kv_heads=kv_heads,
        head_dim=width, causal=queries > 1,
    )  # fmt: skip
    return Row(work, seconds)


def read_table(path: Path) -> list[Row]:
    """Kernels of one file.

    Raises
    ------
    ConfigError
        If the file is not in one of the known formats.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as a table: {error}") from None
    columns = set(map(str, table.columns))
    for needed, reader in _FORMATS:
        if needed <= columns:
            return [row for row in reader(table) if row.seconds > 0]
    if str(table.columns[-1]).strip().endswith("Tflops"):
        return list(_llmcompass(pd.read_csv(path, header=None)))
    raise ConfigError(
        f"{path}: unknown table; known are Vidur's mlp and attention, APEX's GEMMs, SimuMax's op_efficiency"
    )


def _vidur_mlp(table: Any) -> Iterator[Row]:
    """Per-layer linear operators of one tensor-parallel shard; times in ms."""
    gemms: tuple[tuple[str, Callable[[Any], tuple[float, float]]], ...] = (
        ("attn_pre_proj", lambda r: (r.n_embd, r.n_embd / r.n_head * (r.n_head + 2 * r.n_kv_head) / r.ranks)),
        ("attn_post_proj", lambda r: (r.n_embd / r.ranks, r.n_embd)),
        ("mlp_up_proj", lambda r: (r.n_embd, (2 if r.use_gated_mlp else 1) * r.n_expanded_embd / r.ranks)),
        ("mlp_down_proj", lambda r: (r.n_expanded_embd / r.ranks, r.n_embd)),
    )
    table = table.rename(columns={"num_tensor_parallel_workers": "ranks"})
    for name, shape in gemms:
        column = f"time_stats.{name}.median"
        if column not in table:
            continue
        for row in table.rename(columns={column: "seconds"}).itertuples():
            k, n = shape(row)
            if row.seconds == row.seconds:
                yield gemm_row(row.num_tokens, n, k, row.seconds * 1e-3)


def _vidur_attention(table: Any) -> Iterator[Row]:
    names = {"num_tensor_parallel_workers": "ranks", "time_stats.attn_decode.median": "decode"}
    names |= {"time_stats.attn_prefill.median": "prefill"}
    for row in table.rename(columns=names).itertuples():
        heads, kv_heads = int(row.n_q_head // row.ranks), max(1, int(row.n_kv_head // row.ranks))
        width = int(row.n_embd // row.n_q_head)
        is_prefill = str(row.is_prefill) == "True"
        seconds = (row.prefill if is_prefill else row.decode) * 1e-3
        if not seconds > 0:
            continue
        if is_prefill:
            yield attention_row(
                int(row.batch_size), int(row.prefill_chunk_size), row.kv_cache_size, heads, kv_heads, width, seconds
            )
        elif row.kv_cache_size > 1:
            yield attention_row(int(row.batch_size), 1, row.kv_cache_size, heads, kv_heads, width, seconds)


def _apex_gemm(table: Any) -> Iterator[Row]:
    for row in table.rename(columns={"time(us)": "us"}).itertuples():
        if row.n >= 64 and row.k >= 64:
            yield gemm_row(row.m, row.n, row.k, row.us * 1e-6, "fp16")


def _simumax(table: Any) -> Iterator[Row]:
    """Shapes as text and the reached share of the peak."""
    for row in table.itertuples():
        sizes = {key: int(value) for key, value in re.findall(r"\b([bmnk])=(\d+)", row.shape)}
        if row.op != "matmul" or not {"m", "n", "k"} <= set(sizes) or sizes.get("b", 1) != 1:
            continue
        flops = 2.0 * sizes["m"] * sizes["n"] * sizes["k"]
        yield gemm_row(sizes["m"], sizes["n"], sizes["k"], flops / (row.fraction_of_peak * row.peak_tflops * 1e12))


def _llmcompass(table: Any) -> Iterator[Row]:
    for m, n, k, milliseconds, *_ in table.itertuples(index=False):
        yield gemm_row(float(m), float(n), float(k), float(str(milliseconds).strip().removesuffix("ms")) * 1e-3, "fp16")


_FORMATS: tuple[tuple[set[str], Callable[[Any], Iterator[Row]]], ...] = (
    ({"time_stats.attn_pre_proj.median", "num_tokens", "n_embd"}, _vidur_mlp),
    ({"time_stats.attn_decode.median", "kv_cache_size", "n_q_head"}, _vidur_attention),
    ({"m", "k", "n", "time(us)"}, _apex_gemm),
    ({"gpu", "op", "peak_tflops", "fraction_of_peak"}, _simumax),
)
