"""Measured training steps: the operations of every rank with their times (ByteDance straggler analysis, OSDI'25).

A trace is a Parquet file ``trace-NAME.parquet`` beside ``result-NAME.json`` with the measured length of each step and
the length of the authors' own replay of it.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from simulator.validation.cases import Case, Labels, Measurement, Reading, Skipped, Subject
from simulator.validation.labels import scale_label

__all__ = ["is_step_trace", "read_columns", "read_steps"]

COLUMNS = ("dp_rank", "stage", "step", "optype", "start_ts", "duration", "seq_id", "mb_id")

SOURCE = "ByteDance straggler analysis"


def is_step_trace(path: Path) -> bool:
    """Whether a Parquet file has its step times beside it."""
    return path.name.startswith("trace-") and _result_file(path) is not None


def _result_file(path: Path) -> Path | None:
    stem = path.stem.replace("trace-", "result-", 1)
    found = (path.with_name(stem + ending) for ending in (".json", ".json.gz"))
    return next((p for p in found if p.is_file()), None)


@lru_cache(4)
def read_columns(path: str) -> Mapping[str, np.ndarray[Any, Any]]:
    """Columns of a trace.

    Raises
    ------
    ModuleNotFoundError
        Without pyarrow.
    """
    import pyarrow.parquet as parquet

    table = parquet.read_table(path, columns=list(COLUMNS))
    return {name: table.column(name).to_numpy(zero_copy_only=False) for name in COLUMNS}


def read_steps(path: Path) -> Reading:
    """One case per step: its measured length, and the length of the authors' own replay of its operations."""
    name = path.stem.removeprefix("trace-")
    try:
        columns = read_columns(str(path))
    except ModuleNotFoundError:
        reason = "reading Parquet needs pyarrow: pip install 'fmsim[parquet]'"
        return Reading(skipped=[Skipped(name, path.name, "dev", SOURCE, "steps", reason)])
    result = _result_file(path)
    assert result is not None, "is_step_trace was asked first"
    raw = gzip.decompress(result.read_bytes()) if result.suffix == ".gz" else result.read_bytes()
    published = json.loads(raw)
    meta = published["job_meta"]
    sizes = {
        short: int(meta[f"{long}_size"]) for short, long in (("tp", "tp"), ("cp", "dsp"), ("pp", "pp"), ("dp", "dp"))
    }
    accelerators = int(np.prod(list(sizes.values())))
    labels = Labels(
        SOURCE, "undisclosed", "undisclosed", "", "megatron-like", "", scale_label(accelerators, 8),
        "+".join(axis for axis, size in sizes.items() if size > 1), "A",
    )  # fmt: skip
    reading = Reading()
    for step in sorted({int(s) for s in columns["step"]}):
        measured = (
            Measurement("step_replay", float(published["step_t_base"][str(step)]), "step"),
            Measurement("step_replay", float(published["step_t_nodelay"][str(step)]), "operations"),
        )
        subject = Subject("step", None, settings=(("trace", str(path)), ("step", step)))
        reading.cases.append(Case(f"{name}:step {step}", path.name, "dev", labels, subject, measured, ASSUMED))
    measured_slow_down = (Measurement("straggler", float(published["blocking_slowdown"]), "slow_down"),)
    subject = Subject("slow_down", None, settings=(("trace", str(path)),))
    reading.cases.append(Case(f"{name}:slow-down", path.name, "dev", labels, subject, measured_slow_down, EVEN))
    return reading


EVEN = ("without stragglers computing takes the mean of all ranks, and nobody waits for peers",)
ASSUMED = ("1F1B with blocking sends", "no host time between operations")
