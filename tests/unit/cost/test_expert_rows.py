"""Rows that TensorRT-LLM gathers for experts in fp8 on Hopper cost time once per block, by rows and hidden size."""

from __future__ import annotations

import pytest

from simulator.cost.device import DeviceCost
from simulator.cost.kernels import expert_rows
from simulator.hardware.profiles import load_accelerator
from simulator.serving.token_costs import served_block
from simulator.workload.framework_files import load_framework
from simulator.workload.model_files import load_model
from simulator.workload.ops import OpKind
from simulator.workload.plan import Plan
from simulator.workload.work import work_of


def experts(accelerator: str, framework: str, model: str, tokens: int, precision: str = "fp8") -> float:
    """Grouped GEMMs of a layer [s]."""
    spec, plan, engine = load_model(model), Plan(precision=precision, tensor_parallel=8), load_framework(framework)
    layer = list(spec.layers)[-1][0]
    cost = DeviceCost(load_accelerator(accelerator), engine)
    ops = served_block(layer, spec, plan, engine, tokens).forward
    return sum(cost.price(work_of(op, plan.mesh)).seconds for op in ops if op.kind is OpKind.GROUPED_GEMM)


@pytest.mark.parametrize("accelerator", ["h100-sxm", "h200-sxm"])
def test_deepseek_pays_per_gathered_element(accelerator: str) -> None:
    """8 experts per token and 7,168 wide: TensorRT-LLM's table has 10 ms at 16,384 tokens of eight ranks."""
    constant = expert_rows("cutlass", "hopper", "fp8")
    assert constant is not None
    more = experts(accelerator, "tensorrt-llm-1.0", "deepseek-v3", 16384) - experts(
        accelerator, "sglang-0.4", "deepseek-v3", 16384
    )
    assert more == pytest.approx(16384 * 8 * 7168 * constant.value, rel=0.02)


@pytest.mark.parametrize(
    ("accelerator", "model", "precision"),
    [
        ("b200-sxm", "deepseek-v3", "fp8"),  # DeepGEMM's kernels
        ("h200-sxm", "deepseek-v3", "bf16"),
        ("h200-sxm", "mixtral-8x7b", "fp8"),  # one scale per tensor
    ],
)
def test_others_do_not(accelerator: str, model: str, precision: str) -> None:
    mine, theirs = (experts(accelerator, e, model, 4096, precision) for e in ("tensorrt-llm-1.0", "sglang-0.4"))
    assert mine == pytest.approx(theirs, rel=0.02)
