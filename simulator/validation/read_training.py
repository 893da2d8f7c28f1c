"""Published training runs: the ``runs``, ``layer_times``, ``bubble_rates`` and ``memory_points`` of a measurements
file.

Recognised by its keys: a YAML mapping with ``runs``. Every other section is listed with the reason why it is not run.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from simulator.units import parse_quantity
from simulator.validation.cases import Case, Labels, Measurement, Reading, Skipped, Subject
from simulator.validation.hardware import cluster_of
from simulator.validation.labels import scale_label, strategy_label
from simulator.validation.models import IncompleteError, dims_in_words, trained_model
from simulator.validation.plans import SCHEDULES, framework_of, plan_of, precision_of
from simulator.validation.read_cluster import CLUSTER_SECTIONS
from simulator.validation.read_power import power_case
from simulator.validation.records import amount, read_each, sections, stated, whole
from simulator.validation.training_launches import with_launch_options
from simulator.workload.jobs import Batch, TrainingJob

__all__ = ["read_training_file", "training_case"]

GIB = parse_quantity("1 GiB", "data")

OTHER_SECTIONS = {
    "gpu_hours": "GPU hours include restarts and ablations: a bound, not a measurement of a step",
    "offload_bandwidth": "a link's bandwidth, held by the hardware profile",
    "relative_claims": "a claim in words; the strategy that it is about carries it",
    "incomplete": "the source does not state layout or batch",
}
"""Sections that are read and listed but not simulated, and why."""

MEMORY_KEYS = (
    ("memory_alloc_gib", "allocated", GIB), ("memory_reserved_gib", "reserved", GIB), ("memory_gib", "reserved", GIB),
    ("memory_alloc_gb", "allocated", 1e9), ("memory_reserved_gb", "reserved", 1e9), ("memory_gb", "allocated", 1e9),
)  # fmt: skip
"""Keys of published memory → what the number counts → unit. ``memory_gb`` is the framework's peak, or the device's
where the notes say nvidia-smi."""


def read_training_file(data: Mapping[str, Any], file: str) -> Reading:
    """Every record of a measurements file."""
    reading = Reading()
    sections: tuple[tuple[str, Callable[[Mapping[str, Any], str], Case]], ...] = (
        ("runs", training_case),
        ("layer_times", _layer_case),
        ("bubble_rates", _bubble_case),
        ("memory_points", _memory_case),
        *CLUSTER_SECTIONS,
        ("power", power_case),
    )
    for section, make in sections:
        read_each(reading, data.get(section) or (), partial(_made, make, file), partial(_skipped, file, section))
    for section, why in OTHER_SECTIONS.items():
        reading.skipped += [_skipped(file, section, r, why) for r in data.get(section) or ()]
    return reading


def _made(make: Callable[[Mapping[str, Any], str], Case], file: str, record: Mapping[str, Any]) -> Case:
    sections(record, ())
    if not stated(record.get("id")):
        raise IncompleteError("id not stated")
    return make(record if record.get("source") is not None else {**record, "source": file}, file)


def _skipped(file: str, section: str, record: object, reason: str) -> Skipped:
    known = record if isinstance(record, Mapping) else {}
    return Skipped(str(known.get("id")), file, str(known.get("split", "")), _source(known), section, reason)


def _source(record: Mapping[str, Any]) -> str:
    source = record.get("source")
    return str(source.get("name") if isinstance(source, Mapping) else source)


def training_case(record: Mapping[str, Any], file: str) -> Case:
    """One entry of ``runs``."""
    sections(record, ("model", "hardware", "parallelism"), ("batch", "measured", "derived"))
    batch, hardware = record.get("batch") or {}, record["hardware"]
    if not (stated(batch.get("micro_batch")) and stated(batch.get("global_batch"))):
        raise IncompleteError("micro-batch or global batch not stated")
    micro, total = whole(batch, "micro_batch", "global_batch")
    [accelerators], [sequence] = whole(hardware, "n_gpus"), whole(record["model"], "seq_len")
    [per_node] = whole(hardware, "gpus_per_node", default=0)
    measured = _measurements(record)
    if not measured:
        raise IncompleteError("neither a step time, tokens per second nor memory is stated")
    if not stated(hardware.get("gpu")):
        raise IncompleteError("gpu not stated")
    gpu = str(hardware["gpu"])
    cluster, assumed = cluster_of(gpu, accelerators, per_node, str(hardware.get("inter_node") or ""))
    framework, assumed_framework = framework_of(f"{_source(record)} {record.get('framework', '')}", record)
    model, assumed_model = trained_model(record["model"])
    described = {**record, "model": {"layers": model.num_hidden_layers, **record["model"]}}
    plan, assumed_plan = plan_of(described, framework)
    plan, launched = with_launch_options(plan, _source(record))
    if plan.accelerators != accelerators:
        raise IncompleteError(f"the layout needs {plan.accelerators} accelerators, the record has {accelerators}")
    sizes = Batch(total, micro, sequence)
    job = TrainingJob(str(record["id"]), model, framework, sizes, plan)
    labels = Labels(
        _source(record), gpu, model.name, model.family, framework.name, plan.precision,
        scale_label(plan.accelerators, cluster.groups[0].node.accelerators), strategy_label(plan),
        str(record.get("quality", "B")), _sweep(record), str(record.get("config_group", "")),
    )  # fmt: skip
    words = (*assumed, *assumed_model, *assumed_framework, *assumed_plan, *launched)
    return Case(
        str(record["id"]),
        file,
        str(record.get("split", "")),
        labels,
        Subject("training", cluster, job),
        measured,
        words,
    )


def _sweep(record: Mapping[str, Any]) -> str:
    """Same source, model, sequence, global batch and accelerators: only the layout differs."""
    hardware, batch = record["hardware"], record["batch"]
    model, words = record["model"], str(record.get("precision", ""))
    keys = (_source(record), model.get("name"), model["seq_len"], hardware["gpu"], hardware["n_gpus"],
            batch["global_batch"], precision_of(words))  # fmt: skip
    return "|".join(map(str, keys))


def _measurements(record: Mapping[str, Any]) -> tuple[Measurement, ...]:
    measured, found = record.get("measured") or {}, []
    if (seconds := step_seconds(record)) > 0:
        found.append(Measurement("training_step_time", seconds, "step"))
        found.append(Measurement("fits", 1.0))
    for key, counts, unit in MEMORY_KEYS:
        if stated(measured.get(key)):
            if key == "memory_gb" and "nvidia-smi" in str(record.get("notes", "")):
                counts = "device"
            found.append(Measurement("training_memory", amount(measured, key) * unit, counts))
    return tuple(found)


def step_seconds(record: Mapping[str, Any]) -> float:
    """Step time [s]: printed, or from tokens/s, or the file's own conversion of TFLOP/s under the stated formula; 0
    if none."""
    measured, derived = record.get("measured") or {}, record.get("derived") or {}
    (total,), (sequence,) = whole(record["batch"], "global_batch"), whole(record["model"], "seq_len")
    if stated(measured.get("step_time_s")):
        return amount(measured, "step_time_s")
    if stated(measured.get("tokens_per_s")):
        return total * sequence / amount(measured, "tokens_per_s")
    if stated(measured.get("tokens_per_s_per_gpu")):
        rate = amount(measured, "tokens_per_s_per_gpu") * whole(record["hardware"], "n_gpus")[0]
        return total * sequence / rate
    return amount(derived, "step_time_s") if stated(derived.get("step_time_s")) else 0.0


# -- other sections ------------------------------------------------------------------------------------------------


def _flat_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """A flat entry (``gpu``, ``tp``, ``micro_batch`` at top level) in the nested form of ``runs``."""
    words = str(record.get("model", ""))
    dims = {"name": words.split(" ")[0], "family": "gpt" if "GPT" in words else "internlm", **dims_in_words(words)}
    dims["mlp"] = "gelu" if dims["family"] == "gpt" else "swiglu"
    if dims["family"] == "gpt" and "hidden" in dims:
        dims |= {"ffn_hidden": 4 * int(str(dims["hidden"])), "tied_embeddings": True}
    tp, pp, micro, steps = whole(record, "tp", "pp", "micro_batch", "micro_num", default=1)
    [gpus] = whole(record, "n_gpus", default=tp * pp)
    replicas = gpus // (tp * pp)
    [sequence] = whole(record, "seq_len", default=int(dims.get("seq_len", 0)))
    dims["seq_len"] = sequence
    return {
        **record,
        "model": dims,
        "hardware": {"gpu": record["gpu"], "n_gpus": gpus, "gpus_per_node": 8},
        "parallelism": {
            "tp": tp,
            "pp": pp,
            "dp": replicas,
            "sp": bool(record.get("sp")),
            "zero_stage": record.get("zero_stage"),
        },
        "batch": {"micro_batch": micro, "global_batch": micro * steps * replicas},
    }


def _memory_case(record: Mapping[str, Any], file: str) -> Case:
    if record.get("kind") != "measured":
        raise IncompleteError("an analytic figure, not a measurement")
    flat = _flat_record(record) | {
        "measured": {"memory_gb": record["memory_gb"]},
        "notes": "integers as nvidia-smi prints",
    }
    return training_case(flat, file)


def _layer_case(record: Mapping[str, Any], file: str) -> Case:
    """Forward and backward of one layer; the vocabulary does not matter."""
    flat = _flat_record(record)
    flat["model"] |= {"layers": 1, "vocab": 51200}
    flat["measured"], flat["derived"] = {}, {"step_time_s": float(record["combined_ms"]) * 1e-3}
    case = training_case(flat, file)
    measured = tuple(
        Measurement("training_layer_time", float(record[f"{part}_ms"]) * 1e-3, part)
        for part in ("forward", "backward", "combined")
        if record.get(f"{part}_ms")
    )
    subject = Subject("training_layer", case.subject.cluster, case.subject.job)
    return Case(case.id, file, case.split, case.labels, subject, measured, case.assumed)


@cache
def _profiled_stages() -> dict[tuple[str, int], dict[str, float]]:
    """Stage times [ms] that a paper prints in another table than its bubble rates (arXiv 2401.10241, tables 3 and
    9)."""
    with (Path(__file__).parent / "profiled_stages.csv").open(encoding="utf-8") as file:
        return {
            (row["model"], int(row["micro_batches"])): {
                k: float(v) for k, v in row.items() if k not in ("model", "micro_batches")
            }
            for row in csv.DictReader(file)
        }


def _bubble_case(record: Mapping[str, Any], file: str) -> Case:
    """Bubble rates of schedules by name, from the per-stage times that the authors profiled."""
    stated = {k: record[k] for k in ("t_f", "t_b", "t_w") if isinstance(record.get(k), int | float)}
    times = {**_profiled_stages().get((str(record.get("model")), int(record["micro_batches"])), {}), **stated}
    if not {"t_f", "t_b", "t_w"} <= set(times):
        raise IncompleteError("profiled forward, backward and weight times not stated")
    hidden, heads, sequence = (times.get(k, 0.0) for k in ("hidden", "heads", "seq_len"))
    share = 32 * hidden / (34 * hidden + 5 * heads * sequence) if hidden else 0.5  # M_W / M_B, table 1 of the paper
    measured, schedules = [], []
    for name, rate in (record.get("bubble") or {}).items():
        schedule = next((s for p, s in SCHEDULES if re.search(p, name.lower())), None)
        if schedule:
            measured.append(Measurement("bubble", float(rate), name))
            schedules.append((name, schedule))
    labels = Labels(
        _source(record).split(" ")[0],
        "",
        str(record.get("model")),
        "gpt",
        "",
        "",
        "",
        "pp",
        str(record.get("quality", "B")),
    )
    settings = (
        ("stages", int(record["pp"])),
        ("microbatches", int(record["micro_batches"])),
        ("chunks", int(record.get("vpp_for_interleaved") or 1)),
        ("schedules", tuple(schedules)),
        ("weight_share", share),
        ("times", tuple((k, float(times.get(k, 0.0))) for k in ("t_f", "t_b", "t_w", "t_comm"))),
    )
    assumed = () if stated else ("stage times of table 9 of the paper",)
    subject = Subject("bubble", None, settings=settings)
    return Case(str(record["id"]), file, str(record.get("split", "")), labels, subject, tuple(measured), assumed)
