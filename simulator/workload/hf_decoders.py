"""Decoders of the GPT line: LayerNorm with biases, two-matrix feed-forward, multi-head or multi-query attention."""

from __future__ import annotations

from typing import Literal

from simulator.workload.hf_reader import ConfigReader, family, layer_runs
from simulator.workload.model import AttentionSpec, LayerSpec, MlpSpec, ModelSpec

__all__: list[str] = []

Positions = Literal["rope", "alibi", "none"]


def _multi_head(
    heads: int, head_dim: int, positions: Positions = "rope", *, kv_heads: int = 0, qkv_bias: bool, output_bias: bool
) -> AttentionSpec:
    return AttentionSpec(
        "full", heads, kv_heads or heads, head_dim, head_dim, qkv_bias=qkv_bias, output_bias=output_bias,
        position_embedding_type=positions,
    )  # fmt: skip


@family("gpt2")
def gpt2(c: ConfigReader) -> ModelSpec:
    """GPT-2, GPT-3 and the Megatron-LM GPT models (same block, other sizes)."""
    hidden = c.integer("n_embd", "hidden_size", default=768)
    heads = c.integer("n_head", "num_attention_heads", default=12)
    positions = c.integer("n_positions", "max_position_embeddings", default=1024)
    head_dim = c.head_dim(hidden, heads)
    layer = LayerSpec(
        _multi_head(heads, head_dim, "none", qkv_bias=True, output_bias=True),
        MlpSpec(c.integer("n_inner", default=4 * hidden), gated=False, bias=True),
        norm="layer",
    )
    return ModelSpec(
        c.name,
        "gpt2",
        hidden,
        ((layer, c.integer("n_layer", "num_hidden_layers", default=12)),),
        vocab_size=c.integer("vocab_size", default=50257),
        max_position_embeddings=positions,
        learned_positions=positions,
        tie_word_embeddings=c.flag("tie_word_embeddings", default=True),
        dropout=c.number("resid_pdrop", default=0.1) > 0,
    )


@family("gpt_neox")
def gpt_neox(c: ConfigReader) -> ModelSpec:
    """GPT-NeoX and Pythia."""
    hidden = c.integer("hidden_size", default=6144)
    heads = c.integer("num_attention_heads", default=64)
    bias = c.flag("attention_bias", default=True)
    layer = LayerSpec(
        _multi_head(heads, c.head_dim(hidden, heads), qkv_bias=bias, output_bias=bias),
        MlpSpec(c.integer("intermediate_size", default=24576), gated=False, bias=True),
        norm="layer",
        parallel_residual=c.flag("use_parallel_residual", default=True),
    )
    return ModelSpec(
        c.name,
        "gpt_neox",
        hidden,
        ((layer, c.integer("num_hidden_layers", default=44)),),
        vocab_size=c.integer("vocab_size", default=50432),
        max_position_embeddings=c.integer("max_position_embeddings", default=2048),
        tie_word_embeddings=c.flag("tie_word_embeddings", default=False),
        dropout=c.number("hidden_dropout", default=0.0) > 0,
    )


@family("gptj")
def gptj(c: ConfigReader) -> ModelSpec:
    """GPT-J: one norm feeds attention and feed-forward; the head has a bias."""
    hidden = c.integer("n_embd", "hidden_size", default=4096)
    heads = c.integer("n_head", "num_attention_heads", default=16)
    layer = LayerSpec(
        _multi_head(heads, c.head_dim(hidden, heads), qkv_bias=False, output_bias=False),
        MlpSpec(c.integer("n_inner", default=4 * hidden), gated=False, bias=True),
        norm="layer",
        norms=1,
        parallel_residual=True,
    )
    return ModelSpec(
        c.name,
        "gptj",
        hidden,
        ((layer, c.integer("n_layer", "num_hidden_layers", default=28)),),
        vocab_size=c.integer("vocab_size", default=50400),
        max_position_embeddings=c.integer("n_positions", "max_position_embeddings", default=2048),
        tie_word_embeddings=c.flag("tie_word_embeddings", default=False),
        head_bias=True,
        dropout=c.number("resid_pdrop", default=0.0) > 0,
    )


