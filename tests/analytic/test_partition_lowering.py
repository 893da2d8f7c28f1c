"""Lowered Ops against the exact counts of the model: every parameter is emitted once, every GEMM FLOP is there.

The counts (``workload.counting``) are an independent implementation, itself checked against published figures.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import pytest

from simulator.workload.counting import forward_flops_per_token, matmul_parameters, parameters
from simulator.workload.framework import Framework
from simulator.workload.lowering import LoweringContext, lower_embedding, lower_head, lower_layer
from simulator.workload.model import ModelSpec
from simulator.workload.model_files import load_model, model_names
from simulator.workload.ops import Block, OpKind

SEQUENCE = 64
PLAIN = Framework("plain", "training")


def blocks_of(model: ModelSpec, headed: bool = True) -> Iterator[tuple[Block, int]]:
    """Embedding, layers and head of one stack, with their counts."""
    ctx = LoweringContext(model, 1, SEQUENCE, True, PLAIN, SEQUENCE if model.encoder is not None else 0)
    yield lower_embedding(ctx), 1
    for layer, count in model.layers:
        yield lower_layer(layer, ctx), count
    if headed:
        yield lower_head(ctx), 1


@cache
def emitted(model: ModelSpec) -> int:
    """Parameters of all emitted tensors; the embedding table that a tied head reads again counts once."""
    seen: set[str] = set()
    total = 0
    for block, count in blocks_of(model):
        for tensor in block.parameters:
            if tensor.name.startswith("embedding."):
                if tensor.name in seen:
                    continue
                seen.add(tensor.name)
            total += count * tensor.elements()
    towers = sum(emitted(t) for t in (*model.towers, *((model.encoder,) if model.encoder else ())))
    return total + towers


@pytest.mark.parametrize("name", model_names())
def test_every_parameter_is_emitted(name: str) -> None:
    model = load_model(name)
    assert emitted(model) == parameters(model)


def per_token_gemm_flops(model: ModelSpec) -> float:
    """GEMM FLOPs over all tokens ÷ tokens; Ops that run once per sequence or item have no token dimension."""
    total = 0.0
    for block, count in blocks_of(model):
        for op in block.forward:
            names = {d.name for d in op.flop_dims}
            if op.kind in (OpKind.GEMM, OpKind.GROUPED_GEMM) and names & {"seq", "routed", "encoder_seq"}:
                total += count * op.flops()
    return total / SEQUENCE


@pytest.mark.parametrize("name", model_names())
def test_gemm_flops_are_two_per_matmul_parameter(name: str) -> None:
    model = load_model(name)
    stacks = [model, *model.towers, *((model.encoder,) if model.encoder else ())]
    for stack in stacks:
        # Keys and values of cross-attention are projected from the encoder's tokens, here as many as the decoder's.
        cross = sum(
            count * stack.hidden_size * a.num_key_value_heads * (a.head_dim + a.v_head_dim)
            for layer, count in stack.layers
            if (a := layer.cross_attention) is not None
        )
        want = 2.0 * (matmul_parameters(stack) + cross)
        assert per_token_gemm_flops(stack) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("name", ["mamba-2.8b", "mamba2-2.7b", "jamba-v0.1", "qwen3-next-80b-a3b", "minimax-text-01"])
def test_recurrent_mixers_scan_and_convolve_what_is_counted(name: str) -> None:
    # 7 FLOPs per state element (5 for lightning attention), and 2 per tap of the convolution over its own channels.
    model = load_model(name)
    linear = tuple((layer, n) for layer, n in model.layers if layer.attention and layer.attention.kind == "linear")
    recurrent = replace(model, layers=linear)
    mixing = sum(
        count * op.flops()
        for block, count in blocks_of(recurrent)
        for op in block.forward
        if op.name in ("attention.scan", "attention.conv")
    )
    counted = forward_flops_per_token(recurrent, SEQUENCE) - 2.0 * matmul_parameters(recurrent)
    assert mixing / SEQUENCE == pytest.approx(counted, rel=1e-12)


def test_mamba_tensor_ranks_cut_the_inner_width() -> None:
    block = next(b for b, _ in blocks_of(load_model("mamba-2.8b")) if b.name == "layer")
    conv = next(op for op in block.forward if op.name == "attention.conv")
    assert conv.reads[0].dims[-1].size == conv.writes[0].dims[-1].size == 5120  # x, not the gate
    names = [op.name for op in block.forward if op.kind is OpKind.GEMM]
    assert names == ["attention.in", "attention.x_proj", "attention.dt_proj", "attention.output"]
