"""Megatron-DeepSpeed: a DeepSpeed configuration, and the launcher with the flags of the Megatron-DeepSpeed fork.

Keys as in DeepSpeed 0.17.0 (runtime/config.py, runtime/zero/config.py, launcher/runner.py), flags as in
deepspeedai/Megatron-DeepSpeed megatron/arguments.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from simulator.errors import ConfigError, Issue, IssueCollector, did_you_mean
from simulator.scenario.deploy import megatron
from simulator.scenario.deploy.flags import Arguments, Flag
from simulator.scenario.deploy.known import DEEPSPEED_LAUNCHER, MEGATRON
from simulator.scenario.deploy.models import by_sizes, sizes
from simulator.scenario.deploy.types import Engine, Read, Setup, Written

__all__ = ["CONFIG", "ENGINE"]

CONFIG = "ds_config.json"
_OWN = """
    no-pipeline-parallel cpu-optimizer cpu_torch_adam ds_fused_adam use-tutel inference ds-inference
    force-ds-sequence-parallel lr-decay-tokens lr-warmup-tokens load-tag no-load-lr-state universal-checkpoint
    no-query-key-layer-scaling enable-expert-tensor-parallelism partition-method DDP-impl data-impl
    train-data-exact-num-epochs zero-reduce-scatter zero-contigious-gradients zero-reduce-bucket-size
    zero-allgather-bucket-size remote-device use-pin-memory contigious-checkpointing synchronize-each-layer
    profile-backward deepspeed_mpi checkpoint-activations
