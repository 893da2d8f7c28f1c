"""Measured kernels of ``aiconfigurator-core`` (Apache-2.0, extra ``measured``), read from the installed package.

Only its kernel tables are opened, each by its name; its end-to-end samples are not.
"""

from __future__ import annotations

import importlib.util
import json
import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from simulator.calibration.resident import resident
from simulator.cost.experts import expert_block
from simulator.cost.kernel_table import Row
from simulator.errors import ConfigError, unknown_name
from simulator.hardware.profiles import load_accelerator
from simulator.workload.ops import DTYPE_BYTES, OpKind, Work

__all__ = [
    "ACCELERATORS",
    "ExpertTiming",
    "LatentTiming",
    "devices",
    "engines",
    "read_block_scaled",
    "read_collectives",
    "read_expert_blocks",
    "read_kernels",
    "read_latent_decodes",
]

_EXPERT_SIZES = ("num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size")

INSTALL = "aiconfigurator-core is not installed: pip install 'fmsim[measured]'"

ACCELERATORS = {
    "a100_sxm": "a100-sxm-80gb", "a100_pcie": "a100-pcie-80gb", "h100_sxm": "h100-sxm", "h100_pcie": "h100-pcie",
    "h200_sxm": "h200-sxm", "b200_sxm": "b200-sxm", "b300_sxm": "b300-sxm", "gb200": "gb200", "gb300": "gb300",
    "l4": "l4", "l40s": "l40s", "rtx_pro_6000_server": "rtx-pro-6000-server",
}  # fmt: skip
"""Devices of the package and the shipped accelerators with their datasheets."""

_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "half": "fp16", "fp8": "fp8", "nvfp4": "fp4"}
_EXPERT_DTYPES = {**_DTYPES, "fp8_block": "fp8"}
"""Formats of experts' weights; of those of one type the first is read: one scale per tensor, not one per block."""

OUTLIER = 1.5
"""Kernels that take so many times as long as those of another format of their type say little of a device; that is then
read. vLLM 0.24 has experts with one scale per tensor that take 3.6 (H100) and 4.4 times (H200) as long as with one per
block, and 2.3 and 2.9 times as long as in 16 bit; TensorRT-LLM and vLLM 0.19 have none of this."""

COPIES = {"vllm": 6, "sglang": 6, "trtllm": 5}
"""Weights that the collector of each engine multiplies in turn, so that not all are in the cache; vLLM's in fp4 are one
(collector/*/collect_gemm.py of ai-dynamo/aiconfigurator)."""

_FILES = {
    "gemm": ("gemm", "gemm_perf.parquet"),
    "attention_prefill": ("attention", "context_attention_perf.parquet"),
    "attention_decode": ("attention", "generation_attention_perf.parquet"),
    "moe": ("moe", "moe_perf.parquet"),
}


def _root() -> Path:
    found = importlib.util.find_spec("aiconfigurator_core")
    if found is None or found.origin is None:
        raise ConfigError(INSTALL)
    return Path(found.origin).parent / "systems" / "data"


def devices() -> list[str]:
    """Devices that the installed package has kernels of and whose datasheet is shipped here."""
    root = _root()
    return [name for name in ACCELERATORS if (root / name / "gemm").is_dir()]


def engines(device: str) -> dict[str, list[str]]:
    """Engines with GEMM kernels of ``device``, and their versions."""
    folder = _root() / device / "gemm"
    if not folder.is_dir():
        raise ConfigError(unknown_name("device", device, devices()))
    return {e.name: sorted(v.name for v in e.iterdir()) for e in sorted(folder.iterdir()) if e.is_dir()}


