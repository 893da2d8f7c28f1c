"""Which matrices of a checkpoint are narrow: those that its publisher quantised."""

from __future__ import annotations

import pytest

from simulator.serving.token_costs import served_block
from simulator.workload.framework_files import load_framework
from simulator.workload.model_files import load_model
from simulator.workload.plan import Plan

ATTENTION = {"attention.q_a", "attention.q_b", "attention.kv_a", "attention.kv_b"}


@pytest.mark.parametrize(
    ("model", "precision", "wide"),
    [
        ("deepseek-v3", "fp4", {"mlp.router"}),
        ("deepseek-v3", "fp4-mlp", ATTENTION | {"mlp.router"}),  # nvidia/DeepSeek-R1-0528-FP4-v2, its model card
        ("gpt-oss-120b", "fp4-fp8", {"attention.qkv", "attention.output", "mlp.router"}),  # modules_to_not_convert
    ],
)
def test_what_stays_in_16_bit(model: str, precision: str, wide: set[str]) -> None:
    spec = load_model(model)
    ops = served_block(spec.layers[-1][0], spec, Plan(precision=precision), load_framework("vllm-latest"), 64).forward
    weights = {op.name: tensor.dtype for op in ops for tensor in op.reads if tensor.name == f"{op.name}.weight"}
    matrices = {name: dtype for name, dtype in weights.items() if "norm" not in name}
    assert {name for name, dtype in matrices.items() if dtype == "bf16"} == wide
    assert {dtype for name, dtype in matrices.items() if name not in wide} == {"fp4"}