@family("opt")
def opt(c: ConfigReader) -> ModelSpec:
    """OPT; the position table has two rows more than positions, and opt-350m a narrower embedding."""
    hidden = c.integer("hidden_size", default=768)
    heads = c.integer("num_attention_heads", default=12)
    positions = c.integer("max_position_embeddings", default=2048)
    embedding = c.integer("word_embed_proj_dim", default=hidden)
    bias = c.flag("enable_bias", default=True)
    affine = c.flag("layer_norm_elementwise_affine", default=True)
    layer = LayerSpec(
        _multi_head(heads, c.head_dim(hidden, heads), "none", qkv_bias=bias, output_bias=bias),
        MlpSpec(c.integer("ffn_dim", default=3072), gated=False, bias=bias),
        norm="layer" if affine else "none_affine",
    )
    pre_norm = c.flag("do_layer_norm_before", default=True)
    return ModelSpec(
        c.name,
        "opt",
        hidden,
        ((layer, c.integer("num_hidden_layers", default=12)),),
        vocab_size=c.integer("vocab_size", default=50272),
        max_position_embeddings=positions,
        learned_positions=positions + 2,
        tie_word_embeddings=c.flag("tie_word_embeddings", default=True),
        final_norm=pre_norm and not c.flag("_remove_final_layer_norm", default=False),
        embedding_size=embedding if embedding != hidden else 0,
        dropout=c.number("dropout", default=0.1) > 0,
    )


@family("bloom")
def bloom(c: ConfigReader) -> ModelSpec:
    """BLOOM: ALiBi positions and a norm behind the embedding."""
    hidden = c.integer("hidden_size", "n_embed", default=64)
    heads = c.integer("n_head", "num_attention_heads", default=8)
    layer = LayerSpec(
        _multi_head(heads, c.head_dim(hidden, heads), "alibi", qkv_bias=True, output_bias=True),
        MlpSpec(4 * hidden, gated=False, bias=True),
        norm="layer",
    )
    return ModelSpec(
        c.name,
        "bloom",
        hidden,
        ((layer, c.integer("n_layer", "num_hidden_layers", default=2)),),
        vocab_size=c.integer("vocab_size", default=250880),
        max_position_embeddings=c.integer("seq_length", default=2048),
        embedding_norm=True,
        tie_word_embeddings=c.flag("tie_word_embeddings", default=True),
        dropout=c.number("hidden_dropout", default=0.0) > 0,
    )


@family("mpt")
def mpt(c: ConfigReader) -> ModelSpec:
    """MPT (llm-foundry): ALiBi or learned positions, no biases anywhere unless ``no_bias`` is false."""
    hidden = c.integer("d_model", "hidden_size", default=2048)
    heads = c.integer("n_heads", "num_attention_heads", default=16)
    positions = c.integer("max_seq_len", default=2048)
    alibi = c.sub("attn_config", {}).flag("alibi", default=True)
    layer = LayerSpec(
        _multi_head(heads, c.head_dim(hidden, heads), "alibi" if alibi else "none", qkv_bias=False, output_bias=False),
        MlpSpec(c.integer("expansion_ratio", default=4) * hidden, gated=False),
        norm="layer_nobias",
    )
    if not c.flag("no_bias", default=True):
        c.add("biases are not part of the transformers implementation; remove it", "no_bias")
    return ModelSpec(
        c.name,
        "mpt",
        hidden,
        ((layer, c.integer("n_layers", "num_hidden_layers", default=24)),),
        vocab_size=c.integer("vocab_size", default=50368),
        max_position_embeddings=positions,
        learned_positions=0 if alibi else positions,
        tie_word_embeddings=c.flag("tie_word_embeddings", default=True),
        dropout=c.number("resid_pdrop", default=0.0) > 0,
    )


@family("falcon")
def falcon(c: ConfigReader) -> ModelSpec:
    """Falcon: multi-query (7B) or grouped-query (``new_decoder_architecture``), parallel attention and feed-forward."""
    hidden = c.integer("hidden_size", "n_embed", default=4544)
    heads = c.integer("num_attention_heads", "n_head", default=71)
    grouped = c.flag("new_decoder_architecture", default=False)
    parallel = c.flag("parallel_attn", default=True)
    multi_query = c.flag("multi_query", default=True)
    bias = c.flag("bias", default=False)
    kv_heads = c.key_value_heads(heads, "num_kv_heads", "n_head_kv", default=None)
    if not grouped:
        kv_heads = 1 if multi_query else heads
    norms = 2 if grouped or not parallel else 1
    if grouped and parallel:
        norms = c.integer("num_ln_in_parallel_attn", default=2)
    positions: Positions = "alibi" if c.flag("alibi", default=False) else "rope"
    layer = LayerSpec(
        _multi_head(heads, c.head_dim(hidden, heads), positions, kv_heads=kv_heads, qkv_bias=bias, output_bias=bias),
        MlpSpec(c.integer("ffn_hidden_size", default=4 * hidden), gated=False, bias=bias),
        norm="layer",
        norms=norms,
        parallel_residual=parallel or grouped,
    )
    return ModelSpec(
        c.name,
        "falcon",
        hidden,
        layer_runs([layer] * c.integer("num_hidden_layers", "n_layer", default=32)),
        vocab_size=c.integer("vocab_size", default=65024),
        max_position_embeddings=c.integer("max_position_embeddings", default=2048),
        tie_word_embeddings=c.flag("tie_word_embeddings", default=True),
        dropout=c.number("hidden_dropout", default=0.0) > 0,
    )
