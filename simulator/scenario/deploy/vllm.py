"""vLLM's server; flags as in vllm/engine/arg_utils.py of vLLM 0.10."""

from __future__ import annotations

import json
from collections.abc import Mapping

from simulator.errors import ConfigError
from simulator.scenario.deploy.flags import Arguments, Flag
from simulator.scenario.deploy.known import VLLM
from simulator.scenario.deploy.models import named, repository
from simulator.scenario.deploy.types import Engine, Read, Setup, Written

__all__ = ["ENGINE", "read_types", "write_types"]

UNMODELLED = {
    "--enable-eplb": "experts are loaded as the model's routing says",
    "--num-redundant-experts": "no expert is held twice",
    "--eplb-window-size": "see --enable-eplb",
    "--eplb-step-interval": "see --enable-eplb",
    "--eplb-log-balancedness": "see --enable-eplb",
    "--enforce-eager": "iterations run from CUDA graphs as the framework file says",
    "--compilation-config": "iterations run from CUDA graphs as the framework file says",
    "-O": "iterations run from CUDA graphs as the framework file says",
    "--disable-custom-all-reduce": "small all-reduces use one-shot kernels as the framework file says",
    "--cpu-offload-gb": "all weights are on the device; see the serving_offload strategies",
    "--swap-space": "preempted requests are recomputed unless 'preemption: swap' says otherwise",
    "--num-gpu-blocks-override": "the KV pool follows from memory",
    "--kv-transfer-config": "see the disaggregation strategies",
    "--max-num-partial-prefills": "one prompt is cut at a time",
    "--max-long-partial-prefills": "one prompt is cut at a time",
    "--long-prefill-token-threshold": "one prompt is cut at a time",
    "--disable-hybrid-kv-cache-manager": "layers with windows hold what the framework file says",
    "--async-scheduling": "host time is that of the framework file",
    "--enable-lora": "see the adapters strategies",
    "--enable-lora-bias": "see the adapters strategies",
    "--max-loras": "see the adapters strategies",
    "--max-lora-rank": "see the adapters strategies",
    "--lora-modules": "see the adapters strategies",
    "--lora-extra-vocab-size": "see the adapters strategies",
    "--lora-dtype": "see the adapters strategies",
    "--max-cpu-loras": "see the adapters strategies",
    "--fully-sharded-loras": "see the adapters strategies",
}
TABLE = (
    Flag("--tensor-parallel-size", "deployment.plan.tensor_parallel", aliases=("-tp",)),
    Flag("--pipeline-parallel-size", "deployment.plan.pipeline_parallel", aliases=("-pp",)),
    Flag("--data-parallel-size", "deployment.plan.data_parallel", aliases=("-dp",)),
    Flag("--max-num-batched-tokens", "deployment.max_batched_tokens"),
    Flag("--max-num-seqs", "deployment.max_num_seqs"),
    Flag("--max-model-len", "deployment.max_model_len", kind=str),
    Flag("--block-size", "deployment.block_size"),
    Flag("--gpu-memory-utilization", "deployment.memory_utilization", kind=float),
)
FLAGS = (
    *TABLE,
    *(Flag(name, kind=list) for name in UNMODELLED),
    Flag("--model", kind=str),
    Flag("--dtype", kind=str),
    Flag("--quantization", kind=str, aliases=("-q",)),
    Flag("--kv-cache-dtype", kind=str),
    Flag("--speculative-config", kind=str),
    Flag("--scheduling-policy", kind=str),
    *(
        Flag(name, kind=None)
        for name in (
            "--enable-expert-parallel", "--no-enable-expert-parallel", "--enable-chunked-prefill",
            "--no-enable-chunked-prefill", "--enable-prefix-caching", "--no-enable-prefix-caching",
        )
    ),
)  # fmt: skip
DTYPES = {"bf16": "bfloat16", "fp16": "float16"}
_READ_DTYPES = {"auto": "bf16", "bfloat16": "bf16", "half": "fp16", "float16": "fp16"}
_WEIGHTS = {"fp8": "fp8", "awq": "int4", "awq_marlin": "int4", "gptq": "int4", "gptq_marlin": "int4"}
CACHES = {"auto": "bf16", "fp8": "fp8", "fp8_e4m3": "fp8", "fp8_e5m2": "fp8"}
CHUNKED, WHOLE, PRIORITY = "chunked-prefill", "prefill-first", "priority"


def write(setup: Setup) -> Written:
    """``vllm serve`` of one replica."""
    written = Written(("vllm", "serve", repository(setup.model)), said={"model"})
    written.add_table(TABLE, setup)
    write_experts(written, setup)
    write_types(written, setup)
    batching, cache = setup["deployment.batching"], setup["deployment.kv_cache"]
    if batching in (CHUNKED, WHOLE, PRIORITY):
        written.add(f"--{'no-' * (batching == WHOLE)}enable-chunked-prefill", None, "deployment.batching")
    if batching == PRIORITY:
        written.add("--scheduling-policy", "priority")
    if cache in ("paged", "prefix-lru"):
        written.add(f"--{'no-' * (cache == 'paged')}enable-prefix-caching", None, "deployment.kv_cache")
    if setup.nodes > 1:
        written.notes.append(f"a replica spans {setup.nodes} nodes: join them with ray first")
    return written


