"""Published serving measurements: a YAML mapping with ``models`` and ``entries``.

Which figures of an entry can be predicted depends on its kind of workload; the others, and everything that needs what
the entry does not state, are listed with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from simulator.validation.cases import Case, Labels, Measurement, Reading, Skipped, Subject
from simulator.validation.engines import MILLISECOND, engine_of, launch_options, precision_of_weights, served_model
from simulator.validation.hardware import cluster_of
from simulator.validation.inferencex_recipes import PLAIN, Recipe
from simulator.validation.labels import degree_label, scale_label, strategy_label
from simulator.validation.loads import LOADED, idle_clients, load_of, number
from simulator.validation.models import IncompleteError
from simulator.validation.offload_runs import block_case
from simulator.validation.production_runs import production_figures, production_recipe
from simulator.validation.published_doubts import doubts_of, page_doubt
from simulator.validation.published_launches import CHAT_SOURCES, as_launched
from simulator.validation.records import read_each, sections, stated, whole
from simulator.validation.rocm_recipes import rocm_launch
from simulator.workload.jobs import Deployment
from simulator.workload.model import ModelSpec
from simulator.workload.plan import Plan
from simulator.workload.requests.provenance import TraceProvenance
from simulator.workload.requests.table import RequestTable
from simulator.workload.static_memory import by_static_rule

__all__ = ["deployment_case", "read_serving_file", "single_request"]

SECONDS = {
    "ttft_ms_mean": ("serving_ttft", "ttft_mean"),
    "ttft_ms_p50": ("serving_ttft", "ttft_median"),
    "tpot_ms_mean": ("serving_tpot", "tpot_mean"),
    "tpot_ms_p50": ("serving_tpot", "tpot_median"),
    "duration_s": ("serving_latency", "duration"),
    "prompt_ms": ("serving_ttft", "prefill"),
    "token_ms": ("serving_tpot", "token"),
    "e2e_ms": ("serving_latency", "e2e"),
    "ms_per_token_p50": ("serving_tpot", "token"),
}
"""Published times → kind and which figure of the prediction."""

RATES = {
    "out_tps": "output_tokens_per_s", "total_tps": "total_tokens_per_s", "total_or_out_tps": "output_tokens_per_s",
    "prefill_tps": "prefill_tokens_per_s", "decode_tps": "decode_tokens_per_s",
}  # fmt: skip
"""Published throughputs [tokens/s] → which figure. ``total_or_out_tps`` of ROCm's page can only be generated tokens:
with prompts counted, full load would generate fewer tokens per second than the page's own batches of 128 (3,780 against
5,003 for Llama-3.1-70B with 2,048 and 2,048 tokens, 1,087 against 2,089 for 405B)."""

POWER = {"peak_power_frac_tdp": "power_peak", "avg_power_frac_tdp": "power_mean"}
"""Published draws of an accelerator over its rating → which figure."""

COPIED_FIGURES = 5
"""So many figures of a run are never equal by chance."""

STOPPED_SHARE = 0.9
"""An end-to-end time below this share of prompt + tokens · time per token means that the model ended its text early."""

PREFILL_POINTS = (128, 512, 2048)
DECODE_POINTS = ((1, 512), (16, 512), (128, 512))
"""Where a published latency fit is compared: prompt lengths; (batch, context of each)."""


def read_serving_file(data: Mapping[str, Any], file: str) -> Reading:
    """Every entry of the file."""
    reading, entries, models = Reading(), data["entries"] or (), data["models"] or {}
    copied = _copied([e for e in entries if isinstance(e, Mapping)])

    def make(entry: Mapping[str, Any]) -> Case:
        sections(entry, ("workload", "metrics"))
        if not stated(entry.get("id")):
            raise IncompleteError("id not stated")
        case = _entry_case({"source": file, **entry}, models, file)
        if case.id in copied:
            case = _doubtful(case, f"the same figures as {copied[case.id]} on another accelerator")
        if doubt := page_doubt(case.labels.source, str(entry["model"])) or idle_clients(entry):
            case = _doubtful(case, doubt)
        return _contradicted(case)

    def skipped(entry: object, reason: str) -> Skipped:
        known = entry if isinstance(entry, Mapping) else {}
        workload = known.get("workload")
        kind = workload.get("kind") if isinstance(workload, Mapping) else None
        words = (str(known.get("id")), file, str(known.get("split", "")), str(known.get("source", file)), str(kind))
        return Skipped(*words, reason)

    read_each(reading, entries, make, skipped)
    return reading


def _copied(entries: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Entries whose figures another entry of the source has to the last digit on another accelerator: one of the two
    is a copy. Id → the others."""
    same: dict[tuple[object, ...], list[Mapping[str, Any]]] = {}
    for entry in entries:
        metrics = entry.get("metrics")
        figures = tuple(sorted((k, str(v)) for k, v in metrics.items())) if isinstance(metrics, Mapping) else ()
        if len(figures) >= COPIED_FIGURES:
            same.setdefault((str(entry.get("source")), figures), []).append(entry)
    found: dict[str, str] = {}
    for alike in same.values():
        if len({str(entry.get("gpu")) for entry in alike}) > 1:
            found |= {str(e.get("id")): ", ".join(str(o.get("id")) for o in alike if o is not e) for e in alike}
    return found


