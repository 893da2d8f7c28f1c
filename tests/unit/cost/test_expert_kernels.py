"""Expert blocks by the library that runs them: the closed form of a block, and which library an engine takes where."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simulator.cost.device import DeviceCost
from simulator.cost.expert_kernels import EXPERT_CURVES, LIBRARIES, expert_curve
from simulator.cost.kernels import grouped_gemm_flops, smooth_max
from simulator.hardware.profiles import load_accelerator
from simulator.serving.token_costs import served_block
from simulator.workload.framework_files import framework_names, load_framework
from simulator.workload.model_files import load_model
from simulator.workload.ops import OpKind, Work
from simulator.workload.plan import Plan
from simulator.workload.work import work_of

PARTS = ("dispatch", "expert_up", "expert_act", "expert_down", "combine")


def works(framework: str, model: str, tokens: int, precision: str, ranks: int = 8) -> dict[str, Work]:
    """Ops of the experts of a served layer."""
    spec, plan, engine = load_model(model), Plan(precision=precision, tensor_parallel=ranks), load_framework(framework)
    layer = list(spec.layers)[-1][0]
    ops = served_block(layer, spec, plan, engine, tokens).forward
    parts = {op.name.rpartition(".")[2]: op for op in ops if op.kind is not OpKind.COLLECTIVE}
    return {name: work_of(parts[name], plan.mesh) for name in PARTS}


def seconds(accelerator: str, framework: str, model: str, tokens: int, precision: str = "fp8") -> float:
    cost = DeviceCost(load_accelerator(accelerator), load_framework(framework))
    return sum(cost.price(work).seconds for work in works(framework, model, tokens, precision).values())


@pytest.mark.parametrize("tokens", [1, 64, 8192])
def test_a_block_takes_start_products_and_rows(tokens: int) -> None:
    """DeepSeek-V3 on eight H200: 7,168 wide, experts of 256 per rank, 8 for each token."""
    device, curve = load_accelerator("h200-sxm"), EXPERT_CURVES["cutlass", "hopper", "fp8_block"]
    parts = works("tensorrt-llm-1.0", "deepseek-v3", tokens, "fp8")
    expected = curve.start + 8 * tokens * 7168 * curve.element
    for n, k in ((512, 7168), (7168, 256)):
        groups = parts["expert_up"].groups
        work = Work(OpKind.GROUPED_GEMM, "fp8", 2.0 * 8 * tokens * n * k, 0.0, 8 * tokens, n, k, groups)
        compute = grouped_gemm_flops(work, device.sm_count) / device.rate("fp8") / curve.compute
        memory = groups * n * k / device.memory_bandwidth / curve.memory
        expected += smooth_max(compute, memory, curve.sharpness)
    assert seconds("h200-sxm", "tensorrt-llm-1.0", "deepseek-v3", tokens) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("framework", "accelerator", "model", "precision", "library"),
    [
        ("vllm-latest", "h200-sxm", "qwen3-235b-a22b", "bf16", "experts.triton.hopper.bf16"),
        ("vllm-latest", "b200-sxm", "qwen3-235b-a22b", "fp8", "experts.trtllm-gen.blackwell.fp8_block"),
        ("sglang-0.4", "h100-sxm", "deepseek-v3", "fp8", "experts.triton-sglang.hopper.fp8_block"),
        ("tensorrt-llm-1.0", "h100-sxm", "mixtral-8x7b", "fp8", "experts.cutlass.hopper.fp8"),
        ("tensorrt-llm-1.0", "b200-sxm", "deepseek-v3", "fp8", "experts.deepgemm.blackwell.fp8_block"),
        ("tensorrt-llm-1.0", "b200-sxm", "deepseek-v3", "fp4", "experts.cutlass.blackwell.fp4"),
    ],
)
def test_engine_device_and_format_choose_the_library(
    framework: str, accelerator: str, model: str, precision: str, library: str
) -> None:
    cost = DeviceCost(load_accelerator(accelerator), load_framework(framework))
    priced = cost.price(works(framework, model, 64, precision)["expert_up"])
    assert f"{library}.start" in priced.constants


@pytest.mark.parametrize(
    ("framework", "accelerator", "model", "precision"),
    [
        ("vllm-latest", "h200-sxm", "gpt-oss-120b", "mxfp4"),  # widened on the way
        ("vllm-latest", "a100-sxm-80gb", "qwen3-235b-a22b", "fp8-weight-only"),
        ("vllm-latest", "h200-sxm", "mixtral-8x7b", "fp8"),  # no timings of that library and format
        ("vllm-0.2", "h100-sxm", "mixtral-8x7b", "bf16"),  # an engine without libraries
    ],
)
def test_others_are_priced_op_by_op(framework: str, accelerator: str, model: str, precision: str) -> None:
    cost = DeviceCost(load_accelerator(accelerator), load_framework(framework))
    for work in works(framework, model, 64, precision).values():
        priced = cost.price(work)
        assert priced.seconds > 0 and not any(name.startswith("experts.") for name in priced.constants)


def test_a_device_with_kernels_of_its_own_keeps_them(tmp_path: object) -> None:
    device = replace(load_accelerator("h200-sxm"), kernel_table="")
    work = works("sglang-0.4", "deepseek-v3", 64, "fp8")["expert_up"]
    other = replace(device, architecture="gaudi")
    assert DeviceCost(other, load_framework("sglang-0.4")).price(work).seconds != pytest.approx(
        DeviceCost(device, load_framework("sglang-0.4")).price(work).seconds
    )


def test_shipped_engines_name_known_libraries() -> None:
    for name in framework_names():
        assert set(load_framework(name).expert_kernels) <= set(LIBRARIES)


def test_no_curve_is_faster_than_the_datasheet() -> None:
    for curve in EXPERT_CURVES.values():
        assert curve.start > 0 and curve.element > 0 and curve.sharpness >= 1
        assert 0 < curve.compute <= 1 and 0 < curve.memory <= 1
    assert expert_curve(("nothing",), "hopper", "bf16") is None
