"""Sizes that engines choose themselves, against the rules and logs they publish."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simulator.hardware.profiles import load_node
from simulator.serving.memory import cache_size
from simulator.validation.read_serving import placeholder
from simulator.workload.framework_files import load_framework
from simulator.workload.jobs import Deployment
from simulator.workload.model_files import load_model
from simulator.workload.plan import Plan
from simulator.workload.static_memory import by_static_rule

MIB, GIB = 2.0**20, 2.0**30
SGLANG = load_framework("sglang-0.4")


@pytest.mark.parametrize(
    ("memory", "plan", "tokens", "reserved"),
    [  # 512 + 1.5 per token + 2 per captured sequence + 128 per rank
        (81559, Plan(), 0, 512 + 12288 + 512 + 128),
        (81559, Plan(tensor_parallel=8), 0, 512 + 12288 + 1024 + 1024),
        (143771, Plan(tensor_parallel=4, pipeline_parallel=2), 0, 512 + 12288 + 1024 + 1024),
        (143771, Plan(data_parallel=8, expert_parallel=8), 0, 512 + 12288 + 1024 + 1024 + 512 * 8 * 4.5),
        (81559, Plan(), 1024, 10240),  # no less than 10 GiB on a device of 80
        (46068, Plan(), 1024, 512 + 3072 + 512 + 128),  # nor less than 2,048 tokens
    ],
)  # fmt: skip
def test_sglang_reserves_by_size(memory: float, plan: Plan, tokens: int, reserved: float) -> None:
    share = by_static_rule(SGLANG, memory * MIB, plan, tokens).memory_utilization
    assert share == pytest.approx((memory - reserved) / memory, abs=5e-4)


def test_an_engine_without_a_rule_keeps_its_share() -> None:
    vllm = load_framework("vllm-0.10")
    assert by_static_rule(vllm, 80 * GIB, Plan()) is vllm
    assert by_static_rule(SGLANG, 80 * GIB, Plan(data_parallel=64, expert_parallel=64)) is SGLANG


def test_graphs_of_few_ranks_hold_fewer_sequences() -> None:
    assert [SGLANG.graph_sequences(ranks) for ranks in (1, 2, 4, 8)] == [256, 256, 512, 512]
    assert replace(SGLANG, cuda_graph_wide_ranks=0).graph_sequences(1) == 512


def test_cache_of_sglang_as_its_log_prints_it() -> None:
    """Qwen3-235B-A22B-FP8 on four H100 with a share of 0.93: 367,404 tokens (vllm-project/vllm issue 21348). Ours are
    15 % more: the share is of what is free once the processes have started, some 2 GiB less than the device."""
    deployment = Deployment(
        "d", load_model("qwen3-235b-a22b"), SGLANG, Plan(tensor_parallel=4, precision="fp8"), placeholder(),
        memory_utilization=0.93, max_num_batched_tokens=8192, block_size=1,
    )  # fmt: skip
    assert cache_size(deployment, load_node("dgx-h100")).tokens == pytest.approx(367_404, rel=0.16)


@pytest.mark.parametrize(("model", "published"), [("gpt-oss-120b", 60.8), ("gpt-oss-20b", 12.8)])
def test_weights_of_gpt_oss_are_its_checkpoints(model: str, published: float) -> None:
    """Experts in MXFP4 with a scale for 32 weights, the rest in 16 bit: 60.8 and 12.8 GiB (OpenAI's model
    card, table 1)."""
    deployment = Deployment(
        "d", load_model(model), load_framework("vllm-0.10"), Plan(precision="mxfp4"), placeholder()
    )  # fmt: skip
    weights = cache_size(deployment, load_node("dgx-h100")).ledger.stages[0].by_class["param"]
    assert weights / GIB == pytest.approx(published, rel=0.005)