def _doubtful(case: Case, reason: str) -> Case:
    return replace(case, labels=replace(case.labels, grade="C"), assumed=(*case.assumed, f"grade C: {reason}"))


def _contradicted(case: Case) -> Case:
    """The case with figures that its own source contradicts as grade C."""
    doubts = {RATES[figure]: reason for figure, reason in doubts_of(case.id).items()}
    if not doubts:
        return case
    measured = tuple(replace(m, grade="C") if m.quantity in doubts else m for m in case.measured)
    words = (f"{quantity} of grade C: {reason}" for quantity, reason in doubts.items())
    return replace(case, measured=measured, assumed=(*case.assumed, *words))


def _entry_case(entry: Mapping[str, Any], models: Mapping[str, Any], file: str) -> Case:
    if "do not use" in str(entry.get("note", "")):
        raise IncompleteError("page heading and command name different models")
    told = entry.get("gpu")
    entry, mended = as_launched(entry)
    if missing := [key for key in ("model", "gpu", "engine", "dtype") if not stated(entry.get(key))]:
        raise IncompleteError(f"{', '.join(missing)} not stated")
    if not stated(entry.get("n")):
        raise IncompleteError("number of accelerators not stated")
    degrees = ("n", "tp", "pp", "dp", "ep")
    entry = {**entry, **dict(zip(degrees, whole(entry, *degrees, default=0), strict=True))}
    # A card told from the run's own figures cannot be scored by them.
    grade = _grade(str(entry.get("verified", ""))) if entry["gpu"] == told else "C"
    if (planned := block_case(entry, file, grade)) is not None:
        return planned
    workload, kind = entry["workload"], str(entry["workload"].get("kind"))
    if kind == "production_mix":
        figures, settings = production_figures(entry)
        launch = production_recipe(entry)
        return deployment_case(
            entry, models.get(entry["model"]), file, "production", figures, settings, list(launch.assumed),
            grade=grade, launch=launch,
        )  # fmt: skip
    measured, settings, runner, assumed = _what(entry, kind, workload)
    launch, count = rocm_launch(entry)
    if count:
        settings["count"], assumed = count, [a for a in assumed if "requests" not in a]
    if not measured:
        raise IncompleteError("no figure that a simulation gives (ratios, claims, inputs)")
    return deployment_case(
        entry,
        models.get(entry["model"]),
        file,
        runner,
        measured,
        settings,
        [*assumed, *mended],
        grade=grade,
        launch=launch,
    )


def _grade(verified: str) -> str:
    return "A" if verified.startswith("url") else "B" if "high" in verified else "C"


def _what(
    entry: Mapping[str, Any], kind: str, workload: Mapping[str, Any]
) -> tuple[tuple[Measurement, ...], dict[str, Any], str, list[str]]:
    """Figures to compare, settings of the run, its runner and what was assumed."""
    if kind in LOADED:
        kind, settings, assumed = load_of(kind, entry)
        return _figures(entry, kind), settings, "serving", assumed
    if kind == "static_batch":
        lengths = {k: number(workload, k) for k in ("batch", "isl", "osl")}
        if missing := [k for k, v in lengths.items() if not v]:
            raise IncompleteError(f"{', '.join(missing)} not stated")
        return _figures(entry, kind), lengths, "static_batch", []
    if kind == "latency_fit":
        measured, points = _fit_figures(entry["metrics"])
        return measured, {"points": points}, "static_batch", []
    if kind == "capacity" and entry["metrics"].get("kv_slots"):
        return (Measurement("serving_capacity", float(entry["metrics"]["kv_slots"]), "kv_tokens"),), {}, "capacity", []
    raise IncompleteError(f"workload '{kind}' does not state a load that can be run")


