"""Measured kernels: tables of GEMMs with their shape and time (the DeepSeek-V3 training profile)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from simulator.validation.cases import Case, Labels, Measurement, Reading, Skipped, Subject
from simulator.validation.records import IncompleteError, amount, read_each, whole

__all__ = ["READERS"]

MICROSECOND, SOURCE = 1e-6, "DeepSeek-V3 profile"

KERNEL_COLUMNS = frozenset({"role", "pass_", "kernel", "dtype", "M", "N", "K", "mean_us", "min_us"})

GPU, SM_SHARE = "H800", 112 / 132
"""The profile's GPU, and the share of its multiprocessors that computes (20 of 132 move data)."""


def read_kernels(rows: Sequence[Mapping[str, str]], path: Path) -> Reading:
    """GEMMs with whole M, N and K; attention and rows that ran beside another kernel are listed."""
    reading = Reading()

    def skipped(row: Mapping[str, str], reason: str) -> Skipped:
        return Skipped(f"{path.stem}:{row['role']}", path.name, "dev", SOURCE, "kernels", reason)

    read_each(reading, rows, lambda row: _kernel(row, path), skipped)
    return reading


def _kernel(row: Mapping[str, str], path: Path) -> Case:
    sizes = ("M", "N", "K")
    if any("heads" in row[k] for k in sizes):
        raise IncompleteError("attention with latent heads: see the layer")
    if row.get("concurrent_streams", "1") not in ("", "1"):
        raise IncompleteError("ran beside another kernel")
    m, n, k = whole(row, *sizes)
    dtype = "fp8" if row["dtype"].startswith("fp8") else "bf16"
    grouped = "grouped" in row["kernel"]
    labels = Labels(
        SOURCE, GPU, row["role"], "deepseek", "", dtype, "1 accelerator", "grouped" if grouped else "gemm", "A"
    )
    settings = (
        ("m", m), ("n", n), ("k", k), ("dtype", dtype), ("groups", 4 if grouped else 1), ("share", SM_SHARE),
        ("gpu", GPU),
    )  # fmt: skip
    measured = (Measurement("kernel", amount(row, "mean_us") * MICROSECOND, "seconds"),)
    assumed = (
        "peak and L2 in proportion to 112 of 132 multiprocessors",
        *(("4 experts per rank (256 over 64)",) if grouped else ()),
    )
    subject = Subject("kernel", None, settings=settings)
    return Case(f"{path.stem}:{row['role']}", path.name, "dev", labels, subject, measured, assumed)


READERS: tuple[tuple[frozenset[str], Callable[[Sequence[Mapping[str, str]], Path], Reading]], ...] = (
    (KERNEL_COLUMNS, read_kernels),
)
"""Columns a table must have → its reader."""