def read_kernels(device: str, engine: str = "", version: str = "") -> tuple[list[Row], list[str]]:
    """Kernels of one device, and what was found of each kind (the coverage).

    Parameters
    ----------
    engine, version
        As :func:`engines` names them; ``vllm`` where it was measured, and the newest version, by default.
        ``vllm:0.24.0`` gives both at once.

    Raises
    ------
    ConfigError
        If the package, the device or the engine is not there.
    """
    engine, _, asked = engine.partition(":")
    version = version or asked
    known = engines(device)
    engine = engine or ("vllm" if "vllm" in known else next(iter(known)))
    if engine not in known:
        raise ConfigError(unknown_name(f"engine of {device}", engine, known))
    rows: list[Row] = []
    coverage = []
    l2 = load_accelerator(ACCELERATORS[device]).l2_capacity
    readers: dict[str, Callable[[Any], Iterator[Row]]] = {
        "gemm": partial(_gemm, engine, l2), "attention_prefill": _prefill, "attention_decode": partial(_decode, l2)
    }  # fmt: skip
    for kind, (folder, file) in _FILES.items():
        path = _newest(_root() / device / folder / engine, file, version)
        if path is None:
            coverage.append(f"{kind}: not measured with {engine} {version}".rstrip())
            continue
        import pandas as pd

        table = pd.read_parquet(path)
        slow: list[str] = []
        mine = list(readers[kind](table)) if kind in readers else _experts(table, slow)
        coverage += slow
        coverage.append(f"{kind}: {len(mine):,} of {len(table):,} timings usable ({engine} {path.parent.name})")
        rows += _distinct(mine)
    return rows, coverage


def read_collectives(device: str) -> dict[tuple[str, str, int], list[tuple[float, float]]]:
    """(library, operation, ranks) → (bytes, seconds): NCCL in 16 bit, and one-shot all-reduces inside a graph."""
    import pandas as pd

    root = _root() / device / "comm"
    found: dict[tuple[str, str, int], list[tuple[float, float]]] = {}
    for library, file, kind in (
        ("nccl", "nccl_perf.parquet", "nccl_dtype"),
        ("vllm", "custom_allreduce_perf.parquet", "allreduce_dtype"),
    ):
        path = _newest(root / library, file, "")
        if path is None:
            continue
        table = pd.read_parquet(path)
        if "backend" in table:
            table = table[table["backend"].str.endswith("graph")]
        # The columns name elements of two bytes; the all-gather and the like count the whole buffer.
        columns = ("op_name", "num_gpus", "message_size", kind, "latency")
        name = "nccl" if library == "nccl" else "one-shot"
        for operation, ranks, size, dtype, latency in _records(table, columns):
            if dtype in ("half", "bfloat16", "float16") and latency > 0:
                found.setdefault((name, operation, int(ranks)), []).append((2.0 * size, latency * 1e-3))
    return {key: sorted(dict(points).items()) for key, points in found.items()}


def read_block_scaled(device: str, engine: str) -> list[Row]:
    """GEMMs in fp8 with one scale per block of the operands, as ``engine`` runs them (casts of the inputs included).

    Raises
    ------
    ConfigError
        If the package or the device is not there.
    """
    table = _table(device, "gemm", engine, "gemm_perf.parquet")
    if table is None:
        return []
    l2 = load_accelerator(ACCELERATORS[device]).l2_capacity
    return _distinct(list(_gemm(engine, l2, table, {"fp8_block": "fp8"})))


class ExpertTiming(NamedTuple):
    """One timed expert block: kernels and format as the package names them, sizes on one GPU, the law by which experts
    are chosen (``balanced`` or a power law), and seconds."""

    kernels: str
    form: str
    tokens: int
    hidden: int
    width: int
    per_token: int
    experts: int
    gated: bool
    law: str
    seconds: float


def read_expert_blocks(device: str, engine: str, version: str = "") -> list[ExpertTiming]:
    """Expert blocks that ``engine`` was timed with, all experts on one GPU; empty without any.

    Raises
    ------
    ConfigError
        If the package or the device is not there.
    """
    table = _table(device, "moe", engine, "moe_perf.parquet", version)
    if table is None:
        return []
    table, plain = table[(table["moe_ep_size"] == 1) & (table["latency"] > 0)], _not_gated()
    names = ("kernel_source", "moe_dtype", *_EXPERT_SIZES, "distribution", "latency")
    return [
        ExpertTiming(
            source, form, tokens, hidden, inter // max(1, tp), topk, experts, (hidden, inter, experts) not in plain,
            law, latency * 1e-3,
        )
        for source, form, tokens, hidden, inter, topk, experts, tp, _, law, latency in _records(table, names)
    ]  # fmt: skip


