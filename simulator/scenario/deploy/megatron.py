"""Megatron-LM under torchrun; flags as in megatron/training/arguments.py @000c4ac (Megatron Core 0.15)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simulator.scenario.deploy.flags import Arguments, Flag, require
from simulator.scenario.deploy.known import MEGATRON, TORCHRUN
from simulator.scenario.deploy.models import by_sizes, sizes
from simulator.scenario.deploy.types import Engine, Read, Setup, Written
from simulator.workload.model_files import load_model

__all__ = ["ENGINE", "FLAGS", "PLAN", "UNMODELLED", "read_plan", "write_plan"]

PLAN = (
    Flag("--tensor-model-parallel-size", "plan.tensor_parallel"),
    Flag("--pipeline-model-parallel-size", "plan.pipeline_parallel"),
    Flag("--context-parallel-size", "plan.context_parallel"),
    Flag("--expert-model-parallel-size", "plan.expert_parallel"),
    Flag("--micro-batch-size", "batch.micro_batch_size"),
    Flag("--global-batch-size", "batch.global_batch_size"),
    Flag("--seq-length", "batch.sequence_length"),
    Flag("--train-iters", "steps"),
    Flag("--mtp-num-layers", "plan.options.mtp_num_layers"),
)
"""Flags that are one key of a scenario."""

_SIZES = (
    "--num-layers", "--hidden-size", "--ffn-hidden-size", "--num-attention-heads", "--num-query-groups",
    "--kv-channels", "--max-position-embeddings", "--vocab-size", "--num-experts", "--moe-router-topk",
    "--moe-ffn-hidden-size", "--moe-shared-expert-intermediate-size", "--q-lora-rank", "--kv-lora-rank",
    "--qk-head-dim", "--qk-pos-emb-head-dim", "--v-head-dim",
)  # fmt: skip
_SWITCHES = (
    "--group-query-attention", "--swiglu", "--disable-bias-linear", "--add-qkv-bias", "--qk-layernorm",
    "--untie-embeddings-and-output-weights", "--multi-latent-attention", "--sequence-parallel",
    "--use-distributed-optimizer", "--use-megatron-fsdp", "--recompute-activations", "--bf16", "--fp16",
    "--optimizer-cpu-offload", "--overlap-grad-reduce", "--overlap-param-gather", "--tp-comm-overlap",
    "--no-overlap-p2p-communication", "--accumulate-allreduce-grads-in-fp32",
    "--overlap-moe-expert-parallel-comm",
)  # fmt: skip
UNMODELLED = {
    "--decoder-first-pipeline-num-layers": "layers are spread evenly over the stages",
    "--decoder-last-pipeline-num-layers": "layers are spread evenly over the stages",
    "--pipeline-model-parallel-layout": "layers are spread evenly over the stages",
    "--account-for-embedding-in-pipeline-split": "layers are spread evenly over the stages",
    "--account-for-loss-in-pipeline-split": "layers are spread evenly over the stages",
    "--cpu-offloading-num-layers": "no activations are offloaded; see the 'activation-offload' strategy",
    "--use-torch-fsdp2": "read as the plan's ZeRO stage says; 'zero_stage: 3' is close to it",
    "--num-distributed-optimizer-instances": "optimizer states are sharded over all data-parallel ranks",
    "--use-tp-pp-dp-mapping": "ranks lie in the order tp-cp-dp-pp",
    "--window-size": "take a model with sliding windows instead",
    "--delay-wgrad-compute": "weight gradients are computed with their backward",
    "--optimizer-offload-fraction": "all optimizer states are offloaded",
}
"""Flags that change a plan in a way that is not read here, and what is assumed instead."""

FLAGS = (
    *PLAN,
    *(Flag(name) for name in _SIZES),
    *(Flag(name, kind=None) for name in _SWITCHES),
    *(Flag(name, kind=list) for name in UNMODELLED),
    Flag("--num-virtual-stages-per-pipeline-rank"),
    Flag("--num-layers-per-virtual-pipeline-stage"),
    Flag("--data-parallel-sharding-strategy", kind=str),
    Flag("--recompute-granularity", kind=str),
    Flag("--recompute-method", kind=str),
    Flag("--recompute-modules", kind=list),
    Flag("--recompute-num-layers"),
    Flag("--fp8-format", kind=str),
    Flag("--cp-comm-type", kind=list),
    Flag("--expert-tensor-parallel-size"),
    Flag("--moe-expert-capacity-factor", kind=float),
    Flag("--moe-pad-expert-input-to-capacity", kind=None),
    Flag("--normalization", kind=str),
    Flag("--position-embedding-type", kind=str),
    Flag("--moe-layer-freq", kind=str),
    Flag("--nproc-per-node", kind=int),
    Flag("--nnodes", kind=str),
)
_SHARDING = {1: "optim", 2: "optim_grads", 3: "optim_grads_params"}
_CONTEXT = {"ring": "p2p", "megatron-allgather": "allgather", "ulysses": "a2a"}
_CAPACITY = {"gshard": 1.0, "switch": 1.25}
"""Capacity factors where the plan has none of its own."""


def write(setup: Setup) -> Written:
    """``torchrun`` with ``pretrain_gpt.py`` on made-up data: a speed test of the plan."""
    written = Written(("torchrun",))
    written.add("--nnodes", setup.nodes)
    written.add("--nproc-per-node", setup.per_node, "plan.data_parallel")
    written.arguments.append(("pretrain_gpt.py", None))
    shape = sizes(setup.model)
    if shape is None:
        written.notes.append(f"{setup.model.name} has layers that Megatron-LM's flags cannot make: give its own spec")
    for name, value in (shape or {}).items():
        written.add(name, value, "model")
    written.add_table(PLAN, setup)
    if setup.model.num_nextn_predict_layers and setup.get("plan.options.mtp_num_layers") is None:
        written.add("--mtp-num-layers", setup.model.num_nextn_predict_layers, "model")
    write_plan(written, setup)
    _write_exchanges(written, setup)
    _write_sharding(written, setup)
    if setup.model.layers[0][0].mlp is not None and shape is not None and "--num-experts" in shape:
        written.add("--moe-grouped-gemm")
        written.add("--moe-token-dispatcher-type", "alltoall")
    if not setup.model.dropout:
        written.add("--attention-dropout", 0.0)
        written.add("--hidden-dropout", 0.0)
    written.add("--transformer-impl", "transformer_engine")
    written.add("--tokenizer-type", "NullTokenizer")
    written.add("--mock-data")
    written.add("--lr", 1e-4)
    written.notes.append("data are made up (--mock-data, NullTokenizer) and the learning rate is a placeholder")
    if setup.nodes > 1:
        written.notes.append("on every node add --node-rank, --master-addr and --master-port to torchrun")
    return written


def write_plan(written: Written, setup: Setup) -> None:
    """Sequence parallelism, interleaving, recomputation and precision: flags that Megatron-DeepSpeed shares."""
    if setup["plan.sequence_parallel"]:
        written.add("--sequence-parallel")
    written.said.add("plan.sequence_parallel")
    stages = setup["plan.virtual_stages"]
    if setup["plan.schedule"] == "interleaved-1f1b-overlapped":
        written.add("--overlap-moe-expert-parallel-comm")
    interleaved = ("interleaved-1f1b", "interleaved-1f1b-overlapped")
    if setup["plan.schedule"] in (interleaved if stages > 1 else ("1f1b",)):
        written.said |= {"plan.schedule", "plan.virtual_stages"}
        if stages > 1:
            written.add("--num-virtual-stages-per-pipeline-rank", stages)
    recompute = setup["plan.recompute"]
    method, count = setup.get("plan.options.recompute_method"), setup.get("plan.options.recompute_num_layers")
    if recompute == "every-k":
        written.add("--recompute-granularity", "full", "plan.recompute")
        written.add("--recompute-method", method or "uniform", "plan.options.recompute_method")
        written.add("--recompute-num-layers", count or 1, "plan.options.recompute_num_layers")
    elif recompute == "full":
        written.add("--recompute-granularity", "full", "plan.recompute")
        written.add("--recompute-method", "uniform")
        written.add("--recompute-num-layers", 1)
    elif recompute == "selective":
        written.add("--recompute-granularity", "selective", "plan.recompute")
    elif recompute == "none":
        written.said.add("plan.recompute")
    precision = setup["plan.precision"]
    if precision in ("bf16", "fp16", "fp32", "fp8"):
        written.said.add("plan.precision")
        if precision != "fp32":
            written.add("--fp16" if precision == "fp16" else "--bf16")
        if precision == "fp8":
            written.add("--fp8-format", "hybrid")


def _write_exchanges(written: Written, setup: Setup) -> None:
    """How ranks that share a sequence exchange keys and values, and what experts are sent."""
    context = setup.get("plan.options.context", "ring")
    if context in _CONTEXT and setup["plan.context_parallel"] > 1:  # p2p is Megatron's default: ring is not read again
        written.add("--cp-comm-type", _CONTEXT[context], *(["plan.options.context"] if context != "ring" else []))
    if setup.get("plan.options.expert_tensor_parallel") == 1:
        written.add("--expert-tensor-parallel-size", 1, "plan.options.expert_tensor_parallel")
    expert = setup.get("plan.options.expert")
    if expert in _CAPACITY:
        factor = setup.get("plan.options.capacity_factor", _CAPACITY[expert])
        written.add("--moe-expert-capacity-factor", factor, "plan.options.capacity_factor")
        written.add(
            "--moe-pad-expert-input-to-capacity", None, *(["plan.options.expert"] if expert == "gshard" else [])
        )


def _write_sharding(written: Written, setup: Setup) -> None:
    """ZeRO, offloading, and what the framework overlaps."""
    stage, framework = setup["plan.zero_stage"], setup.framework
    written.said.add("plan.zero_stage")
    if stage:
        written.add("--use-distributed-optimizer")
    if stage > 1:
        written.add("--use-megatron-fsdp")
        written.add("--data-parallel-sharding-strategy", _SHARDING[stage])
        written.add("--ckpt-format", "fsdp_dtensor")
    if setup["plan.offload"] == "zero-offload":
        written.add("--optimizer-cpu-offload", None, "plan.offload")
        written.add("--use-precision-aware-optimizer")
    elif setup["plan.offload"] == "none":
        written.said.add("plan.offload")
    if framework.overlap_grad_reduce:
        written.add("--overlap-grad-reduce")
    if framework.overlap_grad_reduce and framework.overlap_param_gather and stage:
        written.add("--overlap-param-gather")
    if framework.tensor_parallel_overlap and setup["plan.sequence_parallel"]:
        written.add("--tp-comm-overlap")
    if not framework.overlap_p2p and setup["plan.virtual_stages"] > 1:
        written.add("--no-overlap-p2p-communication")
    if framework.gradient_dtype == "fp32":
        written.add("--accumulate-allreduce-grads-in-fp32")


def read(given: Arguments, model: str, files: Mapping[str, str]) -> Read:
    """A training job from the words after ``torchrun``."""
    require(given.values, ("--micro-batch-size", "--seq-length"), "Megatron-LM")
    found = Read(model or by_sizes(given.values), "megatron-core-0.8")
    _world(found, given)
    found.values |= {"batch.micro_batch_size": 1, "steps": 1} | given.by_path(PLAN)
    if "--mtp-num-layers" not in given and load_model(found.model).num_nextn_predict_layers:
        found.values["plan.options.mtp_num_layers"] = 0
    read_plan(found, given)
    _read_exchanges(found, given)
    strategy = given.text("--data-parallel-sharding-strategy", "no_shard")
    stages = {name: stage for stage, name in _SHARDING.items()}
    if "--use-megatron-fsdp" in given and strategy in stages:
        found.values["plan.zero_stage"] = stages[strategy]
    else:
        found.values["plan.zero_stage"] = int("--use-distributed-optimizer" in given)
    if "--optimizer-cpu-offload" in given:
        found.values["plan.offload"] = "zero-offload"
    for flag in ("--overlap-grad-reduce", "--overlap-param-gather"):
        if flag not in given and (flag == "--overlap-grad-reduce" or found.values["plan.zero_stage"]):
            found.assumed.append(f"{flag} is not given, but {found.framework} is simulated with it")
    if "--tp-comm-overlap" in given:
        found.framework = "nemo-24.07"
        found.notes.append("--tp-comm-overlap: read as framework nemo-24.07, which overlaps tensor-parallel traffic")
    return found


def _world(found: Read, given: Arguments) -> None:
    """Nodes, and the data-parallel degree that is left."""
    nodes = given.text("--nnodes", "1").partition(":")[0]
    found.nodes = int(nodes) if nodes.isdigit() else None
    found.per_node = given.number("--nproc-per-node", 0) or None
    if found.nodes is None:
        found.notes.append(f"--nnodes {given.text('--nnodes')} is not a number here: set the number of nodes")


def read_plan(found: Read, given: Arguments) -> None:
    """What :func:`write_plan` writes, data parallelism and the default of the global batch."""
    values: dict[str, Any] = found.values
    rest = 1
    for flag in PLAN[:3]:
        rest *= given.number(flag.name, 1)
    if found.nodes and found.per_node:
        world = found.nodes * found.per_node
        if world % rest == 0:
            values["plan.data_parallel"] = world // rest
        values.setdefault("batch.global_batch_size", values["batch.micro_batch_size"] * max(1, world // rest))
    values["plan.sequence_parallel"] = "--sequence-parallel" in given
    stages = given.number("--num-virtual-stages-per-pipeline-rank", 1)
    if per_stage := given.number("--num-layers-per-virtual-pipeline-stage", 0):
        ranks = given.number("--pipeline-model-parallel-size", 1)
        stages = max(1, given.number("--num-layers", 0) // (ranks * per_stage))
    values["plan.virtual_stages"] = stages
    if "--overlap-moe-expert-parallel-comm" in given and stages > 1:
        values["plan.schedule"] = "interleaved-1f1b-overlapped"
    granularity = given.text("--recompute-granularity")
    method, count = given.text("--recompute-method", "uniform"), given.number("--recompute-num-layers", 1)
    if granularity == "full" and (method, count) == ("uniform", 1):
        values["plan.recompute"] = "full"
    elif granularity == "full":
        values |= {"plan.recompute": "every-k", "plan.options.recompute_method": method}
        values["plan.options.recompute_num_layers"] = count
    else:
        selective = granularity == "selective" or "--recompute-activations" in given
        values["plan.recompute"] = "selective" if selective else "none"
        if selective and (modules := given.values.get("--recompute-modules")):
            assert isinstance(modules, list)
            values["plan.options.recompute_modules"] = "+".join(modules)
    half = "fp16" if "--fp16" in given else "bf16" if "--bf16" in given else "fp32"
    values["plan.precision"] = "fp8" if "--fp8-format" in given else half


def _read_exchanges(found: Read, given: Arguments) -> None:
    """What :func:`_write_exchanges` writes."""
    words = given.values.get("--cp-comm-type", ["p2p"])
    assert isinstance(words, list)
    kinds = {flag: name for name, flag in _CONTEXT.items()}
    if set(words) != {"p2p"} and len(set(words)) == 1 and words[0] in kinds:
        found.values["plan.options.context"] = kinds[words[0]]
    elif set(words) != {"p2p"}:
        found.notes.append(f"--cp-comm-type {' '.join(map(str, words))}: simulated as p2p, the same in all layers")
    tensor = given.number("--tensor-model-parallel-size", 1)
    if (experts := given.number("--expert-tensor-parallel-size", tensor)) != tensor:
        found.values["plan.options.expert_tensor_parallel"] = 1
        if experts != 1:
            found.notes.append(f"--expert-tensor-parallel-size {experts}: simulated as 1, experts are whole on a rank")
    if (factor := given.values.get("--moe-expert-capacity-factor")) is not None:
        found.values |= {"plan.options.expert": "gshard", "plan.options.capacity_factor": factor}
        if "--moe-pad-expert-input-to-capacity" not in given:
            found.notes.append("--moe-expert-capacity-factor: rows below the capacity are padded here, not in your run")


ENGINE = Engine(
    "megatron", "training", "Megatron-LM @000c4ac (core 0.15)", FLAGS, (*MEGATRON, *TORCHRUN), UNMODELLED, write, read
)
