"""InferenceX runs: end-to-end serving in a closed loop, one engine (``agg``) or prefill and decode apart
(``disagg``)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from simulator.validation.cases import Case, Measurement, Reading, Skipped
from simulator.validation.engines import MILLISECOND
from simulator.validation.inferencex_recipes import PLAIN, Recipe, recipe
from simulator.validation.model_names import shipped_name
from simulator.validation.models import IncompleteError
from simulator.validation.pool_runs import in_pools
from simulator.validation.read_serving import deployment_case
from simulator.validation.records import amount, read_each, whole

__all__ = ["COLUMNS", "read_runs"]

SOURCE = "InferenceX"

Row = Mapping[str, str]

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

    def skipped(numbered: tuple[int, Row], reason: str) -> Skipped:
        index, row = numbered
        name = row.get("id") or f"{file}:{index + 2}"
        return Skipped(name, file, row.get("split") or "dev", SOURCE, row.get("mode", ""), reason)

    def make(numbered: tuple[int, Row]) -> Case:
        index, row = numbered
        return _case({**row, "id": row.get("id") or f"{file}:{index + 2}"}, file)

    read_each(reading, enumerate(rows), make, skipped)
    return reading


@dataclass(frozen=True)
class _Engine:
    """Degrees of one engine of a run and how many there are; ``stage``: prefix of its columns."""

    stage: str
    tp: int
    pp: int
    dp: int
    ep: int
    workers: int = 1

    @property
    def ranks(self) -> int:
        """Accelerators of one engine."""
        return self.tp * self.pp * self.dp


def _case(row: Row, file: str) -> Case:
    if missing := [n for n in ("backend", "model_path", "system", "precision", "mode") if not row[n]]:
        raise IncompleteError(f"{', '.join(missing)} not stated")
    engines = _engines(row)
    model = shipped_name(row["model_path"]) or row["model_path"]
    isl, osl, concurrency = whole(row, "isl", "osl", "conc")
    count = max(concurrency * ROUNDS if concurrency * ROUNDS <= LARGEST else max(2 * concurrency, LARGEST), 8)
    settings = {
        "isl": float(isl), "osl": float(osl), "count": count, "range": RANGE, "concurrency": concurrency, "rate": 0.0,
    }  # fmt: skip
    cases = [_engine_case(row, file, model, engine, settings) for engine in engines]
    last, launch = cases[-1]
    cold = launch.compiles and (row.get("measured") or WARMED) < WARMED
    measured = _figures(row, cold)
    assumed = ["lengths uniform between 80 % of the stated ones and those", f"{count} requests", *launch.assumed]
    assumed += [words for words, holds in ((COLD, cold), (launch.doubt, launch.doubt)) if holds]
    case = replace(last, measured=measured, assumed=(*assumed, *last.assumed))
    return case if len(cases) == 1 else in_pools(cases[0][0], case)


def _figures(row: Row, cold: bool) -> tuple[Measurement, ...]:
    """Published means that are there.

    Raises
    ------
    IncompleteError
        If one is no time, or none is there.
    """
    found = []
    if row["ttft_ms"]:
        first = amount(row, "ttft_ms") * MILLISECOND
        found.append(Measurement("serving_ttft", first, "ttft_mean", "closed_loop", "C" if cold else ""))
    if row["tpot_ms"]:
        found.append(Measurement("serving_tpot", amount(row, "tpot_ms") * MILLISECOND, "tpot_mean", "closed_loop"))
    if not found:
        raise IncompleteError("neither a time to first token nor a time per token is stated")
    return tuple(found)


def _engine_case(
    row: Row, file: str, model: str, engine: _Engine, settings: Mapping[str, object]
) -> tuple[Case, Recipe]:
    """The deployment of one kind of engine, without figures."""
    # The scripts that were read launch one engine; of prompts and tokens apart none was.
    launch = PLAIN if engine.stage else recipe(model, row["backend"], row, engine.ranks, engine.dp)
    words = _engine_words(row) if row.get("backend_version") or not launch.engine else launch.engine
    entry = {
        "id": row["id"], "split": row.get("split") or "dev", "source": SOURCE, "model": model, "engine": words,
        "gpu": row["system"], "n": engine.ranks * engine.workers, "tp": engine.tp, "pp": engine.pp, "dp": engine.dp,
        "dtype": row["precision"], "options": "--enable-dp-attention" if engine.dp > 1 else "",
        "ep": engine.ep if engine.dp > 1 else 1,
    }  # fmt: skip
    keys = ("model_path", "system", "precision", "mode", "isl", "osl", "conc", "backend")
    case = deployment_case(
        entry, None, file, "serving", (), settings, [], grade="C" if launch.doubt else "A",
        sweep="|".join(row[k] for k in keys), launch=launch,
    )  # fmt: skip
    return case, launch


DYNAMO = {
    "0.6": "1.1.0rc5", "0.7": "1.2.0rc3", "0.8": "1.2.0rc6", "0.9": "1.3.0rc1", "1.0": "1.3.0rc5", "1.1": "1.3.0rc11",
    "1.2": "1.3.0rc14", "1.3": "1.3.0rc19",
}  # fmt: skip
"""Release of Dynamo → TensorRT-LLM in its image (docs.nvidia.com/dynamo/resources/support-matrix)."""


def _engine_words(row: Row) -> str:
    """Engine and version; an image of Dynamo is tagged with Dynamo's version, not with the engine's."""
    version, image = row.get("backend_version") or row.get("image", ""), row.get("image", "")
    if tag := re.search(r"ai-dynamo/tensorrtllm-runtime:(\d+\.\d+)", image):
        version = DYNAMO.get(tag[1], version)
    return f"{row['backend']} {version}"


def _engines(row: Row) -> list[_Engine]:
    """The engine of an aggregated run; those for prompts and for tokens of a disaggregated one.

    Raises
    ------
    IncompleteError
        If a disaggregated run does not say how many engines there are of each.
    """
    if row["mode"] == "agg":
        (tp, dp), (pp, ep) = _degrees(row), whole(row, "pp_size", "moe_ep_size", default=1)
        return [_Engine("", tp, pp, dp, ep)]
    if row["mode"] != "disagg":
        raise IncompleteError(f"mode '{row['mode']}' is neither 'agg' nor 'disagg'")
    stages = ("prefill", "decode")
    if any(not row.get(f"{stage}_num_workers") for stage in stages):
        raise IncompleteError("prefill and decode apart: the number of workers is not stated (their columns are empty)")
    found = []
    for stage in stages:
        tp, workers = whole(row, f"{stage}_tp_size", f"{stage}_num_workers")
        names = (f"{stage}_{what}_size" for what in ("pp", "attention_dp", "moe_ep"))
        pp, dp, ep = whole(row, *names, default=1)
        found.append(_Engine(stage, tp, pp, dp, ep, workers))
    return found


def _degrees(row: Row) -> tuple[int, int]:
    """Tensor-parallel degree and data-parallel degree of attention of one engine.

    The name of a run carries the degrees as launched (``tp8_ep8``); the columns multiply them with the experts'.
    """
    tp, data = whole(row, "tp_size", "attention_dp_size", default=1)
    if match := re.search(r"_tp(\d+)_(?:\d+_)?ep(\d+|none)", row["id"]):
        launched = int(match[1])
        return (1, launched) if data > 1 and tp == 1 else (launched, 1)
    return tp, data