class LatentTiming(NamedTuple):
    """One timed decode of latent attention from its input to its output projection: sequences, context [tokens], heads
    on one GPU, type of the cache, and seconds."""

    batch: int
    context: int
    heads: int
    kv_dtype: str
    seconds: float


def read_latent_decodes(device: str, engine: str, *, sparse: bool = False) -> list[LatentTiming]:
    """Decodes of DeepSeek's attention with fp8 weights in blocks as ``engine`` was timed; empty without any.

    Parameters
    ----------
    sparse
        DeepSeek-V3.2's, indexer included, instead of DeepSeek-V3's.

    Raises
    ------
    ConfigError
        If the package or the device is not there.
    """
    kind, name = ("sparse_attention", "dsa") if sparse else ("mla", "mla")
    table = _table(device, kind, engine, f"{name}_generation_module_perf.parquet")
    if table is None:
        return []
    if sparse:
        whole = table["op_name"] == "dsa_generation_module"
        table = table[whole & table["model"].str.endswith("DeepSeek-V3.2")]
    table = table[(table["gemm_type"] == "fp8_block") & (table["latency"] > 0)]
    names = ("batch_size", "isl", "step", "num_heads", "kv_cache_dtype", "latency")
    return [
        LatentTiming(batch, length + step, heads, _DTYPES[stored], latency * 1e-3)
        for batch, length, step, heads, stored, latency in _records(table, names)
    ]


def _table(device: str, kind: str, engine: str, file: str, version: str = "") -> Any:
    """Timings of one kind of kernel by an engine, of a version or its newest; ``None`` without any."""
    import pandas as pd

    path = _newest(_root() / device / kind / engine, file, version) if engine in engines(device) else None
    return None if path is None else pd.read_parquet(path)


def _newest(folder: Path, file: str, version: str) -> Path | None:
    found = [p for p in folder.glob(f"*/{file}") if not version or p.parent.name == version]

    def order(path: Path) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdigit() else (-1, part) for part in path.parent.name.split(".")]

    return max(found, key=order, default=None)


def _distinct(rows: list[Row]) -> list[Row]:
    """The fastest timing of each size: several kernels were measured, an engine picks the best."""
    best: dict[Work, Row] = {}
    for row in rows:
        known = best.get(row.work)
        if known is None or row.seconds < known.seconds:
            best[row.work] = row
    return list(best.values())


