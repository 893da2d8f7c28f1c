"""What the share of memory that an engine takes is a share of."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simulator.hardware.profiles import load_node
from simulator.serving.memory import cache_size
from simulator.validation.read_serving import single_request
from simulator.workload.framework_files import load_framework
from simulator.workload.jobs import Deployment
from simulator.workload.model_files import load_model
from simulator.workload.plan import Plan


def cache(share_of: str, share: float) -> tuple[float, dict[str, float], float]:
    node, framework = load_node("dgx-h100"), replace(load_framework("vllm-latest"), memory_share=share_of)
    deployment = Deployment(
        "d", load_model("llama-3.1-70b"), framework, Plan(tensor_parallel=4), single_request(), memory_utilization=share
    )
    stage = cache_size(deployment, node).ledger.stages[0].by_class
    return node.accelerator.memory_usable, dict(stage), stage["kv"]


def test_share_of_the_device_of_what_is_static_and_of_what_is_left() -> None:
    memory, held, device = cache("device", 0.9)
    beside = held["workspace"] + held["reserve"]
    assert device == pytest.approx(0.9 * memory - held["param"] - beside)
    assert cache("free", 0.9)[2] == pytest.approx(0.9 * (memory - held["param"] - beside))
    assert cache("static", 0.8)[2] == pytest.approx(0.8 * memory - held["param"])
    # The rest has to hold the activations in any case.
    assert cache("static", 1.0)[2] == pytest.approx(memory - held["param"] - beside)


def test_vllm_takes_smaller_batches_on_a100_and_on_small_devices() -> None:
    gib = 2.0**30
    for device, memory, tokens, sequences in (
        ("h100-sxm", 80 * gib, 8192, 1024), ("a100-sxm-80gb", 80 * gib, 2048, 256), ("l40s", 48 * gib, 2048, 256),
    ):  # fmt: skip
        framework = load_framework("vllm-0.10").on(device, memory)
        assert (framework.max_num_batched_tokens, framework.max_num_seqs) == (tokens, sequences)
    plain = load_framework("tensorrt-llm-1.0")
    assert plain.on("l40s", 48 * gib) is plain
