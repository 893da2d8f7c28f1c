"""From plan to arguments and back: equal plans, real flags, named errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

import simulator
from simulator.errors import ConfigError
from simulator.scenario.deploy import ENGINES, export_plan, import_arguments
from simulator.scenario.deploy.shell import MARK, statements
from simulator.scenario.deploy.writing import LAUNCH
from simulator.scenario.load import load_scenario
from tests.exported_plans import deployments, training_plans

TRAINING, SERVING = (sorted(n for n, e in ENGINES.items() if e.area == area) for area in ("training", "serving"))


def back(document: dict[str, Any], engine: str, folder: Path, marks: bool) -> tuple[Any, Any]:
    """The scenario, and what is read from its arguments; without marks from these alone."""
    exported = export_plan(document, engine=engine)
    for name, text in exported.files.items():
        lines = [line for line in text.splitlines() if marks or not line.startswith(MARK)]
        (folder / name).write_text("\n".join(lines))
    imported = import_arguments(folder / LAUNCH, node="hgx-h200")
    return load_scenario(document), load_scenario(imported.document)


@pytest.mark.parametrize("engine", TRAINING)
@settings(max_examples=25, deadline=None)
@given(document=training_plans())
def test_a_training_plan_survives_its_arguments(
    tmp_path_factory: pytest.TempPathFactory, engine: str, document: dict[str, Any]
) -> None:
    first, second = back(document, engine, tmp_path_factory.mktemp("e"), marks=False)
    one, two = first.training[0], second.training[0]
    assert (one.plan, one.batch, one.steps) == (two.plan, two.batch, two.steps)
    assert one.model.layers == two.model.layers
    assert first.cluster.accelerator_count == second.cluster.accelerator_count


@pytest.mark.parametrize(
    ("model", "plan", "words"),
    [
        ("llama-3.1-8b", {"context_parallel": 4}, ["--cp-comm-type p2p"]),
        ("llama-3.1-8b", {"context_parallel": 4, "context": "ulysses"}, ["--cp-comm-type a2a"]),
        ("llama-3.1-8b", {"context_parallel": 4, "context": "megatron-allgather"}, ["--cp-comm-type allgather"]),
        ("mixtral-8x7b", {"expert_parallel": 8, "expert": "gshard", "options": {"capacity_factor": 1.5}},
         ["--moe-expert-capacity-factor 1.5", "--moe-pad-expert-input-to-capacity"]),
        ("mixtral-8x7b", {"tensor_parallel": 4, "expert_parallel": 8, "options": {"expert_tensor_parallel": 1}},
         ["--expert-tensor-parallel-size 1"]),
    ],
)  # fmt: skip
def test_what_ranks_exchange_is_said_to_megatron_and_read_again(
    tmp_path: Path, model: str, plan: dict[str, Any], words: list[str]
) -> None:
    batch = {"global_batch_size": 128, "micro_batch_size": 1, "sequence_length": 4096}
    job = {"training": "job", "model": model, "framework": "megatron-core-0.8", "batch": batch, "plan": plan}
    document = {"cluster": {"nodes": {"profile": "hgx-h200", "count": 8}}, "workloads": [job]}
    exported = export_plan(document, engine="megatron")
    for flag in words:
        assert f"{flag} " in exported.files[LAUNCH] or f"{flag}\n" in exported.files[LAUNCH]
    assert not [mark for mark in exported.unsaid if "context" in mark or "expert" in mark or "capacity" in mark]
    first, second = back(document, "megatron", tmp_path, marks=False)
    assert dict(second.training[0].plan.options) == dict(first.training[0].plan.options) | (
        {"context": plan["context"]} if "context" in plan else {}
    )


@pytest.mark.parametrize("engine", SERVING)
@settings(max_examples=25, deadline=None)
@given(document=deployments())
def test_a_deployment_survives_its_arguments(
    tmp_path_factory: pytest.TempPathFactory, engine: str, document: dict[str, Any]
) -> None:
    first, second = back(document, engine, tmp_path_factory.mktemp("e"), marks=False)
    one, two = first.deployments[0], second.deployments[0]
    names = ["plan", "batching", "max_num_batched_tokens", "max_num_seqs", "max_model_len", "block_size", "kv_dtype",
             "kv_cache"]  # fmt: skip
    names += ["memory_utilization"] * (engine != "tensorrt-llm")  # there it is a share of what the weights leave
    assert [getattr(one, n) for n in names] == [getattr(two, n) for n in names]


@pytest.mark.parametrize(
    ("name", "engine"),
    [("design", "megatron"), ("design", "vllm"), ("llama3-70b-chat", "sglang"),
     ("llama3-70b-chat", "tensorrt-llm"), ("gpt-1t-selene", "megatron"), ("gpt3-175b-selene", "deepspeed")],
)  # fmt: skip
def test_with_its_marks_a_shipped_scenario_comes_back_whole(tmp_path: Path, name: str, engine: str) -> None:
    first = load_scenario(name)
    area = ENGINES[engine].area
    job: Any = (first.training if area == "training" else first.deployments)[0]
    exported = export_plan(name, engine=engine, workload=job.name)
    for file, text in exported.files.items():
        (tmp_path / file).write_text(text)
    second = load_scenario(import_arguments(tmp_path / LAUNCH).document)
    again: Any = (second.training if area == "training" else second.deployments)[0]
    assert (again.plan, again.model, again.framework, again.name) == (job.plan, job.model, job.framework, job.name)
    if area == "training":
        assert (again.batch, again.steps, again.checkpoint) == (job.batch, job.steps, job.checkpoint)
    else:
        assert (again.replicas, again.slo, again.router) == (job.replicas, job.slo, job.router)
        assert len(again.requests) == len(job.requests)


def test_what_an_engine_cannot_say_is_marked_and_read_again(tmp_path: Path) -> None:
    changes = ["workloads.pretrain.plan.schedule=zb-h1", "workloads.pretrain.plan.options.context=ring"]
    exported = export_plan("how-to-split-a-70b", changes)
    assert 'workloads.0.plan.schedule="zb-h1"' in exported.unsaid
    assert 'workloads.0.plan.options.context="ring"' in exported.unsaid
    (tmp_path / LAUNCH).write_text(exported.files[LAUNCH])
    again = simulator.load(import_arguments(tmp_path / LAUNCH).document).training[0]
    assert again.plan == load_scenario("how-to-split-a-70b", changes).training[0].plan


def test_a_script_as_people_write_them(tmp_path: Path) -> None:
    (tmp_path / "train.sh").write_text(
        """#!/bin/bash
