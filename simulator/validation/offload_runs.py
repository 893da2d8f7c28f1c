"""FlexGen's published rows: its block schedule on its machine, with the placements of its benchmark suite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from simulator.strategies.serving_offload.block_schedule import BlockPolicy, throughput
from simulator.strategies.serving_offload.flexgen import GOOGLE_CLOUD_T4, layer_shape
from simulator.validation.cases import Case, Labels, Measurement, Subject
from simulator.workload.model_files import load_model

__all__ = ["FLEXGEN", "block_case", "run_block_schedule"]

HOST = (0.0, 1.0, 0.0)
DISK = (0.0, 0.0, 1.0)

FLEXGEN = {
    "flexgen_flexgen_opt-6.7b": BlockPolicy(2, 1, overlap=False),
    "flexgen_flexgen_opt-30b": BlockPolicy(48, 3, (0.2, 0.8, 0.0), HOST, HOST),
    "flexgen_flexgen_opt-175b": BlockPolicy(32, 8, (0.0, 0.5, 0.5), DISK, HOST),
    "flexgen_flexgen_c_opt-6.7b": BlockPolicy(72, 1, overlap=False, weight_bits=4, cache_bits=4),
    "flexgen_flexgen_c_opt-30b": BlockPolicy(64, 8, HOST, HOST, HOST, host_attention=False, cache_bits=4),
    "flexgen_flexgen_c_opt-175b": BlockPolicy(48, 3, HOST, HOST, HOST, False, weight_bits=4, cache_bits=4),
}
"""Placements of FlexGen's own benchmark suite for 512 tokens in and 32 out, by record."""

_PEAK = replace(
    GOOGLE_CLOUD_T4, linear_prefill=65e12, linear_decode=65e12, attention_prefill=65e12, attention_decode=65e12,
    gpu_bandwidth=320e9,
)  # fmt: skip
"""The same links with a T4 as its datasheet has it (65 TFLOP/s in fp16, 320 GB/s): the plain roofline."""


def block_case(entry: Mapping[str, Any], file: str, grade: str) -> Case | None:
    """The case of a record whose placement is known; ``None``: it is not one of these."""
    name = str(entry["id"])
    if name not in FLEXGEN:
        return None
    model, bits = load_model(str(entry["model"])), FLEXGEN[name].weight_bits
    labels = Labels(
        str(entry["source"]), str(entry["gpu"]), model.name, model.family, "flexgen", "fp16" if bits == 16 else "int4",
        "1 GPU", "offload", grade, setting="offline_max_load",
    )  # fmt: skip
    workload = entry["workload"]
    settings = (("isl", int(workload["isl"])), ("osl", int(workload["osl"])), ("placement", name))
    figure = Measurement(
        "serving_throughput", float(entry["metrics"]["out_tps"]), "output_tokens_per_s", workload["kind"]
    )
    assumed = ("placement and batches of FlexGen's benchmark suite", "rates of FlexGen's own cost model of its machine")
    subject = Subject("block_schedule", None, None, None, (*settings, ("model", model.name)))
    return Case(name, file, str(entry.get("split", "")), labels, subject, (figure,), assumed)


def run_block_schedule(subject: Subject) -> tuple[dict[str, float], str]:
    """Generated tokens per second of the whole block, prompts included."""
    prompt, output = (int(str(subject.setting(key))) for key in ("isl", "osl"))
    shape = layer_shape(load_model(str(subject.setting("model"))), prompt, output)
    policy = FLEXGEN[str(subject.setting("placement"))]
    plain = throughput(shape, replace(policy, overlap=True), _PEAK)
    return {
        "output_tokens_per_s": throughput(shape, policy, GOOGLE_CLOUD_T4), "baseline.output_tokens_per_s": plain
    }, ""  # fmt: skip
