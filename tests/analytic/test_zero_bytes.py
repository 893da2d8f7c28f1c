"""Bytes of model states per rank: the table of the ZeRO paper, DeepSpeed's estimators, and the groups of PaRO."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.strategies.sharding.deepspeed_estimate import deepspeed_zero2_bytes, deepspeed_zero3_bytes
from simulator.workload.framework import Framework
from simulator.workload.ops import TensorClass
from simulator.workload.plan import Plan
from tests.unit.strategies.training_cases import FRAMEWORK, elements, estimate, layers, states

GIB = 2**30
FP32_GRADIENTS = Framework("fp32-gradients", "training", gradient_dtype="fp32")


def per_parameter(plan: Plan, framework: Framework = FRAMEWORK) -> float:
    return sum(states(plan, framework).values()) / elements(plan)


@pytest.mark.parametrize(("stage", "gigabytes"), [(0, 120.0), (1, 31.4), (2, 16.6), (3, 1.88)])
def test_zero_paper_figure_1(stage: int, gigabytes: float) -> None:
    """7.5 B parameters on 64 ranks (arXiv 1910.02054 figure 1: 120, 31.4, 16.6, 1.9 GB)."""
    plan = Plan(data_parallel=64, zero_stage=stage, precision="fp16")
    assert per_parameter(plan) * 7.5 == pytest.approx(gigabytes, rel=4e-3)


def test_deepspeed_estimators() -> None:
    """2,851 M parameters on 8 GPUs, largest layer 32 M: the figures its documentation and code print."""
    assert deepspeed_zero2_bytes(2851e6, 8, documented=True) / GIB == pytest.approx(15.93, abs=5e-3)
    assert deepspeed_zero2_bytes(2851e6, 8) / GIB == pytest.approx(11.28, abs=5e-3)
    assert deepspeed_zero2_bytes(2851e6, 8, cpu_optimizer=True) / GIB == pytest.approx(5.31, abs=5e-3)
    assert deepspeed_zero3_bytes(2851e6, 32e6, 8) / GIB == pytest.approx(6.09, abs=1e-2)


def test_zero_3_with_fp32_gradients_is_deepspeeds_estimate() -> None:
    plan = Plan(data_parallel=8, zero_stage=3)
    block = layers(plan, FP32_GRADIENTS)[0]
    layer = sum(t.elements() for t in block.parameters)
    resident = sum(op.wire.prefetch + 1 for op in block.gather_forward) * 2 * layer
    ours = per_parameter(plan, FP32_GRADIENTS) * 2851e6 + resident / layer * 32e6
    assert ours == pytest.approx(deepspeed_zero3_bytes(2851e6, 32e6, 8), rel=1e-4)


def test_states_all_in_bf16() -> None:
    """Parameter, gradient and two moments of two bytes, whatever the framework accumulates in."""
    assert per_parameter(Plan(precision="bf16-pure"), FP32_GRADIENTS) == 8.0


@pytest.mark.parametrize(
    ("precision", "half", "full"), [("fp32", 16, 16), ("fp16", 16, 18), ("bf16", 16, 18), ("nvfp4", 16, 18)]
)
def test_bytes_per_parameter_of_every_precision(precision: str, half: int, full: int) -> None:
    """Adam in fp32: 4 + 4 + 8; mixed (arXiv 1710.03740): 2 + gradient + 4 master + 8, gradients in 16 or 32 bits."""
    plan = Plan(precision=precision)
    assert per_parameter(plan) == pytest.approx(half, rel=1e-6)
    assert per_parameter(plan, FP32_GRADIENTS) == pytest.approx(full, rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(["paro", "amsp"]),
    st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4, 8]), st.sampled_from([8, 16, 64]),
)  # fmt: skip
def test_paro_and_amsp_bytes(name: str, parameter: int, gradient: int, optimizer: int) -> None:
    """2/gp + 2/gg + 12/go bytes per parameter."""
    plan = Plan(data_parallel=64, precision="fp16").with_(
        sharding=name, parameter_group=parameter, gradient_group=gradient, optimizer_group=optimizer
    )
    assert per_parameter(plan) == pytest.approx(2 / parameter + 2 / gradient + 12 / optimizer, rel=1e-4)


@pytest.mark.parametrize("group", [2, 8, 16])
def test_mics_and_hybrid_bytes(group: int) -> None:
    plan = Plan(data_parallel=16, precision="fp16").with_(shard_group=group)
    assert per_parameter(plan.with_(sharding="mics")) == pytest.approx(16 / group, rel=1e-4)
    # FSDP keeps an fp32 shard that is master and parameter at once: 12 + gradient.
    assert per_parameter(plan.with_(sharding="hsdp")) == pytest.approx(14 / group, rel=1e-4)
    assert per_parameter(plan.with_(sharding="fsdp")) == pytest.approx(14 / 16, rel=1e-4)


@pytest.mark.parametrize("group", [1, 4, 8])
def test_zero_plus_plus_secondary_copy(group: int) -> None:
    plain = Plan(data_parallel=16, precision="fp16", zero_stage=3)
    extra = plain.with_(sharding="zero++", secondary_group=group)
    assert per_parameter(extra) - per_parameter(plain) == pytest.approx(2 / group, rel=1e-4)


@pytest.mark.parametrize("rank", [4, 64])
def test_lora_bytes(rank: int) -> None:
    """2Ψ for what is frozen, 16 bytes for each trainable parameter (fp16 gradients)."""
    plan = Plan(precision="fp16").with_(peft="lora", lora_rank=rank)
    held = [t for block in layers(plan) for t in block.states if t.cls is TensorClass.PARAM]
    trainable = sum(t.elements() for t in held if t.trainable)
    frozen = sum(t.elements() for t in held if not t.trainable)
    hidden, depth = 2048, 24
    widths = [(hidden, 3 * hidden), (hidden, hidden), (hidden, 4 * hidden), (4 * hidden, hidden)]
    assert trainable == depth * rank * sum(a + b for a, b in widths)
    assert frozen == elements(Plan())
    assert sum(states(plan).values()) == 2 * frozen + 16 * trainable


def test_lora_needs_four_flops_per_frozen_weight() -> None:
    """Forward and input gradient of Ψ frozen weights, all three of the adapters, attention as ever: 4Ψ + 6φ + 12lsh."""
    hidden, depth, vocabulary, sequence, rank = 2048, 24, 50257, 1024, 16
    step = estimate(Plan(data_parallel=16).with_(peft="lora", lora_rank=rank))
    frozen = depth * 12 * hidden**2 + vocabulary * hidden
    adapters = depth * rank * 18 * hidden
    expected = 4 * frozen + 6 * adapters + 12 * depth * sequence * hidden
    found = step.metrics["model_tflops_per_accelerator"] * 1e12 / step.metrics["tokens_per_s_per_accelerator"]
    assert found == pytest.approx(expected, rel=2e-3)  # the vocabulary is padded
    # And the Ops that run: those of all layers' GEMMs and attention, forward, backward and weight gradients.
    job_ops = [op for b in layers(Plan().with_(peft="lora", lora_rank=rank)) for op in b.ops]
    executed = sum(op.flops() for op in job_ops if op.kind in ("gemm", "attention")) / sequence
    head = 4 * vocabulary * hidden
    assert executed == pytest.approx(expected - head - 6 * depth * sequence * hidden, rel=0.02)  # causal attention


def test_qlora_dequantises_at_every_use() -> None:
    # arXiv 2305.14314: 4 bits read and 16 written per weight, once in the forward and once in the backward.
    plan, plain = Plan().with_(peft="qlora"), Plan().with_(peft="lora")
    block, lora = layers(plan)[0], layers(plain)[0]
    frozen = sum(
        t.elements() for t in lora.states if t.cls is TensorClass.PARAM and not t.trainable and len(t.dims) > 1
    )
    moved = sum(op.bytes() for op in block.ops if ".dequantise." in op.name)
    assert moved == pytest.approx(2 * frozen * (0.5 + 2))
    extra = sum(op.bytes() for op in block.ops) - sum(op.bytes() for op in lora.ops)
    assert extra == pytest.approx(moved)  # the products read 16 bits as before
    assert estimate(plan).seconds > estimate(plain).seconds


def test_qlora_base_takes_half_a_byte() -> None:
    held = [t for t in layers(Plan().with_(peft="qlora"))[0].states if t.cls is TensorClass.PARAM and not t.trainable]
    assert {t.dtype for t in held if len(t.dims) > 1} == {"int4"}
    assert {t.dtype for t in held if len(t.dims) == 1} == {"bf16"}
