"""Serving engines, number formats and launch options in the words of measurement files."""

from __future__ import annotations

import re
from collections.abc import Mapping

from simulator.errors import ConfigError
from simulator.units import parse_quantity
from simulator.validation.model_names import shipped_name
from simulator.validation.models import IncompleteError
from simulator.validation.records import sections, whole
from simulator.workload.framework import Framework
from simulator.workload.framework_files import load_framework
from simulator.workload.model import ModelSpec
from simulator.workload.model_files import load_model

__all__ = ["engine_of", "launch_options", "precision_of_weights", "served_model"]

Version = tuple[int, int]

ENGINES: tuple[tuple[str, str, tuple[tuple[Version, str], ...]], ...] = (
    (r"vllm", "vllm-latest", (((0, 1), "vllm-0.2"), ((0, 5), "vllm-0.5"), ((0, 6), "vllm-0.6"), ((0, 8), "vllm-0.10"),
                              ((0, 13), "vllm-latest"))),
    (r"sglang", "sglang-0.4", ()),
    (r"tensorrt.?llm|trt.?llm", "tensorrt-llm-1.0", (((0, 1), "tensorrt-llm-0.20"), ((1, 0), "tensorrt-llm-1.0"),
                                                     ((1, 2), "tensorrt-llm-1.2"))),
    (r"fastertransformer|swifttransformer|distserve", "fastertransformer", ()),
    (r"llama\.?cpp|ollama|llamafile", "llama-cpp", ()),
    (r"mindie", "vllm-0.10", ()),
    (r"neuronx|nxd", "neuronx", ()),
    (r"deepseek production", "sglang-0.4", ()),
    (r"text.generation.inference|\btgi\b|deepspeed.(mii|fastgen)|lightllm|sarathi", "vllm-0.6", ()),
    (r"lmdeploy|turbomind", "tensorrt-llm-0.20", ()),
)  # fmt: skip
"""Words in an engine's name → preset where no version is stated → presets by the version from which each stands; the
first match counts, and a version between two takes the older. TGI, DeepSpeed-FastGen, LightLLM and Sarathi-Serve drive
paged kernels of vLLM's kind from Python; LMDeploy's TurboMind descends from FasterTransformer, its paged batches driven
from C++ as TensorRT-LLM's are."""

YEARS: dict[str, Version] = {"2023": (0, 2), "2024": (0, 6), "2025": (0, 10)}
"""A year instead of a version, of vLLM."""

PRECISIONS = (
    (r"mxfp4", "mxfp4"), (r"nvfp4|fp4", "fp4"), (r"fp8.*weight.only", "fp8-weight-only"), (r"fp8|e4m3", "fp8"),
    (r"q4_k", "q4-k"), (r"q4|int4|4bit|w4a16|awq|gptq", "int4"), (r"int8|w8a8", "int8"), (r"bf16|bfloat16", "bf16"),
    (r"fp16|float16|half", "fp16"), (r"fp32|float32", "fp32"),
)  # fmt: skip


def engine_of(name: str) -> tuple[Framework, list[str]]:
    """The preset of an engine, the nearest known version of it, and what was assumed.

    Raises
    ------
    IncompleteError
        If no preset describes it.
    """
    words = name.lower()
    match, preset, presets = _engine(words)
    if match is None:
        raise IncompleteError(f"no preset of the engine '{name}'")
    version = _version(words[match.end() :])
    if version is not None and presets:
        preset = next((p for first, p in reversed(presets) if version >= first), presets[0][1])
    if preset == "vllm-0.10" and "async" in words and version is not None and version < (0, 12):
        preset = "vllm-0.10-async"
    try:
        return load_framework(preset), [f"engine {preset} for '{name}'"]
    except ConfigError as error:
        raise IncompleteError(f"no preset of the engine '{name}'") from error


def _engine(words: str) -> tuple[re.Match[str] | None, str, tuple[tuple[Version, str], ...]]:
    """Where an engine is named, its preset where no version is, and its presets by version."""
    for pattern, unstated, presets in ENGINES:
        if match := re.search(pattern, words):
            return match, unstated, presets
    return None, "", ()


def _version(words: str) -> Version | None:
    """Major and minor version behind an engine's name, however they are set off; of a year where there is none."""
    if match := re.match(r"[^\d]*?v?(\d+)\.(\d+)", words):
        return int(match[1]), int(match[2])
    return next((version for year, version in YEARS.items() if year in words), None)