def _figures(entry: Mapping[str, Any], load: str) -> tuple[Measurement, ...]:
    found = []
    for key, value in entry["metrics"].items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            continue
        if key == "e2e_ms" and _stopped_early(entry):
            continue
        if key in SECONDS:
            kind, quantity = SECONDS[key]
            unit = MILLISECOND if "_ms" in key or key.startswith("ms_") else 1.0
            found.append(Measurement(kind, float(value) * unit, quantity, load))  # type: ignore[arg-type]
        elif key in RATES:
            found.append(Measurement("serving_throughput", float(value), RATES[key], load))
        elif key in POWER and load == "static_batch":
            found.append(Measurement("power", float(value), POWER[key], load))
    return tuple(found)


def _stopped_early(entry: Mapping[str, Any]) -> bool:
    """Whether the end-to-end time is shorter than the entry's own prompt and token times allow: not all was
    generated."""
    metrics, tokens = entry["metrics"], float(entry["workload"].get("osl") or 0)
    if not (metrics.get("prompt_ms") and metrics.get("token_ms")):
        return False
    whole = metrics["prompt_ms"] + (tokens - 1) * metrics["token_ms"]
    return bool(metrics["e2e_ms"] < STOPPED_SHARE * whole)


def _fit_figures(metrics: Mapping[str, Any]) -> tuple[tuple[Measurement, ...], tuple[tuple[str, int, int], ...]]:
    """The published closed form at a few points."""
    found, points = [], []
    a, b, c = metrics["prefill_ms_abc"]
    for length in PREFILL_POINTS:
        found.append(
            Measurement("serving_ttft", (a + b * length + c * length**2) * MILLISECOND, f"prefill_1x{length}", "alone")
        )
        points.append(("prefill", 1, length))
    for batch, context in DECODE_POINTS:
        small = batch < metrics.get("bs_threshold", 0)
        a, b, c = metrics["decode_small_bs_ms_abc" if small else "decode_large_bs_ms_abc"]
        seconds = (a + b * batch * context + c * batch) * MILLISECOND
        found.append(Measurement("serving_tpot", seconds, f"decode_{batch}x{context}", "static_batch"))
        points.append(("decode", batch, context))
    return tuple(found), tuple(points)


def single_request() -> RequestTable:
    """A single request: the runner replaces it by the load that the settings describe."""
    one = np.ones(1, dtype=np.int32)
    return RequestTable(np.zeros(1), one, one, "load of the record", TraceProvenance("record", "record", 1, 1))


def deployment_case(
    entry: Mapping[str, Any], dims: dict[str, object] | None, file: str, runner: str, measured: tuple[Measurement, ...],
    settings: Mapping[str, Any], assumed: list[str], *, grade: str = "A", sweep: str = "",
    launch: Recipe = PLAIN,
) -> Case:  # fmt: skip
    """A case of one deployment from an entry with model, engine, gpu, n, dtype, tp, pp, dp, ep and options."""
    model = served_model(str(entry["model"]), dims, str(entry.get("model_variant") or ""))
    framework, about_engine = engine_of(_engine_words(entry))
    stated = precision_of_weights(str(entry["dtype"]))
    precision = launch.precision or stated
    options = launch_options(str(entry.get("options") or ""))
    cluster, about = cluster_of(str(entry["gpu"]), int(entry["n"]))
    device = cluster.groups[0].node.accelerator
    plan, replicas, about_plan = _layout(entry, precision, str(entry.get("options") or ""), model)
    framework = framework.on(device.name, device.memory_capacity)
    if launch.captured:
        framework = replace(framework, cuda_graph_max_sequences=0)
    if launch.expert_kernels:
        framework = replace(framework, expert_kernels=launch.expert_kernels)
    if launch.replayed:
        framework = replace(framework, cuda_graph_batches="all", cuda_graph_max_tokens=launch.replayed)
    framework = by_static_rule(framework, device.memory_usable, plan, int(options.get("max_num_batched_tokens", 0)))
    deployment = Deployment(
        str(entry["id"]), model, framework, plan, single_request(), replicas=replicas, batching=framework.batching,
        kv_cache=framework.kv_cache, endpoint="chat" if entry["source"] in CHAT_SOURCES else "completions",
        max_num_batched_tokens=int(options.get("max_num_batched_tokens", framework.max_num_batched_tokens)),
        max_num_seqs=int(options.get("max_num_seqs", framework.max_num_seqs)),
        max_model_len=int(options.get("max_model_len", 0)), block_size=framework.block_size,
        memory_utilization=float(options.get("memory_utilization", framework.memory_utilization)),
        kv_dtype=str(options.get("kv_dtype", "bf16")),
    )  # fmt: skip
    deployment = replace(deployment, **dict(launch.fields), options=launch.options)  # type: ignore[arg-type]
    deployment, about_budget = _with_room(deployment, settings) if runner == "serving" else (deployment, [])
    labels = Labels(
        str(entry["source"]), str(entry["gpu"]), model.name, model.family, framework.name, stated,
        scale_label(int(entry["n"]), cluster.groups[0].node.accelerators), strategy_label(plan), grade, sweep,
        degree=degree_label(plan), setting=_setting(settings, launch),
    )  # fmt: skip
    subject = Subject(runner, cluster, None, deployment, tuple(sorted(settings.items())))
    words = (
        *assumed,
        *about_engine,
        *about_plan,
        *about_budget,
        *about,
        *([] if "kv_dtype" in {**options, **launch.fields} else ["KV cache in 16 bits"]),
    )
    return Case(str(entry["id"]), file, str(entry.get("split", "")), labels, subject, measured, words)