export CUDA_DEVICE_MAX_CONNECTIONS=1
GPUS_PER_NODE=8
NUM_NODES=${NUM_NODES:-4}
MODEL_ARGS=(
    --num-layers 32
    --hidden-size 4096   # Llama 8B
    --ffn-hidden-size 14336
    --num-attention-heads 32
    --group-query-attention
    --num-query-groups 8
    --vocab-size 128256
)
PARALLEL="--tensor-model-parallel-size 2 --pipeline-model-parallel-size 4 --num-layers-per-virtual-pipeline-stage 4"
torchrun --nproc_per_node $GPUS_PER_NODE --nnodes=$NUM_NODES --master_addr localhost pretrain_gpt.py \\
    ${MODEL_ARGS[@]} $PARALLEL --sequence-parallel --micro-batch-size 1 --global-batch-size 256 --seq-length 8192 \\
    --max-position-embeddings 8192 --bf16 --use-distributed-optimizer --lr 3e-4 \\
    --recompute-granularity selective --recompute-modules core_attn layernorm \\
    --log-interval 10 --save "$CHECKPOINTS" > train.log 2>&1
"""
    )
    found = import_arguments(tmp_path / "train.sh")
    plan = simulator.load(found.document).training[0].plan
    assert (plan.tensor_parallel, plan.pipeline_parallel, plan.data_parallel, plan.virtual_stages) == (2, 4, 4, 2)
    assert plan.schedule == "interleaved-1f1b"
    assert (plan.recompute, plan.zero_stage, plan.precision) == ("selective", 1, "bf16")
    assert plan.option("recompute_modules") == "core_attn+layernorm"
    assert found.document["workloads"][0]["model"] == "llama-3-8b"
    assert any(flag.startswith("--log-interval") for flag in found.ignored)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("vllm serve meta-llama/Llama-3.1-8B --tensor-paralel-size 8", "did you mean '--tensor-parallel-size'"),
        ("vllm serve meta-llama/Llama-3.1-8B -tp eight", "needs a whole number, have 'eight'"),
        ("vllm serve nobody/knows-it", "knows-it"),
        ("vllm serve meta-llama/Llama-3.1-8B --max-model-len many", "needs a number of tokens"),
        ("python -m sglang.launch_server --tp 8", "lack --model-path"),
        ("torchrun pretrain_gpt.py --num-layers 3 --micro-batch-size 1 --seq-length 8", "no shipped model has"),
        ("torchrun pretrain_gpt.py --num-layers 32", "lack --micro-batch-size, --seq-length"),
        ("deepspeed pretrain_gpt.py --deepspeed_config nowhere.json", "which is not there"),
        ("trtllm-serve --tp_size 8", "names no model"),
        ("echo hello world", "no command starts"),
        ("nowhere.sh", "neither a file nor a command"),
        ('vllm serve "x', "cannot be read"),
    ],
)
def test_wrong_arguments_are_named(command: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("(", r"\(")):
        import_arguments(command)


def test_what_is_not_simulated_is_said() -> None:
    found = import_arguments("vllm serve deepseek-ai/DeepSeek-V3 -tp 8 -dp 2 --enable-expert-parallel --enforce-eager")
    said = " ".join(found.notes)
    assert "--enforce-eager is not simulated" in said
    assert "experts over 16 ranks are simulated over 2" in said
    assert "dgx-h100 is assumed" in said
    assert found.document["workloads"][0]["deployment"]["kv_cache"] == "prefix-lru"  # on in the V1 engine


def test_a_deepspeed_configuration_alone(tmp_path: Path) -> None:
    config = tmp_path / "ds.json"
    config.write_text('{"train_batch_size": 64, "train_micro_batch_size_per_gpu": 1, "bf16": {"enabled": true}, '
                      '"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}}')  # fmt: skip
    found = import_arguments(config, model="llama-3.1-8b")
    job = simulator.load(found.document).training[0]
    assert (job.plan.zero_stage, job.plan.offload, job.plan.option("offload_tier")) == (3, "zero-infinity", "nvme")
    assert (job.batch.global_batch_size, job.plan.precision, job.plan.data_parallel) == (64, "bf16", 8)
    config.write_text('{"zero_optimisation": {}}')
    with pytest.raises(ConfigError, match="zero_optimization"):
        import_arguments(config, model="llama-3.1-8b")


def test_statements_of_a_script() -> None:
    assert statements("A=1; B=($A 'x y')\nrun ${B[@]} ${C:-z} \"$A\" && next &") == [
        ["run", "1", "x y", "z", "1"], ["next"],
    ]  # fmt: skip
