"""FP8 with block scales: casts counted by hand, what is kept, bytes of states, and Megatron-Core's modules."""

from __future__ import annotations

from typing import Any

import pytest
from memory_jobs import estimate, gpt, job, on_tier, single

from simulator.hardware import load_node
from simulator.training.pipelined import PipelinedJob
from simulator.workload.counting import parameters
from simulator.workload.ops import Block, OpKind, Phase, Tier

SEQUENCE, MICRO, HIDDEN = 2048, 4, 2048
UNIT = SEQUENCE * MICRO * HIDDEN
"""Elements of s·b·h."""


def layer(**plan: Any) -> Block:
    run = PipelinedJob(job(**plan), single(load_node("dgx-h100")))
    return next(b for b, _ in run.chunks[0].blocks if b.name == "layer")


def test_casts_of_a_layer_by_hand() -> None:
    """s·b·h elements: inputs of QKV, output and MLP-up 1 each, activation 4 (kept) and 4; gradients 3 + 1 + 4 + 1.

    A cast reads 2 bytes and writes 1. The activation function writes FP8 itself. For the weight gradients both operands
    are turned: gradients (2 + 1), FP8 inputs (1 + 1), attention's output from the 16 bits it is kept in (2 + 1).
    """
    block = layer(precision="fp8-blockwise")

    def moved(phase: Phase, *suffixes: str) -> float:
        return sum(
            sum(t.bytes() for t in (*op.reads, *op.writes))
            for op in block.ops if op.phase is phase and op.name.endswith(suffixes)
        )  # fmt: skip

    assert moved(Phase.FORWARD, ".cast") == 3 * (1 + 1 + 1 + 4) * UNIT
    assert moved(Phase.BACKWARD, ".cast") == 3 * 9 * UNIT
    assert moved(Phase.WEIGHT_GRADIENT, ".turn") == (3 * 9 + 2 * (1 + 1 + 4) + 3 * 1) * UNIT
    assert moved(Phase.BACKWARD, ".transpose") == 2 * 12 * HIDDEN**2


def test_linear_layers_read_and_keep_fp8() -> None:
    block, plain = layer(precision="fp8-blockwise"), layer(precision="bf16")
    products = [op for op in block.ops if op.kind is OpKind.GEMM]
    assert all(t.dtype == "fp8" for op in products for t in op.reads[:2])
    assert sum(op.flops() for op in block.ops) == sum(op.flops() for op in plain.ops)
    kept, before = (sum(t.bytes() for t in b.saved) for b in (block, plain))
    # Inputs of QKV, of MLP-up, of the activation function and of MLP-down halve: (2·10 − 10) of s·b·h; the output of
    # the attention takes 12 of 16 bits.
    assert before - kept == 10.5 * UNIT


def test_states_of_linear_layers_take_thirteen_bytes() -> None:
    """1 B working weights, 4 B gradients, 4 B master weights and 2 + 2 B moments: arXiv 2412.19437 section 3.3.3."""
    model = gpt()
    result = estimate(job(model, precision="fp8-blockwise"), "dgx-h100")
    linear = 12 * HIDDEN**2 * 8
    others = float(parameters(model)) - linear
    held = {c: on_tier(result, Tier.HBM, c) for c in ("param", "grad", "optim")}
    assert held["param"] == pytest.approx(linear + 2 * others, rel=2e-3)
    assert held["grad"] == pytest.approx(4 * (linear + others), rel=2e-3)
    assert held["optim"] == pytest.approx(8 * (linear + others), rel=2e-3)


def test_embedding_and_head_stay_in_sixteen_bits() -> None:
    run = PipelinedJob(job(precision="fp8-blockwise"), single(load_node("dgx-h100")))
    blocks = [b for b, _ in run.chunks[0].blocks if b.name != "layer"]
    assert all("fp8" not in {op.dtype, *(t.dtype for t in op.reads)} for b in blocks for op in b.ops)


@pytest.mark.parametrize(
    ("module", "dropped"),
    [("layernorm", 2 + 2), ("mlp_act", 8), ("layernorm+mlp_act", 12), ("core_attn", 0), ("core_attn+mlp_act", 8)],
)
def test_modules_drop_what_they_made(module: str, dropped: int) -> None:
    """Korthikanti et al. count the inputs of QKV and MLP-up as 2·s·b·h bytes each and GELU's output as 8.

    A fused core attention keeps its statistics, 4 B per token and head.
    """
    base = "selective" if "core_attn" in module else "none"
    dropped_of, all_of = layer(recompute="selective", recompute_modules=module), layer(recompute=base)
    kept, before = (sum(t.bytes() for t in b.saved) for b in (dropped_of, all_of))
    assert before - kept == dropped * UNIT


def test_an_unknown_module_is_named() -> None:
    result = estimate(job(recompute="selective", recompute_modules="layernorm+moe"))
    assert not result.feasible
    assert "'moe' is none of core_attn, layernorm" in result.reason
