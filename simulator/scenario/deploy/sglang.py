"""SGLang's server; flags as in sglang/srt/server_args.py of SGLang 0.4.10."""

from __future__ import annotations

from collections.abc import Mapping

from simulator.scenario.deploy import vllm
from simulator.scenario.deploy.flags import Arguments, Flag, require
from simulator.scenario.deploy.known import SGLANG
from simulator.scenario.deploy.models import named, repository
from simulator.scenario.deploy.types import Engine, Read, Setup, Written

__all__ = ["ENGINE"]

_SPECULATION = "set deployment.speculation: no argument tells how many drafts are accepted"
UNMODELLED = {
    "--cpu-offload-gb": "all weights are on the device; see the serving_offload strategies",
    "--hybrid-kvcache-ratio": "layers with windows hold what the framework file says",
    "--swa-full-tokens-ratio": "layers with windows hold what the framework file says",
    "--disable-hybrid-swa-memory": "layers with windows hold what the framework file says",
    "--speculative-algorithm": _SPECULATION,
    "--speculative-draft-model-path": _SPECULATION,
    "--speculative-num-steps": _SPECULATION,
    "--speculative-eagle-topk": _SPECULATION,
    "--speculative-num-draft-tokens": _SPECULATION,
    "--speculative-accept-threshold-single": _SPECULATION,
    "--speculative-accept-threshold-acc": _SPECULATION,
    "--speculative-token-map": _SPECULATION,
    "--enable-eplb": "experts are loaded as the model's routing says",
    "--eplb-rebalance-num-iterations": "see --enable-eplb",
    "--ep-num-redundant-experts": "no expert is held twice",
    "--enable-hierarchical-cache": "see kv_cache prefix-tiered",
    "--hicache-ratio": "see kv_cache prefix-tiered",
    "--hicache-size": "see kv_cache prefix-tiered",
    "--hicache-write-policy": "see kv_cache prefix-tiered",
    "--hicache-storage-backend": "see kv_cache prefix-tiered",
    "--enable-double-sparsity": "see the sparse_attention strategies",
    "--disable-cuda-graph": "iterations run from CUDA graphs as the framework file says",
    "--disable-custom-all-reduce": "small all-reduces use one-shot kernels as the framework file says",
    "--enable-flashinfer-allreduce-fusion": "all-reduces are not fused with what follows",
    "--disable-overlap-schedule": "host time hides as the framework file says",
    "--enable-two-batch-overlap": "one batch runs at a time",
    "--enable-torch-compile": "kernels are those of the framework file",
    "--torchao-config": "set plan.precision to what it does",
    "--num-continuous-decode-steps": "the scheduler runs every iteration",
    "--disaggregation-mode": "see the disaggregation strategies",
    "--disaggregation-transfer-backend": "see the disaggregation strategies",
    "--disaggregation-bootstrap-port": "see the disaggregation strategies",
    "--disaggregation-decode-tp": "see the disaggregation strategies",
    "--disaggregation-decode-dp": "see the disaggregation strategies",
    "--disaggregation-prefill-pp": "see the disaggregation strategies",
    "--disaggregation-ib-device": "see the disaggregation strategies",
    "--num-reserved-decode-tokens": "see the disaggregation strategies",
    "--enable-lora": "see the adapters strategies",
    "--max-lora-rank": "see the adapters strategies",
    "--lora-target-modules": "see the adapters strategies",
    "--lora-paths": "see the adapters strategies",
    "--max-loras-per-batch": "see the adapters strategies",
    "--lora-backend": "see the adapters strategies",
    "--enable-pdmux": "prompts and decodes take turns",
    "--sm-group-num": "prompts and decodes take turns",
}
TABLE = (
    Flag("--pipeline-parallel-size", "deployment.plan.pipeline_parallel", aliases=("--pp-size",)),
    Flag("--max-running-requests", "deployment.max_num_seqs"),
    Flag("--chunked-prefill-size", "deployment.max_batched_tokens"),
    Flag("--context-length", "deployment.max_model_len"),
    Flag("--page-size", "deployment.block_size"),
    Flag("--mem-fraction-static", "deployment.memory_utilization", kind=float),
)
FLAGS = (
    *TABLE,
    *(Flag(name, kind=list) for name in UNMODELLED),
    Flag("--model-path", kind=str, aliases=("--model",)),
    Flag("--tensor-parallel-size", aliases=("--tp-size", "--tp")),
    Flag("--data-parallel-size", aliases=("--dp-size", "--dp")),
    Flag("--expert-parallel-size", aliases=("--ep-size", "--ep")),
    Flag("--nnodes"),
    Flag("--dtype", kind=str),
    Flag("--quantization", kind=str),
    Flag("--kv-cache-dtype", kind=str),
    Flag("--schedule-policy", kind=str),
    *(Flag(n, kind=None) for n in ("--enable-dp-attention", "--disable-radix-cache", "--enable-mixed-chunk")),
)
_MIXED, _FIRST, _LONGEST = "chunked-prefill", "prefill-first", "cache-aware"
SLICES = "gathered-slices"
"""Experts of data-parallel attention without ``--expert-parallel-size``."""


