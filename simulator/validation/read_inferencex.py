"""InferenceX runs: end-to-end serving in a closed loop, one engine (``agg``) or prefill and decode apart
(``disagg``)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from simulator.validation.cases import Case, Measurement, Reading, Skipped
from simulator.validation.engines import MILLISECOND
from simulator.validation.hardware import UnknownHardwareError
from simulator.validation.inferencex_recipes import recipe
from simulator.validation.models import IncompleteError
from simulator.validation.read_serving import deployment_case

__all__ = ["COLUMNS", "read_runs"]

COLUMNS = frozenset(
    {
        "backend",
        "backend_version",
        "model_path",
        "system",
        "precision",
        "mode",
        "isl",
        "osl",
        "conc",
        "ttft_ms",
        "tpot_ms",
    }
)

MODELS = (
    (r"deepseek-(r1|v3)", "deepseek-v3"), (r"llama-3\.[13]-70b", "llama-3.1-70b"), (r"llama-3\.1-8b", "llama-3.1-8b"),
    (r"gpt-oss-120b", "gpt-oss-120b"), (r"gpt-oss-20b", "gpt-oss-20b"), (r"qwen3-235b", "qwen3-235b-a22b"),
    (r"kimi-k2", "kimi-k2"),
)  # fmt: skip
"""Paths of checkpoints → shipped models of the same dimensions."""

ROUNDS = 10
"""Requests per place of the closed loop, as InferenceX sends."""

RANGE = 0.8
"""Lengths are drawn between this share of the stated ones and the stated ones (``--random-range-ratio`` of
InferenceX)."""

WARMED = "2026-01-27"
"""Day from which the client sends requests before it measures (pull request 480, opened ten days before to be merged
then). Before, the first of the ten rounds pays for what an engine compiles when it is first called."""

COLD = (
    "first token grade C: no requests were sent to warm up an engine that compiles kernels when they are first called"
)

LARGEST = 4000
"""No more requests than this are simulated; high concurrencies then have fewer rounds, at least two."""


def read_runs(rows: Sequence[Mapping[str, str]], file: str) -> Reading:
    """Every run of the table."""
    reading = Reading()
    for row in rows:
        try:
            reading.cases.append(_case(row, file))
        except (IncompleteError, UnknownHardwareError) as error:
            reading.skipped.append(
                Skipped(row["id"], file, row.get("split") or "dev", "InferenceX", row["mode"], str(error))
            )
    return reading


def _case(row: Mapping[str, str], file: str) -> Case:
    model = next(
        (m for pattern, m in MODELS if re.search(pattern, row["model_path"].lower())),
        row["model_path"].split("/")[-1].lower(),
    )
    if row["mode"] != "agg":
        raise IncompleteError("prefill and decode apart: the number of workers is not stated (their columns are empty)")
    tp, dp = _degrees(row)
    concurrency = int(float(row["conc"]))
    launch = recipe(model, row["backend"], row, tp * dp, dp)
    version = row["backend_version"] or row.get("image", "")
    engine = f"{row['backend']} {version}" if row["backend_version"] or not launch.engine else launch.engine
    entry = {
        "id": row["id"], "split": row.get("split") or "dev", "source": "InferenceX", "model": model,
        "engine": engine, "gpu": row["system"], "n": tp * dp, "tp": tp, "dp": dp,
        "dtype": row["precision"], "options": "--enable-dp-attention" if dp > 1 else "",
        "ep": int(float(row.get("moe_ep_size") or 1)) if dp > 1 else 1,
    }  # fmt: skip
    count = max(concurrency * ROUNDS if concurrency * ROUNDS <= LARGEST else max(2 * concurrency, LARGEST), 8)
    settings = {
        "isl": float(row["isl"]),
        "osl": float(row["osl"]),
        "count": count,
        "range": RANGE,
        "concurrency": concurrency,
        "rate": 0.0,
    }
    cold = launch.compiles and (row.get("measured") or WARMED) < WARMED
    measured = (
        Measurement(
            "serving_ttft", float(row["ttft_ms"]) * MILLISECOND, "ttft_mean", "closed_loop", "C" if cold else ""
        ),
        Measurement("serving_tpot", float(row["tpot_ms"]) * MILLISECOND, "tpot_mean", "closed_loop"),
    )
    assumed = ["lengths uniform between 80 % of the stated ones and those", f"{count} requests", *launch.assumed]
    assumed += [words for words, holds in ((COLD, cold), (launch.doubt, launch.doubt)) if holds]
    sweep = "|".join(
        (
            row["model_path"],
            row["system"],
            row["precision"],
            row["mode"],
            row["isl"],
            row["osl"],
            row["conc"],
            row["backend"],
        )
    )
    return deployment_case(
        entry, None, file, "serving", measured, settings, assumed, grade="C" if launch.doubt else "A", sweep=sweep,
        launch=launch,
    )  # fmt: skip


def _degrees(row: Mapping[str, str]) -> tuple[int, int]:
    """Tensor-parallel degree and data-parallel degree of attention of one engine.

    The name of a run carries the degrees as launched (``tp8_ep8``); the columns multiply them with the experts'.
    """
    tp, data = (int(float(row.get(k) or 1)) for k in ("tp_size", "attention_dp_size"))
    if match := re.search(r"_tp(\d+)_ep(\d+|none)", row["id"]):
        launched = int(match[1])
        return (1, launched) if data > 1 and tp == 1 else (launched, 1)
    return tp, data