def precision_of_weights(words: str) -> str:
    """Registered serving precision of a dtype in words.

    Raises
    ------
    IncompleteError
        If it names none, or several for parts of the model.
    """
    text = words.lower()
    if "+" in text or "/" in text:
        raise IncompleteError(f"mixed formats '{words}'")
    found = next((p for pattern, p in PRECISIONS if re.search(pattern, text)), "")
    if not found:
        raise IncompleteError(f"number format '{words}' not known")
    return found


def served_model(name: str, dims: Mapping[str, object] | None, variant: str = "") -> ModelSpec:
    """The shipped model of its variant's or its own name, or one with the dimensions the file carries.

    The file's own dimensions count where it has a name for another model.

    Raises
    ------
    IncompleteError
        If neither is there.
    """
    for words in (variant, name):
        if words and (shipped := shipped_name(words)):
            model = load_model(shipped)
            if not dims or _same_size(model, dims):
                return model
    if not dims:
        raise IncompleteError(f"the dimensions of '{name}' are not known")
    from simulator.validation.models import model_of

    sections({"dimensions": dims}, ("dimensions",))
    return model_of({**_training_names(dims), "name": name})


def _same_size(model: ModelSpec, dims: Mapping[str, object]) -> bool:
    """Whether dimensions of a file are those of a model, as far as they go."""
    said = {"layers": model.num_hidden_layers, "hidden": model.hidden_size}
    return all(str(dims.get(k) or v) == str(v) for k, v in said.items())


def _training_names(dims: Mapping[str, object]) -> dict[str, object]:
    found = dict(dims)
    found["ffn_hidden"] = dims.get("ffn") or dims.get("dense_ffn")
    found["mlp"] = "swiglu" if dims.get("ffn_matrices", 3) == 3 else "gelu"
    found["tied_embeddings"], found["family"] = dims.get("tied"), "llama" if found["mlp"] == "swiglu" else "opt"
    if dims.get("experts"):
        found["moe"] = {k: dims.get(k) for k in ("experts", "top_k", "expert_ffn", "shared_experts")}
        [layers], [sparse] = whole(dims, "layers"), whole(dims, "moe_layers", default=whole(dims, "layers")[0])
        found["dense_layers"] = layers - sparse
    latent = dims.get("mla")
    if isinstance(latent, Mapping):
        names = {"q_lora": "q_lora", "kv_lora": "kv_lora", "rope": "qk_rope", "nope": "qk_nope", "v": "v_head"}
        found["mla"] = {names.get(k, k): v for k, v in latent.items()}
    return found


OPTIONS = (
    ("max_num_seqs", r"--max-num-seqs[= ](\d+)"),
    ("max_num_seqs", r"--max-running-requests[= ](\d+)"),
    ("max_num_seqs", r"--max_batch_size[= ](\d+)"),
    ("max_num_batched_tokens", r"--max-num-batched-tokens[= ](\d+)"),
    ("max_num_batched_tokens", r"--chunked-prefill-size[= ](\d+)"),
    ("max_num_batched_tokens", r"--max_num_tokens[= ](\d+)"),
    ("max_model_len", r"--max-model-len[= ](\d+)"),
    ("memory_utilization", r"--gpu-memory-utilization[= ]([\d.]+)"),
    ("memory_utilization", r"--mem-fraction-static[= ]([\d.]+)"),
)
"""Launch options that change sizes, of vLLM, SGLang and TensorRT-LLM."""


def launch_options(text: str) -> dict[str, float | int | str]:
    """Deployment fields that the options of a command set.

    Raises
    ------
    IncompleteError
        If it speculates: the acceptance rate decides, and no source states it.
    """
    if "speculative" in text:
        raise IncompleteError("speculative decoding: the acceptance rate is not stated")
    found: dict[str, float | int | str] = {}
    for name, pattern in OPTIONS:
        if match := re.search(pattern, text):
            found[name] = float(match[1]) if "." in match[1] or name == "memory_utilization" else int(match[1])
    if re.search(r"--kv-cache-dtype[= ]fp8", text):
        found["kv_dtype"] = "fp8"
    return found


MILLISECOND = parse_quantity("1 ms", "time")