def write(setup: Setup) -> Written:
    """``python -m sglang.launch_server`` of one replica."""
    written = Written(("python", "-m", "sglang.launch_server"), said={"model"})
    written.add("--model-path", repository(setup.model))
    tensor, data, expert = (setup[f"deployment.plan.{n}_parallel"] for n in ("tensor", "data", "expert"))
    written.add("--tensor-parallel-size", tensor * data, "deployment.plan.tensor_parallel")
    written.said |= {"deployment.plan.data_parallel", "deployment.plan.expert_parallel"}
    if data > 1:
        written.add("--data-parallel-size", data)
        written.add("--enable-dp-attention")
    kind = setup.get("deployment.plan.options.expert")
    sliced = kind == SLICES and tensor == 1 and expert == data
    if expert > 1 and not sliced:
        written.add("--expert-parallel-size", expert)
    if sliced or (kind == "tensor-ranks" and data == 1 and expert == tensor):
        written.said.add("deployment.plan.options.expert")
    if setup.nodes > 1:
        written.add("--nnodes", setup.nodes)
        written.notes.append("on every node add --node-rank and --dist-init-addr")
    written.add_table(TABLE, setup)
    vllm.write_types(written, setup)
    batching, cache = setup["deployment.batching"], setup["deployment.kv_cache"]
    if batching in (_MIXED, _FIRST, _LONGEST):
        written.said.add("deployment.batching")
        written.add("--schedule-policy", "lpm" if batching == _LONGEST else "fcfs")
    if batching == _MIXED:
        written.add("--enable-mixed-chunk")
    if cache in ("paged", "prefix-lru"):
        written.said.add("deployment.kv_cache")
        if cache == "paged":
            written.add("--disable-radix-cache")
    return written


def read(given: Arguments, model: str, files: Mapping[str, str]) -> Read:
    """A deployment from the words after ``sglang.launch_server``."""
    if not model:
        require(given.values, ("--model-path",), "SGLang")
    found = Read(model or named(given.text("--model-path")), "sglang-0.4")
    values = found.values
    values |= given.by_path(TABLE)
    if values.get("deployment.max_batched_tokens", 1) == -1:
        del values["deployment.max_batched_tokens"]
        found.notes.append("--chunked-prefill-size -1: prompts are still cut at the framework's token budget")
    tensor, data = given.number("--tensor-parallel-size", 1), given.number("--data-parallel-size", 1)
    expert = given.number("--expert-parallel-size", 1)
    if "--enable-dp-attention" in given:
        values["deployment.plan.tensor_parallel"] = max(1, tensor // data)
        values["deployment.plan.data_parallel"] = data
        if expert == 1 and tensor == data > 1:
            values |= {"deployment.plan.expert_parallel": data, "deployment.plan.options.expert": SLICES}
    else:
        values["deployment.plan.tensor_parallel"] = tensor
        values["deployment.replicas"] = data
    if expert > 1:
        values["deployment.plan.expert_parallel"] = expert
        if values.get("deployment.plan.data_parallel", 1) == 1:
            values["deployment.plan.options.expert"] = "tensor-ranks"
    found.nodes = given.number("--nnodes", 0) or None
    vllm.read_types(found, given)
    longest = given.text("--schedule-policy", "fcfs") == "lpm"
    values["deployment.batching"] = _LONGEST if longest else _MIXED if "--enable-mixed-chunk" in given else _FIRST
    values["deployment.kv_cache"] = "paged" if "--disable-radix-cache" in given else "prefix-lru"
    if longest and "--disable-radix-cache" in given:
        found.notes.append("--schedule-policy lpm has no effect without the radix cache")
        values["deployment.batching"] = _FIRST
    return found


ENGINE = Engine("sglang", "serving", "SGLang 0.4.10", FLAGS, SGLANG, UNMODELLED, write, read)
