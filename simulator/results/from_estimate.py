"""Tables of one Estimate: summary row, waterfall, memory, traffic and the constants it rests on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from simulator.constants import Constant
from simulator.results.estimate import Estimate
from simulator.results.memory_error import fits_chance, peak_interval
from simulator.results.metrics import samples_per_second, tokens_per_second_per_gpu
from simulator.results.tables import Columns, columns_from_rows

__all__ = ["estimate_tables", "share_columns"]

_SAME = {
    "step_time": ("seconds", 1.0),
    "tokens_per_s_per_accelerator": ("tokens_per_s_per_gpu", 1.0),
    "model_tflops_per_accelerator": ("model_flops_per_s_per_gpu", 1e12),
    "peak_memory": ("memory_peak", 1.0),
}
"""Metrics of an estimate that are a column of the summary under its name and SI unit."""

_TRUSTS = ("measured", "fitted", "borrowed", "datasheet", "assumed")


def estimate_tables(
    workload: str,
    estimate: Estimate,
    *,
    plan: str = "",
    accelerators: int = 0,
    steps: int = 1,
    tokens: float = 0.0,
    samples: int = 0,
    kind: Literal["training", "serving"] = "training",
) -> dict[str, Columns]:
    """The tables of a training job.

    Parameters
    ----------
    workload, plan, accelerators, steps
        Of the job; ``plan`` in short form.
    tokens, samples
        Of one step.
    kind
        Of a training step, or of an iteration of a serving engine.

    Notes
    -----
    ``estimate.details`` may hold finished tables under the names ``ops``, ``steps``, ``resources`` and ``events``
    (without the workload column), and ``constants``: id → :class:`~simulator.constants.Constant`.
    """
    tables: dict[str, Columns] = {
        "summary": columns_from_rows([_summary(workload, estimate, kind, plan, accelerators, steps, tokens, samples)]),
        "time": columns_from_rows(_time(workload, estimate)),
        "memory": columns_from_rows(_memory(workload, estimate)),
        "traffic": columns_from_rows(
            {"workload": workload, "link": link, "bytes": float(size)}
            for link, size in estimate.traffic.by_link.items()
        ),
        "sources": columns_from_rows(_sources(workload, estimate, _constants(estimate))),
    }
    for name in ("ops", "steps", "resources", "events"):
        columns = estimate.details.get(name)
        if isinstance(columns, Mapping) and columns:
            length = len(next(iter(columns.values())))
            tables[name] = {"workload": [workload] * length, **columns}
    return {name: columns for name, columns in tables.items() if columns}


def _summary(
    workload: str, estimate: Estimate, kind: str, plan: str, accelerators: int, steps: int, tokens: float, samples: int
) -> dict[str, Any]:
    seconds, interval = float(estimate.seconds), estimate.interval
    per_job: dict[str, Any] = {
        "steps": steps,
        "training_seconds": steps * seconds,
        "tokens_per_s": tokens / seconds if seconds else math.nan,
        "tokens_per_s_per_gpu": tokens_per_second_per_gpu(tokens, seconds, accelerators),
        "samples_per_s": samples_per_second(samples, seconds),
    }
    row: dict[str, Any] = {
        "workload": workload,
        "kind": kind,
        "depth": estimate.depth,
        "feasible": estimate.feasible,
        "reason": estimate.reason,
        "plan": plan,
        "accelerators": accelerators,
        "seconds": seconds,
        "seconds_low": math.nan if interval is None else float(interval.low),
        "seconds_high": math.nan if interval is None else float(interval.high),
        "floor_seconds": float(estimate.floor),
        **(per_job if kind == "training" else {}),
    }
    for name, value in estimate.metrics.items():
        column, factor = _SAME.get(name, (name, 1.0))
        row.setdefault(column, factor * float(value))
    if estimate.memory.stages:
        fullest = estimate.memory.fullest
        row |= {"memory_peak": float(fullest.peak), "memory_capacity": float(fullest.capacity)}
        if kind == "training":
            low, high = peak_interval(fullest.peak)
            chance = fits_chance(fullest.peak, fullest.capacity)
            row |= {"memory_peak_low": low, "memory_peak_high": high, "memory_fits_chance": chance}
    return row | share_columns(estimate)


def share_columns(estimate: Estimate) -> dict[str, float]:
    """Columns of the time by trust of the constants behind it; none where that is not known."""
    return {f"share_{trust}": float(estimate.shares.get(trust, 0.0)) for trust in _TRUSTS if estimate.shares}


def _constants(estimate: Estimate) -> Mapping[str, Constant]:
    """What the estimate was priced with, by id: given, or those of the executor that is kept for plots."""
    given: Mapping[str, Constant] | None = estimate.details.get("constants")
    if given is not None:
        return given
    kept = getattr(estimate.details.get("pipeline"), "constants", None)
    entries: Mapping[str, Constant] = getattr(kept, "entries", {})
    return entries


def _time(workload: str, estimate: Estimate) -> list[dict[str, Any]]:
    total = estimate.time.total
    return [
        {"workload": workload, "part": part, "seconds": float(seconds), "share": seconds / total if total else math.nan}
        for part, seconds in estimate.time.parts.items()
    ]


def _memory(workload: str, estimate: Estimate) -> list[dict[str, Any]]:
    return [
        {
            "workload": workload, "stage": stage.stage, "tier": str(stage.tier), "class": str(kind),
            "bytes": float(size), "capacity": float(stage.capacity), "fits": bool(stage.fits),
        }
        for stage in estimate.memory.stages
        for kind, size in stage.by_class.items()
    ]  # fmt: skip


def _sources(workload: str, estimate: Estimate, known: Mapping[str, Constant]) -> list[dict[str, Any]]:
    """Constants by falling influence; those without influence last."""
    moved: Mapping[str, float] = estimate.interval.sensitivity if estimate.interval is not None else {}
    ids = sorted({*moved, *known}, key=lambda i: (-abs(moved.get(i, 0.0)), i))
    rows = []
    for identity in ids:
        constant = known.get(identity)
        rows.append(
            {
                "workload": workload,
                "constant": identity,
                "value": math.nan if constant is None else float(constant.value),
                "unit": "" if constant is None else constant.unit,
                "sigma": math.nan if constant is None else float(constant.sigma),
                "trust": "" if constant is None else str(constant.trust),
                "sensitivity": float(moved.get(identity, 0.0)),
                "source": "" if constant is None else constant.source,
            }
        )
    return rows
