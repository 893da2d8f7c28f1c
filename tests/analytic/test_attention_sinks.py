"""Prompts of attention with sinks, where the fast kernels have none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simulator.cost.attention import TRITON_SINKS
from simulator.cost.device import DeviceCost
from simulator.hardware.profiles import load_accelerator
from simulator.serving.attention_terms import SoftmaxTerm, attention_term
from simulator.workload.framework_files import load_framework
from simulator.workload.model_files import load_model

FULL = next(
    layer.attention for layer, _ in load_model("gpt-oss-20b").layers
    if layer.attention is not None and layer.attention.kind == "full"
)  # fmt: skip


def seconds(device: str, engine: str, sinks: bool) -> float:
    """Of a chunk of 2,048 tokens behind 30,000."""
    cost = DeviceCost(load_accelerator(device), load_framework(engine))
    term = attention_term(replace(FULL, sinks=sinks), cost, 1, "bf16")
    assert isinstance(term, SoftmaxTerm)
    return term.chunk_seconds(2048, 30_000)


def test_before_hopper_a_triton_kernel_takes_them() -> None:
    assert seconds("a100-sxm-80gb", "vllm-0.10", True) * TRITON_SINKS.value == pytest.approx(
        seconds("a100-sxm-80gb", "vllm-0.10", False), rel=1e-6
    )
    pairs = 2048 * (30_000 + 1024.5)
    assert pairs * 64 * 2 * 128 / seconds("a100-sxm-80gb", "vllm-0.10", True) < 0.16 * 312e12  # 16 rows per program


@pytest.mark.parametrize(("device", "engine"), [("h100-sxm", "vllm-0.10"), ("a100-sxm-80gb", "tensorrt-llm-1.0")])
def test_elsewhere_they_cost_nothing(device: str, engine: str) -> None:
    assert seconds(device, engine, True) == seconds(device, engine, False)