def write_experts(written: Written, setup: Setup) -> None:
    """Expert parallelism: in the engine over all ranks of a replica, or not at all."""
    tensor, data, ranks = (setup[f"deployment.plan.{n}_parallel"] for n in ("tensor", "data", "expert"))
    kind = setup.get("deployment.plan.options.expert")
    if ranks > 1:
        written.add("--enable-expert-parallel")
    alike = (data == 1 and ranks == tensor and kind == "tensor-ranks") or (tensor == 1 and ranks == data and not kind)
    if ranks == 1 or alike:
        written.said |= {"deployment.plan.expert_parallel", "deployment.plan.options.expert"}
    else:
        written.notes.append(f"experts are spread over all {tensor * data} ranks, in the plan over {ranks}")


def write_types(written: Written, setup: Setup) -> None:
    """Number formats of weights and cache."""
    precision, cache = setup["deployment.plan.precision"], setup["deployment.kv_dtype"]
    if precision in DTYPES:
        written.add("--dtype", DTYPES[precision], "deployment.plan.precision")
    elif precision == "fp8":
        written.add("--quantization", "fp8", "deployment.plan.precision")
    else:
        written.notes.append(f"precision {precision}: serve a checkpoint in that format, the engine finds it out")
    if cache == "fp8":
        written.add("--kv-cache-dtype", "fp8_e4m3", "deployment.kv_dtype")
    elif cache in ("bf16", "fp16"):
        written.add("--kv-cache-dtype", "auto", *(["deployment.kv_dtype"] if cache == "bf16" else []))


def read(given: Arguments, model: str, files: Mapping[str, str]) -> Read:
    """A deployment of one replica from the words after ``vllm serve``."""
    name = model or (given.positional or [given.text("--model")])[0]
    if not name:
        raise ConfigError("the command names no model")
    found = Read(named(name), "vllm-0.10")
    values = found.values
    values |= given.by_path(TABLE)
    if "deployment.max_model_len" in values:
        values["deployment.max_model_len"] = length(given.text("--max-model-len"))
    if "--enable-expert-parallel" in given:
        read_experts(found, given.number("--tensor-parallel-size", 1), given.number("--data-parallel-size", 1))
    read_types(found, given)
    values["deployment.batching"] = WHOLE if "--no-enable-chunked-prefill" in given else CHUNKED
    if given.text("--scheduling-policy") == "priority":
        values["deployment.batching"] = PRIORITY
    # Prefix caching is on in the V1 engine unless it is switched off.
    values["deployment.kv_cache"] = "paged" if "--no-enable-prefix-caching" in given else "prefix-lru"
    if "--speculative-config" in given:
        _speculation(found, given.text("--speculative-config"))
    return found


def read_experts(found: Read, tensor: int, data: int) -> None:
    """Experts over all ``tensor × data`` ranks, as near as a plan comes to it."""
    found.values["deployment.plan.expert_parallel"] = tensor if data == 1 else data
    if data == 1 and tensor > 1:
        found.values["deployment.plan.options.expert"] = "tensor-ranks"
    elif tensor > 1:
        found.notes.append(
            f"experts over {tensor * data} ranks are simulated over {data}, each cut over {tensor} ranks"
        )


def length(text: str) -> int:
    """``131072``, ``32k`` (thousands) or ``32K`` (binary), as vLLM reads them.

    Raises
    ------
    ConfigError
        If it is neither.
    """
    scale = {"k": 1000, "m": 1000**2, "K": 1024, "M": 1024**2}.get(text[-1:], 1)
    digits = text[:-1] if scale > 1 else text
    try:
        return round(float(digits) * scale)
    except ValueError:
        raise ConfigError(f"--max-model-len needs a number of tokens, have '{text}'") from None


def read_types(found: Read, given: Arguments) -> None:
    """Number formats of weights and cache."""
    quantization, dtype = given.text("--quantization"), given.text("--dtype", "auto")
    if quantization and quantization not in _WEIGHTS:
        found.notes.append(f"--quantization {quantization}: set plan.precision to what the checkpoint has")
    if not quantization and dtype not in _READ_DTYPES:
        found.notes.append(f"--dtype {dtype} is simulated as bf16")
    found.values["deployment.plan.precision"] = _WEIGHTS.get(quantization, _READ_DTYPES.get(dtype, "bf16"))
    cache = given.text("--kv-cache-dtype", "auto")
    if cache not in CACHES:
        found.notes.append(f"--kv-cache-dtype {cache} is simulated as bf16")
    found.values["deployment.kv_dtype"] = CACHES.get(cache, "bf16")


def _speculation(found: Read, text: str) -> None:
    """Which drafting method is meant; its acceptance is not in the arguments."""
    try:
        config = json.loads(text)
        tokens = int(config.get("num_speculative_tokens", 0))
    except (ValueError, AttributeError):
        raise ConfigError(f"--speculative-config is not a JSON mapping: {text}") from None
    method = str(config.get("method", "draft-model"))
    found.notes.append(
        f"--speculative-config ({method}, {tokens} tokens) is not simulated: set deployment.speculation, "
        "whose acceptance rate no argument tells"
    )


ENGINE = Engine("vllm", "serving", "vLLM 0.10", FLAGS, VLLM, UNMODELLED, write, read)
