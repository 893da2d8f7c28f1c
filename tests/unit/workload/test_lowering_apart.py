"""Operators of a graph one by one: the same products, more passes over wider activations."""

from __future__ import annotations

import pytest

from simulator.workload.framework_files import load_framework
from simulator.workload.lowering import LoweringContext, lower_layer
from simulator.workload.lowering_apart import operators_apart
from simulator.workload.model_files import load_model
from simulator.workload.ops import Block, OpKind, TensorClass

ENGINE = load_framework("llama-cpp")
TOKENS = 512


def layer(name: str) -> tuple[Block, Block]:
    model = load_model(name)
    whole = lower_layer(model.layers[0][0], LoweringContext(model, 1, TOKENS, False, ENGINE))
    return whole, operators_apart(whole)


@pytest.mark.parametrize("name", ["llama-3.1-8b", "llama-3.1-70b", "qwen3-8b", "mixtral-8x7b", "opt-6.7b"])
def test_products_and_weights_are_the_same(name: str) -> None:
    whole, apart = layer(name)

    def products(block: Block) -> float:
        return sum(op.flops() for op in block.forward if op.kind in (OpKind.GEMM, OpKind.GROUPED_GEMM))

    assert products(apart) == products(whole)
    assert sum(t.bytes() for t in apart.parameters) == sum(t.bytes() for t in whole.parameters)
    assert len({op.name for op in apart.forward}) == len(apart.forward)


@pytest.mark.parametrize("name", ["llama-3.1-8b", "llama-3.1-70b"])
def test_passes_of_a_llama_layer(name: str) -> None:
    """Counted in build_llama: per token, two norms and the products with their weights (8 widths h), rotations (2 of
    queries and keys), copies to the cache in 16 bits, heads put side by side (2 h), two additions (6 h), the activated
    gate and its product (5 widths of the feed-forward), all in fp32."""
    model = load_model(name)
    spec, mlp = model.layers[0][0].attention, model.layers[0][0].mlp
    assert spec is not None and mlp is not None
    hidden, heads, keys = model.hidden_size, spec.num_attention_heads * 128, spec.num_key_value_heads * 128
    wide = 8 * hidden + 2 * (heads + keys) + 2 * keys + 2 * heads + 6 * hidden + 5 * mlp.intermediate_size
    expected = TOKENS * (4 * wide + 2 * 2 * keys) + 2 * 2 * hidden  # and the weights of the norms
    _, apart = layer(name)
    passes = [op for op in apart.forward if op.kind is OpKind.ELEMENTWISE]
    assert sum(op.bytes() for op in passes) == expected
    assert sum(int(op.tags.get("kernels", 1)) for op in passes) == 13
    assert sum(op.kind is OpKind.GEMM for op in apart.forward) == 7
    cached = [t for op in passes for t in op.writes if t.cls is TensorClass.KV]
    assert [t.bytes() for t in cached] == [TOKENS * 2 * 2 * keys]