WHOLE_PROMPTS = ("prefill-first", "in-flight")
"""Ways of batching that do not cut prompts."""


def _with_room(deployment: Deployment, settings: Mapping[str, Any]) -> tuple[Deployment, list[str]]:
    """The deployment with a token budget for the stated prompts, where its engine does not cut them.

    An engine that refuses the prompts of a load was not launched so; vLLM before chunked prefill takes the context of
    the model as its budget (``SchedulerConfig`` of 0.2 to 0.6).
    """
    prompt = math.ceil(float(settings.get("isl") or 0))
    whole = dict(deployment.options).get("batching")
    name = dict(whole).get("base", deployment.batching) if isinstance(whole, tuple) else deployment.batching
    if name not in WHOLE_PROMPTS or prompt <= deployment.max_num_batched_tokens:
        return deployment, []
    return replace(deployment, max_num_batched_tokens=prompt), [f"a budget of {prompt} tokens, for whole prompts"]


YEARS = {"vllm_paper": "2023"}
"""Years of the papers among the sources: the version of an engine that a record names without one."""


def _engine_words(entry: Mapping[str, Any]) -> str:
    words = str(entry["engine"])
    if "--async-scheduling" in str(entry.get("options") or "") and "async" not in words:
        words = f"{words} --async-scheduling"
    year = YEARS.get(str(entry["source"]), "")
    return words if any(c.isdigit() for c in words) or not year else f"{words} {year}"


def _setting(settings: Mapping[str, Any], launch: Recipe) -> str:
    """What the run was asked: the load, and whether tokens were drafted."""
    drafts = dict(launch.options).get("speculation", "")
    return " ".join([*(f"{k}={v}" for k, v in sorted(settings.items()) if k != "points"), str(drafts)]).strip()


def _layout(
    entry: Mapping[str, Any], precision: str, options: str, model: ModelSpec
) -> tuple[Plan, int, list[str]]:  # fmt: skip
    """Plan of one replica and number of replicas; data parallelism of a model without experts is replicas."""
    devices, assumed = int(entry["n"]), list[str]()
    pp, dp = int(entry.get("pp") or 1), int(entry.get("dp") or 1)
    if "layer split" in str(entry["engine"]):
        return Plan(pipeline_parallel=devices, precision=precision), 1, ["the layers are split: a pipeline"]
    ep = int(entry.get("ep") or 1)
    experts = any(layer.mlp is not None and layer.mlp.num_experts for layer, _ in model.layers)
    if experts and dp > 1 and ("dp-attention" in options or ep > 1 or "expert-parallel" in options):
        ranks = max(dp, int(entry.get("tp") or 1))
        if devices % (ranks * pp):
            raise IncompleteError(f"data-parallel attention over {ranks} of {devices} accelerators")
        whole = ep > 1 or "expert-parallel" in options
        assumed.append(f"data-parallel attention, experts {'whole' if whole else 'in slices'} over the {ranks} ranks")
        plan = Plan(
            data_parallel=ranks, expert_parallel=ranks, pipeline_parallel=pp, precision=precision,
            options=() if whole else (("expert", "gathered-slices"),),
        )  # fmt: skip
        return plan, devices // (ranks * pp), assumed
    tp = int(entry.get("tp") or 0)
    if not tp:
        tp = devices // (pp * dp)
        assumed.append(f"tensor parallel {tp}")
    if ep > 1:
        assumed.append("experts over the tensor-parallel ranks: as slices of every expert")
    if tp * pp * dp > devices and devices % (pp * dp) == 0:  # cores of one chip counted as ranks
        tp = devices // (pp * dp)
        assumed.append(f"tensor parallel {tp}: one rank per chip")
    return Plan(tensor_parallel=tp, pipeline_parallel=pp, precision=precision), max(1, devices // (tp * pp)), assumed