"""
UNMODELLED = {
    **{name: why for name, why in megatron.UNMODELLED.items() if name != "--use-torch-fsdp2"},
    "--partition-activations": "saved activations are whole on every tensor-parallel rank",
    "--checkpoint-in-cpu": "saved activations stay on the device; see the 'activation-offload' strategy",
    "--custom-partition": "layers are spread evenly over the stages",
}
_OTHERS = ("--context-parallel-size", "--expert-model-parallel-size", "--nproc-per-node", "--nnodes")
FLAGS = (
    *(f for f in megatron.FLAGS if f.name not in _OTHERS and f.name not in UNMODELLED),
    *(Flag(name, kind=list) for name in UNMODELLED),
    Flag("--ds-sequence-parallel-size"),
    Flag("--moe-expert-parallel-size", "plan.expert_parallel"),
    Flag("--zero-stage"),
    Flag("--deepspeed", kind=None),
    Flag("--deepspeed-activation-checkpointing", kind=None),
    Flag("--deepspeed_config", kind=str),
    Flag("--num_nodes"),
    Flag("--num_gpus", aliases=("--num_accelerators",)),
)
_TABLE = tuple(f for f in FLAGS if f.path)
_TOP = (
    "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "optimizer", "scheduler",
    "communication_data_type", "seq_parallel_communication_data_type", "prescale_gradients",
    "gradient_predivide_factor", "sparse_gradients", "fp16", "bf16", "bfloat16", "amp", "gradient_clipping",
    "zero_optimization", "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer", "steps_per_print",
    "wall_clock_breakdown", "dump_state", "flops_profiler", "activation_checkpointing", "sparse_attention",
    "data_types", "tensorboard", "wandb", "csv_monitor", "comet", "comms_logger", "compression_training",
    "curriculum_learning", "data_efficiency", "progressive_layer_drop", "eigenvalue", "checkpoint", "aio",
    "autotuning", "elasticity", "pipeline", "tensor_parallel", "memory_breakdown", "dataloader_drop_last",
    "data_parallel_size", "nebula", "timers", "compile", "hybrid_engine", "weight_quantization",
)  # fmt: skip


def write(setup: Setup) -> Written:
    """``deepspeed`` with ``pretrain_gpt.py`` of Megatron-DeepSpeed, and the configuration beside it."""
    written = Written(("deepspeed",))
    written.add("--num_nodes", setup.nodes)
    written.add("--num_gpus", setup.per_node, "plan.data_parallel")
    written.arguments.append(("pretrain_gpt.py", None))
    shape = sizes(setup.model)
    if shape is None:
        written.notes.append(f"{setup.model.name} has layers that Megatron-DeepSpeed's flags cannot make")
    for name, value in (shape or {}).items():
        written.add(name, value, "model")
    written.add_table(tuple(f for f in _TABLE if f.path != "plan.expert_parallel"), setup)
    if setup["plan.expert_parallel"] > 1:
        written.add("--moe-expert-parallel-size", setup["plan.expert_parallel"])
    written.said.add("plan.expert_parallel")
    _write_context(written, setup)
    megatron.write_plan(written, setup)
    if setup["plan.virtual_stages"] > 1:
        written.said -= {"plan.virtual_stages", "plan.schedule"}
        written.notes.append("DeepSpeed's pipeline does not interleave: drop --num-virtual-stages-per-pipeline-rank")
    if setup["plan.recompute"] != "none":
        written.add("--deepspeed-activation-checkpointing")
    if setup["plan.pipeline_parallel"] == 1:
        written.add("--no-pipeline-parallel")
    config = _configuration(setup, written)
    written.add("--deepspeed")
    written.add("--deepspeed_config", CONFIG)
    written.add("--zero-stage", setup["plan.zero_stage"], "plan.zero_stage")
    written.add("--tokenizer-type", "NullTokenizer")
    written.add("--lr", 1e-4)
    written.notes.append("add --data-path and a tokenizer; the learning rate is a placeholder")
    if setup.nodes > 1:
        written.notes.append("name the nodes in a hostfile (--hostfile)")
    written.files[CONFIG] = json.dumps(config, indent=2) + "\n"
    return written


def _write_context(written: Written, setup: Setup) -> None:
    ranks = setup["plan.context_parallel"]
    if ranks == 1 or setup.get("plan.options.context") == "ulysses":
        written.said |= {"plan.context_parallel", "plan.options.context"}
        if ranks > 1:
            written.add("--ds-sequence-parallel-size", ranks)
    else:
        written.notes.append("DeepSpeed splits sequences as Ulysses does only (plan.options.context: ulysses)")


def _configuration(setup: Setup, written: Written) -> dict[str, Any]:
    """The JSON file."""
    micro, batch = setup["batch.micro_batch_size"], setup["batch.global_batch_size"]
    precision, offload = setup["plan.precision"], setup["plan.offload"]
    zero: dict[str, Any] = {"stage": setup["plan.zero_stage"], "overlap_comm": setup.framework.overlap_grad_reduce}
    config: dict[str, Any] = {
        "train_batch_size": batch, "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": batch // (micro * setup["plan.data_parallel"]),
    }  # fmt: skip
    if precision == "fp8":
        written.said.discard("plan.precision")
        written.notes.append("fp8 is not a setting of DeepSpeed: the command trains in bf16")
    if precision in ("fp16", "bf16", "fp8"):
        config["fp16" if precision == "fp16" else "bf16"] = {"enabled": True}
    if offload == "none":
        written.said.add("plan.offload")
    elif offload in ("zero-offload", "zero-infinity"):
        written.said |= {"plan.offload", "plan.options.offload_tier"}
        device = "nvme" if setup.get("plan.options.offload_tier") == "nvme" and offload == "zero-infinity" else "cpu"
        place: dict[str, Any] = {"device": device} | ({"nvme_path": "/local_nvme"} if device == "nvme" else {})
        zero["offload_optimizer"] = place
        if offload == "zero-infinity":
            zero["offload_param"] = place
    _sharding_options(setup, zero, written)
    return {**config, "zero_optimization": zero}


def _sharding_options(setup: Setup, zero: dict[str, Any], written: Written) -> None:
    """ZeRO++ and MiCS."""
    kind = setup.get("plan.options.sharding")
    if kind == "zero++":
        zero["zero_hpz_partition_size"] = setup.get("plan.options.secondary_group", 1)
        zero["zero_quantized_weights"] = setup.get("plan.options.quantized_weights", True)
        zero["zero_quantized_gradients"] = setup.get("plan.options.quantized_gradients", True)
        names = ("sharding", "secondary_group", "quantized_weights", "quantized_gradients")
        written.said |= {f"plan.options.{name}" for name in names}
    elif kind == "mics":
        zero["mics_shard_size"] = setup.get("plan.options.shard_group")
        written.said |= {"plan.options.sharding", "plan.options.shard_group"}


def read(given: Arguments, model: str, files: Mapping[str, str]) -> Read:
    """A training job from the words after ``deepspeed`` and the configuration that they name, or from that alone."""
    config = _loaded(given, files)
    zero = config.get("zero_optimization") or {}
    batch = {"--micro-batch-size": "train_micro_batch_size_per_gpu", "--global-batch-size": "train_batch_size"}
    for flag, key in batch.items():
        if flag not in given and isinstance(config.get(key), int):
            given.values[flag] = config[key]
    found = Read(model or by_sizes(given.values), "deepspeed-2022")
    found.nodes, found.per_node = given.number("--num_nodes", 1), given.number("--num_gpus", 0) or None
    found.values |= {"batch.micro_batch_size": 1, "steps": 1} | given.by_path(_TABLE)
    ranks = given.number("--ds-sequence-parallel-size", 1)
    if ranks > 1:
        found.values |= {"plan.context_parallel": ranks, "plan.options.context": "ulysses"}
        given.values["--context-parallel-size"] = ranks
    megatron.read_plan(found, given)
    _read_configuration(found, config, zero, given)
    if "batch.sequence_length" not in found.values:
        found.values["batch.sequence_length"] = 2048
        found.assumed.append("--seq-length is not given: 2048 tokens are assumed")
    return found


def _loaded(given: Arguments, files: Mapping[str, str]) -> dict[str, Any]:
    name = given.text("--deepspeed_config")
    if not name:
        return {}
    text = files.get(name)
    if text is None:
        raise ConfigError(f"--deepspeed_config names '{name}', which is not there")
    try:
        config = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{name} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{name} is not a mapping")
    issues = IssueCollector()
    for key in config:
        if key not in _TOP:
            hint = did_you_mean(key, _TOP) or "see www.deepspeed.ai/docs/config-json"
            issues.extend([Issue(name, 0, 0, key, f"DeepSpeed has no key '{key}', {hint}")])
    issues.raise_if_any()
    return config


def _read_configuration(found: Read, config: dict[str, Any], zero: dict[str, Any], given: Arguments) -> None:
    values = found.values
    values["plan.zero_stage"] = zero.get("stage", given.number("--zero-stage", 0))
    for precision, keys in (("fp16", ("fp16",)), ("bf16", ("bf16", "bfloat16"))):
        if any((config.get(key) or {}).get("enabled") for key in keys):
            values["plan.precision"] = precision
    places = {key: (zero.get(f"offload_{key}") or {}).get("device", "none") for key in ("optimizer", "param")}
    if places["param"] != "none":
        values["plan.offload"] = "zero-infinity"
        if places["param"] == "nvme":
            values["plan.options.offload_tier"] = "nvme"
    elif places["optimizer"] != "none":
        values["plan.offload"] = "zero-offload"
    if zero.get("zero_hpz_partition_size", 1) > 1 or zero.get("zero_quantized_weights"):
        values["plan.options.sharding"] = "zero++"
        values["plan.options.secondary_group"] = zero.get("zero_hpz_partition_size", 1)
        values["plan.options.quantized_weights"] = bool(zero.get("zero_quantized_weights"))
        values["plan.options.quantized_gradients"] = bool(zero.get("zero_quantized_gradients"))
    elif zero.get("mics_shard_size", -1) > 0:
        values |= {"plan.options.sharding": "mics", "plan.options.shard_group": zero["mics_shard_size"]}
    steps, micro = config.get("gradient_accumulation_steps"), values["batch.micro_batch_size"]
    ranks = values.get("plan.data_parallel")
    if "train_batch_size" not in config and isinstance(steps, int) and ranks and "--global-batch-size" not in given:
        values["batch.global_batch_size"] = steps * micro * ranks


ENGINE = Engine(
    "deepspeed",
    "training",
    "DeepSpeed 0.17.0 with Megatron-DeepSpeed",
    FLAGS,
    (*MEGATRON, *DEEPSPEED_LAUNCHER, *(f"--{name}" for name in _OWN.split())),
    UNMODELLED,
    write,
    read,
)
