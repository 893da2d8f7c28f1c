"""TensorRT-LLM's server with the PyTorch back end.

Flags as in tensorrt_llm/commands/serve.py @0020914 (1.2), keys of the options file as in the reference of
``TorchLlmArgs`` and ``KvCacheConfig`` (nvidia.github.io/TensorRT-LLM).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from simulator.errors import ConfigError
from simulator.scenario.deploy.flags import Arguments, Flag
from simulator.scenario.deploy.known import TENSORRT_LLM
from simulator.scenario.deploy.models import named, repository
from simulator.scenario.deploy.types import Engine, Read, Setup, Written
from simulator.yaml_marks import load_yaml

__all__ = ["ENGINE", "OPTIONS"]

OPTIONS = "llm_options.yaml"
UNMODELLED = {
    "--moe_cluster_parallel_size": "experts are spread over one axis",
    "--cluster_size": "experts are spread over one axis",
    "--server_role": "see the disaggregation strategies",
    "--disagg_cluster_uri": "see the disaggregation strategies",
    "--free_gpu_memory_fraction": "it is a share of what weights leave, memory_utilization one of the whole device",
    "--kv_cache_free_gpu_memory_fraction": "see --free_gpu_memory_fraction",
}
TABLE = (
    Flag("--pipeline_parallel_size", "deployment.plan.pipeline_parallel", aliases=("--pp_size",)),
    Flag("--context_parallel_size", "deployment.plan.context_parallel", aliases=("--cp_size",)),
    Flag("--max_num_tokens", "deployment.max_batched_tokens"),
    Flag("--max_batch_size", "deployment.max_num_seqs"),
    Flag("--max_seq_len", "deployment.max_model_len"),
)
FLAGS = (
    *TABLE,
    *(Flag(name, kind=list) for name in UNMODELLED),
    Flag("--tensor_parallel_size", aliases=("--tp_size",)),
    Flag("--moe_expert_parallel_size", aliases=("--ep_size",)),
    Flag("--extra_llm_api_options", kind=str, aliases=("--config",)),
    Flag("--enable_chunked_prefill", kind=None),
)
_CUT, _WHOLE = "chunked-prefill", "in-flight"
_DTYPES = {"fp8": "fp8", "auto": "bf16", "bfloat16": "bf16", "float16": "fp16"}


def write(setup: Setup) -> Written:
    """``trtllm-serve`` of one replica, and its options file."""
    written = Written(("trtllm-serve", repository(setup.model)), said={"model"})
    tensor, data, expert = (setup[f"deployment.plan.{n}_parallel"] for n in ("tensor", "data", "expert"))
    written.add("--backend", "pytorch")
    written.add("--tensor_parallel_size", tensor * data)
    written.said |= {"deployment.plan.expert_parallel"}
    if expert > 1:
        written.add("--moe_expert_parallel_size", expert)
        if setup.get("deployment.plan.options.expert") == "tensor-ranks" and data == 1 and expert == tensor:
            written.said.add("deployment.plan.options.expert")
    if tensor == 1 or data == 1:
        written.said |= {"deployment.plan.tensor_parallel", "deployment.plan.data_parallel"}
    else:
        written.notes.append(f"attention is data-parallel over all {tensor * data} ranks, in the plan over {data}")
    written.add_table(TABLE, setup)
    written.add("--extra_llm_api_options", OPTIONS)
    cache: dict[str, Any] = {"tokens_per_block": setup["deployment.block_size"]}
    written.said.add("deployment.block_size")
    if setup["deployment.kv_cache"] in ("paged", "prefix-lru"):
        cache["enable_block_reuse"] = setup["deployment.kv_cache"] == "prefix-lru"
        written.said.add("deployment.kv_cache")
    kinds = {kind: name for name, kind in _DTYPES.items() if name != "bfloat16"}
    if setup["deployment.kv_dtype"] in kinds:
        cache["dtype"] = kinds[setup["deployment.kv_dtype"]]
        written.said.add("deployment.kv_dtype")
    options: dict[str, Any] = {"enable_attention_dp": data > 1, "kv_cache_config": cache}
    if setup["deployment.batching"] in (_CUT, _WHOLE):
        options["enable_chunked_prefill"] = setup["deployment.batching"] == _CUT
        written.said.add("deployment.batching")
    precision = setup["deployment.plan.precision"]
    if precision in ("bf16", "fp16"):
        options["dtype"] = "bfloat16" if precision == "bf16" else "float16"
        written.said.add("deployment.plan.precision")
    else:
        written.notes.append(f"precision {precision}: serve a checkpoint in that format, the engine finds it out")
    written.notes.append("the engine takes a share of what the weights leave (free_gpu_memory_fraction, 0.9)")
    written.files[OPTIONS] = "".join(f"{key}: {json.dumps(value)}\n" for key, value in options.items())
    return written


def read(given: Arguments, model: str, files: Mapping[str, str]) -> Read:
    """A deployment from the words after ``trtllm-serve``."""
    words = [word for word in given.positional if word != "serve"]
    if not model and not words:
        raise ConfigError("the command names no model")
    found = Read(model or named(words[0]), "tensorrt-llm-1.2")
    values = found.values
    values |= given.by_path(TABLE)
    options = _options(given, files)
    cache = options.get("kv_cache_config") or {}
    tensor = options.get("tensor_parallel_size", given.number("--tensor_parallel_size", 1))
    expert = options.get("moe_expert_parallel_size", given.number("--moe_expert_parallel_size", 1))
    shared = bool(options.get("enable_attention_dp"))
    values["deployment.plan.tensor_parallel"] = 1 if shared else tensor
    values["deployment.plan.data_parallel"] = tensor if shared else 1
    if expert and expert > 1:
        values["deployment.plan.expert_parallel"] = expert
        if not shared:
            values["deployment.plan.options.expert"] = "tensor-ranks"
    for key, path in (("max_num_tokens", "max_batched_tokens"), ("max_batch_size", "max_num_seqs"),
                      ("max_seq_len", "max_model_len")):  # fmt: skip
        if key in options:
            values[f"deployment.{path}"] = options[key]
    if "tokens_per_block" in cache:
        values["deployment.block_size"] = cache["tokens_per_block"]
    values["deployment.kv_dtype"] = _DTYPES.get(str(cache.get("dtype", "auto")), "bf16")
    values["deployment.kv_cache"] = "prefix-lru" if cache.get("enable_block_reuse", True) else "paged"
    values["deployment.plan.precision"] = {"float16": "fp16"}.get(str(options.get("dtype")), "bf16")
    if "dtype" not in options:
        found.notes.append("the checkpoint decides about quantization: set deployment.plan.precision if it has any")
    cut = options.get("enable_chunked_prefill") or "--enable_chunked_prefill" in given
    values["deployment.batching"] = _CUT if cut else _WHOLE
    return found


def _options(given: Arguments, files: Mapping[str, str]) -> dict[str, Any]:
    name = given.text("--extra_llm_api_options")
    if not name:
        return {}
    if name not in files:
        raise ConfigError(f"--extra_llm_api_options names '{name}', which is not there")
    options = load_yaml(files[name], name=name).to_plain()
    if not isinstance(options, dict):
        raise ConfigError(f"{name} is not a mapping")
    return options


ENGINE = Engine(
    "tensorrt-llm", "serving", "TensorRT-LLM 1.2 (trtllm-serve @0020914)", FLAGS, TENSORRT_LLM, UNMODELLED, write, read
)
