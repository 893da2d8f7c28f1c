"""Counts against closed forms that are written out here, not taken from the code."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.workload.counting import (
    active_parameters,
    attention_parameters,
    forward_flops_per_token,
    kv_bytes,
    kv_bytes_per_token,
    layer_parameters,
    matmul_parameters,
    mlp_parameters,
    parameter_breakdown,
    parameters,
    state_bytes,
    training_flops_per_token,
)
from simulator.workload.hf_config import from_hf_config
from simulator.workload.model import ModelSpec
from simulator.workload.model_files import load_model, model_names


def gpt(layers: int, hidden: int, vocab: int, sequence: int, heads: int = 1) -> ModelSpec:
    keys = {"n_layer": layers, "n_embd": hidden, "vocab_size": vocab, "n_positions": sequence, "n_head": heads}
    return from_hf_config({"model_type": "gpt2", **keys}, "gpt")


@given(st.integers(1, 200), st.integers(1, 30000), st.integers(1, 300000), st.integers(1, 10**6))
def test_gpt_parameters_follow_the_formula_of_megatron(layers: int, hidden: int, vocab: int, sequence: int) -> None:
    # arXiv 2104.04473, eq. 2: 12lh²(1 + 13/12h + (V+s)/12lh), which leaves out the final norm (2h).
    formula = 12 * layers * hidden**2 + 13 * layers * hidden + (vocab + sequence) * hidden
    assert parameters(gpt(layers, hidden, vocab, sequence)) == formula + 2 * hidden


@pytest.mark.parametrize(
    ("layers", "hidden", "billions"), [(96, 12288, 174.6), (105, 20480, 529.6), (128, 25600, 1008.0)]
)
def test_gpt_parameters_of_the_paper(layers: int, hidden: int, billions: float) -> None:
    assert round(parameters(gpt(layers, hidden, 51200, 2048)) / 1e9, 1) == billions


@given(st.integers(1, 200), st.integers(1, 30000), st.integers(1, 300000), st.integers(1, 10**5))
def test_gpt_training_flops_follow_the_formula_of_megatron(layers: int, hidden: int, vocab: int, sequence: int) -> None:
    # arXiv 2104.04473, eq. 3 without recomputation: 72BsLh²(1 + s/6h + V/12Lh).
    formula = 72 * layers * hidden**2 * (1 + sequence / (6 * hidden) + vocab / (12 * layers * hidden))
    assert math.isclose(
        training_flops_per_token(gpt(layers, hidden, vocab, sequence), sequence), formula, rel_tol=1e-12
    )


def test_one_trillion_parameter_iteration_of_the_paper() -> None:
    # Section 5.1 of arXiv 2104.04473 with one recomputed forward (96 for 72): 5.139e19 FLOP for 3072 x 2048 tokens.
    model = load_model("gpt-1t")
    per_token = training_flops_per_token(model, 2048) + forward_flops_per_token(model, 2048)
    head = 2 * 51200 * 25600  # eq. 3 does not recompute the head
    assert math.isclose((per_token - head) * 3072 * 2048, 5.139e19, rel_tol=1e-3)


def test_causal_counts_half_of_the_attention() -> None:
    model, s = load_model("llama-3.1-70b"), 8192
    weights = 80 * (2 * 8192 * 8192 + 2 * 8192 * 1024 + 3 * 8192 * 28672) + 128256 * 8192
    assert matmul_parameters(model) == weights
    assert training_flops_per_token(model, s) == 6 * weights + 12 * 80 * s * 64 * 128
    assert training_flops_per_token(model, s, causal=True) == 6 * weights + 6 * 80 * s * 64 * 128


def test_latent_attention_flops_and_parameters() -> None:
    model, s = load_model("deepseek-v3"), 4096
    h, heads = 7168, 128
    attention = h * 1536 + 1536 * heads * 192 + h * (512 + 64) + 512 * heads * 256 + heads * 128 * h
    expert = 3 * h * 2048
    weights = 61 * attention + 3 * 3 * h * 18432 + 58 * (9 * expert + 256 * h) + 129280 * h
    assert matmul_parameters(model) == weights
    assert training_flops_per_token(model, s) == 6 * weights + 12 * 61 * s * heads * (192 + 128) / 2
    assert matmul_parameters(model, active=False) == weights + 58 * 248 * expert
    assert parameters(model) - active_parameters(model) == 58 * 248 * expert


def test_windowed_attention_sees_a_band() -> None:
    model = load_model("mistral-7b")  # window 4096 in all 32 layers
    base = 2 * matmul_parameters(model)
    seen = sum(min(i, 4096) for i in range(1, 32769)) / 32768 - 0.5  # the convention halves s, not s + 1
    attention = forward_flops_per_token(model, 32768, causal=True) - base
    assert math.isclose(attention, 4 * 32 * 32 * 128 * seen, rel_tol=1e-3)
    assert forward_flops_per_token(model, 4096, causal=True) - base == 4 * 32 * 32 * 128 * 2048


def test_bidirectional_attention_is_never_halved() -> None:
    model = load_model("bert-large")
    assert forward_flops_per_token(model, 512, causal=True) == forward_flops_per_token(model, 512)


def test_dit_flops_of_the_paper() -> None:
    # arXiv 2212.09748, table 4: DiT-XL/2 at 256 pixels takes 118.64 G multiply-adds; the modulation of every block
    # (6h²) works once per image.
    model = load_model("dit-xl-2")
    assert model.patch is not None and model.patch.tokens == 256
    macs = forward_flops_per_token(model, 256) * 256 / 2 + 28 * 6 * 1152**2
    assert math.isclose(macs, 118.64e9, rel_tol=1e-3)


@pytest.mark.parametrize(("name", "published"), [("vit-b16", 17.56e9), ("vit-l16", 61.55e9)])
def test_vit_flops_of_torchvision(name: str, published: float) -> None:
    # torchvision's model table: multiply-adds of vit_b_16 and vit_l_16 at 224 pixels, one class token.
    tokens = 14 * 14 + 1
    assert math.isclose(forward_flops_per_token(load_model(name), tokens) * tokens / 2, published, rel_tol=1e-3)


def test_encoder_decoder_flops_add_up_per_stack() -> None:
    model = load_model("t5-11b")
    h, inner, ff, s = 1024, 128 * 128, 65536, 512
    encoder = 24 * (2 * (4 * h * inner + 2 * h * ff) + 4 * s * inner)
    decoder = 24 * (2 * (8 * h * inner + 2 * h * ff) + 8 * s * inner) + 2 * 32128 * h
    assert forward_flops_per_token(model, s) == encoder + decoder
    longer = forward_flops_per_token(model, s, encoder_sequence_length=2 * s)
    assert longer > encoder + decoder


def test_mamba2_flops_do_not_depend_on_the_length() -> None:
    model = load_model("mamba2-2.7b")
    inner, state, heads = 5120, 128, 80
    block = 2 * 2560 * (2 * inner + 2 * state + heads) + 2 * inner * 2560
    scan = 7 * inner * state + 2 * 4 * (inner + 2 * state)
    expected = 64 * (block + scan) + 2 * 50288 * 2560
    assert forward_flops_per_token(model, 64) == forward_flops_per_token(model, 10**6) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("opt-13b", 819_200),
        ("opt-175b", 4_718_592),
        ("llama-2-70b", 327_680),
        ("deepseek-v3", 70_272),
        ("qwen3-next-80b-a3b", 12 * 2 * 2 * 256 * 2),
        ("mamba-2.8b", 0),
        ("bert-base", 0),
    ],
)
def test_kv_bytes_per_token(name: str, expected: int) -> None:
    assert kv_bytes_per_token(load_model(name)) == expected


def test_kv_of_windowed_layers_stops_growing() -> None:
    model = load_model("gpt-oss-120b")
    per_layer = 2 * 8 * 64 * 2
    assert kv_bytes(model, 10_000) == 18 * per_layer * 10_000 + 18 * per_layer * 128
    assert kv_bytes(model, 100) == 36 * per_layer * 100
    assert kv_bytes(model, 10_000, dtype_bytes=1) * 2 == kv_bytes(model, 10_000)


def test_cross_attention_keeps_the_encoder_states_once() -> None:
    model = load_model("t5-small")
    assert kv_bytes(model, 10, encoder_context=7) == 6 * 2 * 512 * 2 * (10 + 7)


def test_state_of_recurrent_layers_is_constant() -> None:
    mamba = load_model("mamba2-2.7b")
    assert state_bytes(mamba) == 64 * 2 * (80 * 64 * 128 + 3 * (5120 + 2 * 128))
    assert state_bytes(mamba, state_dtype_bytes=4) == 64 * (4 * 80 * 64 * 128 + 2 * 3 * (5120 + 2 * 128))
    delta = load_model("qwen3-next-80b-a3b")
    assert state_bytes(delta, 1) == 36 * (32 * 128 * 128 + 3 * (2 * 16 * 128 + 32 * 128))
    assert state_bytes(load_model("llama-3-8b")) == 0


@pytest.mark.parametrize("name", model_names())
def test_parts_add_up(name: str) -> None:
    model = load_model(name)
    parts = parameter_breakdown(model)
    assert all(count > 0 for count in parts.values())
    assert sum(parts.values()) == parameters(model)
    blocks = sum(count * layer_parameters(layer, model.hidden_size) for layer, count in model.layers)
    outside = sum(parts.get(key, 0) for key in ("embedding", "positions", "head", "encoder", "towers", "projector"))
    norms = (model.final_norm + model.embedding_norm) * 2 * model.hidden_size
    assert 0 <= parameters(model) - blocks - outside - model.extra_parameters <= norms
    assert active_parameters(model) <= parameters(model)
    assert matmul_parameters(model) <= matmul_parameters(model, active=False)


def test_a_tied_head_is_counted_once_and_still_multiplied() -> None:
    keys = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "vocab_size": 1000}
    tied = from_hf_config({**keys, "tie_word_embeddings": True}, "tied")
    untied = from_hf_config(keys, "untied")
    assert parameters(untied) - parameters(tied) == 64 * 1000
    assert matmul_parameters(untied) == matmul_parameters(tied)
    assert parameter_breakdown(untied)["head"] == 64 * 1000
    assert "head" not in parameter_breakdown(tied)


def test_biased_blocks_written_out() -> None:
    layer = load_model("opt-125m").layers[0][0]
    assert layer.attention is not None and layer.mlp is not None
    assert attention_parameters(layer.attention, 768) == 4 * (768 * 768 + 768)
    assert mlp_parameters(layer.mlp, 768) == 2 * 768 * 3072 + 3072 + 768
    moe = load_model("gpt-oss-20b").layers[0][0].mlp
    assert moe is not None
    expert = 3 * 2880 * 2880 + 2 * 2880 + 2880
    assert mlp_parameters(moe, 2880) == 32 * expert + 32 * (2880 + 1)
    assert mlp_parameters(moe, 2880, active=True) == 4 * expert + 32 * (2880 + 1)