def _records(table: Any, columns: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
    """Rows as tuples; older tables lack ``window_size`` and ``step``, which were 0 then."""
    zeros = [0] * len(table)
    yield from zip(*(table[c].tolist() if c in table else zeros for c in columns), strict=True)


def _gemm(engine: str, cache: float, table: Any, dtypes: Mapping[str, str] = _DTYPES) -> Iterator[Row]:
    for name, m, n, k, latency in _records(table, ("gemm_dtype", "m", "n", "k", "latency")):
        dtype = dtypes.get(name)
        if dtype is None or latency <= 0 or n < 256 or k < 256:
            continue
        size = DTYPE_BYTES[dtype]
        moved = (m * k + n * k) * size + 2.0 * m * n
        copies = 1 if dtype == "fp4" and engine == "vllm" else COPIES.get(engine, 1)
        near = moved * resident(moved + (copies - 1) * n * k * size, cache)
        work = Work(
            OpKind.GEMM, dtype, 2.0 * m * n * k, moved, m, n, k, operator="forward", near=near,
            casts=dtype in ("fp8", "fp4"),
        )  # fmt: skip
        yield Row(work, latency * 1e-3)


_ATTENTION = (
    "batch_size", "isl", "step", "num_heads", "num_key_value_heads", "head_dim", "kv_cache_dtype", "window_size",
    "latency",
)  # fmt: skip


def _prefill(table: Any) -> Iterator[Row]:
    for batch, length, step, heads, kv_heads, width, stored, window, latency in _records(table, _ATTENTION):
        if window or step or stored != "bfloat16" or latency <= 0 or length < 2:
            continue
        keys = (length + 1) / 2
        flops = 4.0 * batch * length * keys * heads * width
        moved = 2.0 * batch * length * width * (2 * heads + 2 * kv_heads)
        work = Work(
            OpKind.ATTENTION, "bf16", flops, moved, batch=batch, q_len=length, kv_len=keys, heads=heads,
            kv_heads=kv_heads, head_dim=width, causal=True,
        )  # fmt: skip
        yield Row(work, latency * 1e-3)


def _decode(cache: float, table: Any) -> Iterator[Row]:
    for batch, length, step, heads, kv_heads, width, stored, window, latency in _records(table, _ATTENTION):
        context = length + step
        dtype = _DTYPES.get(stored)
        if window or dtype not in ("bf16", "fp8") or latency <= 0 or context < 2:
            continue
        flops = 4.0 * batch * context * heads * width
        moved = 2.0 * DTYPE_BYTES[dtype] * batch * context * kv_heads * width + 4.0 * batch * heads * width
        work = Work(
            OpKind.ATTENTION, dtype, flops, moved, batch=batch, q_len=1, kv_len=context, heads=heads,
            kv_heads=kv_heads, head_dim=width, near=moved * resident(moved, cache),
        )  # fmt: skip
        yield Row(work, latency * 1e-3)


def _experts(table: Any, notes: list[str]) -> list[Row]:
    """Expert blocks in the first format of each type, or the next where that is an outlier, which is noted."""
    formats: dict[str, list[Row]] = {}
    for name, row in _moe(table):
        formats.setdefault(name, []).append(row)
    kept: dict[str, list[Row]] = {}
    for name in (known for known in _EXPERT_DTYPES if known in formats):
        rows, before = formats[name], kept.get(_EXPERT_DTYPES[name])
        if before is not None:
            ratio = _longer(before, rows)
            if not ratio > OUTLIER:
                continue
            notes.append(f"moe: {len(before):,} timings left out, {ratio:.1f} times as long as those in {name}")
        kept[_EXPERT_DTYPES[name]] = rows
    return [row for rows in kept.values() for row in rows]


def _longer(rows: list[Row], others: list[Row]) -> float:
    """Median of how many times as long ``rows`` take as ``others`` of the same sizes; NaN without any."""
    theirs = {row.work: row.seconds for row in _distinct(others)}
    ratios = [row.seconds / theirs[row.work] for row in _distinct(rows) if row.work in theirs]
    return statistics.median(ratios) if ratios else math.nan


def _moe(table: Any) -> Iterator[tuple[str, Row]]:
    """Expert blocks, on one GPU's experts.

    Only balanced routing: there T tokens of k experts each touch min(E, k·T) of E experts, which the times confirm
    (proportional to T up to E / k). Under the table's power laws the touched experts are not stated.
    """
    columns = ("moe_dtype", *_EXPERT_SIZES)
    if not {*columns, "distribution", "latency"} <= set(table.columns):
        return
    plain = _not_gated()
    for name, tokens, hidden, inter, topk, experts, tp, ep, spread, latency in _records(
        table, (*columns, "distribution", "latency")
    ):
        dtype = _EXPERT_DTYPES.get(name)
        if dtype is None or latency <= 0 or ep != 1 or not str(spread).startswith("balanced"):
            continue
        touched = min(experts, tokens * topk)
        gated = (hidden, inter, experts) not in plain
        work = expert_block(dtype, tokens, topk, hidden, inter // max(1, tp), touched, gated)
        yield name, Row(work, latency * 1e-3)


@cache
def _not_gated() -> frozenset[tuple[int, int, int]]:
    """(hidden size, width, experts) of the package's models whose experts have two matrices: squared ReLU, no gate."""
    found = set()
    for path in sorted((_root().parents[1] / "model_configs").glob("*_config.json")):
        config = json.loads(path.read_text(encoding="utf-8"))
        if config.get("mlp_hidden_act") == "relu2" and config.get("n_routed_experts"):
            hidden = config.get("moe_latent_size") or config["hidden_size"]
            found.add((int(hidden), int(config["moe_intermediate_size"]), int(config["n_routed_experts"])))
    return frozenset(found)
