"""Measured kernels: tables of GEMMs with their shape and time (the DeepSeek-V3 training profile)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from simulator.validation.cases import Case, Labels, Measurement, Reading, Skipped, Subject

__all__ = ["READERS"]

MICROSECOND = 1e-6

KERNEL_COLUMNS = frozenset({"role", "pass_", "kernel", "dtype", "M", "N", "K", "mean_us", "min_us"})

GPU, SM_SHARE = "H800", 112 / 132
"""The profile's GPU, and the share of its multiprocessors that computes (20 of 132 move data)."""


def read_kernels(rows: Sequence[Mapping[str, str]], path: Path) -> Reading:
    """GEMMs with whole M, N and K; attention and rows that ran beside another kernel are listed."""
    reading = Reading()
    for row in rows:
        name = f"{path.stem}:{row['role']}"
        if not all(row[k].isdigit() for k in ("M", "N", "K")):
            reading.skipped.append(
                Skipped(
                    name,
                    path.name,
                    "dev",
                    "DeepSeek-V3 profile",
                    "kernels",
                    "attention with latent heads: see the layer",
                )
            )
            continue
        if row.get("concurrent_streams", "1") != "1":
            reading.skipped.append(
                Skipped(name, path.name, "dev", "DeepSeek-V3 profile", "kernels", "ran beside another kernel")
            )
            continue
        dtype = "fp8" if row["dtype"].startswith("fp8") else "bf16"
        grouped = "grouped" in row["kernel"]
        labels = Labels(
            "DeepSeek-V3 profile",
            GPU,
            row["role"],
            "deepseek",
            "",
            dtype,
            "1 accelerator",
            "grouped" if grouped else "gemm",
            "A",
        )
        settings = (
            ("m", int(row["M"])),
            ("n", int(row["N"])),
            ("k", int(row["K"])),
            ("dtype", dtype),
            ("groups", 4 if grouped else 1),
            ("share", SM_SHARE),
            ("gpu", GPU),
        )
        measured = (Measurement("kernel", float(row["mean_us"]) * MICROSECOND, "seconds"),)
        assumed = (
            "peak and L2 in proportion to 112 of 132 multiprocessors",
            *(("4 experts per rank (256 over 64)",) if grouped else ()),
        )
        reading.cases.append(
            Case(name, path.name, "dev", labels, Subject("kernel", None, settings=settings), measured, assumed)
        )
    return reading


READERS: tuple[tuple[frozenset[str], Callable[[Sequence[Mapping[str, str]], Path], Reading]], ...] = (
    (KERNEL_COLUMNS, read_kernels),
)
"""Columns a table must have → its reader."""
