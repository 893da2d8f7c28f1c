"""Dense decoders of the Llama line: RMSNorm, gated feed-forward, grouped-query attention, windows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from simulator.workload.hf_reader import ConfigReader, family, layer_runs
from simulator.workload.model import AttentionSpec, LayerSpec, MlpSpec, ModelSpec

__all__ = ["by_window", "causal_lm", "grouped_query"]

FULL, SLIDING = "full_attention", "sliding_attention"


def grouped_query(
    c: ConfigReader,
    hidden: int,
    *,
    heads: int = 32,
    kv_heads: int | None = None,
    head_dim: int = 0,
    qkv_bias: bool = False,
    output_bias: bool = False,
    qk_norm: bool = False,
    rotary: bool = True,
) -> AttentionSpec:
    """Grouped-query attention under its usual keys, with the family's defaults."""
    n = c.integer("num_attention_heads", default=heads)
    kv = c.key_value_heads(n, default=kv_heads)
    dim = c.head_dim(hidden, n, head_dim)
    return AttentionSpec(
        "full", n, kv, dim, dim, qkv_bias=qkv_bias, output_bias=output_bias, qk_norm=qk_norm,
        position_embedding_type="rope" if rotary else "none",
    )  # fmt: skip


def by_window(attention: AttentionSpec, layer_types: Sequence[str], window: int) -> list[AttentionSpec]:
    """The attention of each layer: ``sliding_attention`` ones see ``window`` tokens (0: all)."""
    sliding = dataclasses.replace(attention, kind="sliding", sliding_window=window) if window else attention
    return [sliding if kind == SLIDING else attention for kind in layer_types]


def causal_lm(
    c: ConfigReader,
    name: str,
    hidden: int,
    layers: Sequence[LayerSpec],
    *,
    vocab_size: int,
    positions: int,
    tied: bool = False,
    fp8_block: int = 0,
) -> ModelSpec:
    """A decoder with a language-model head, its positions left to the mixers."""
    return ModelSpec(
        c.name,
        name,
        hidden,
        layer_runs(layers),
        vocab_size=c.integer("vocab_size", default=vocab_size),
        max_position_embeddings=c.integer("max_position_embeddings", default=positions),
        tie_word_embeddings=c.flag("tie_word_embeddings", default=tied),
        fp8_block=fp8_block,
        num_nextn_predict_layers=_prediction_modules(c),
    )


def _prediction_modules(c: ConfigReader) -> int:
    """Modules for multi-token prediction, a key that only some families write."""
    key = "num_nextn_predict_layers"
    return c.integer(key, default=0, minimum=0) if key in c.config else 0


@family("llama", "internlm2", "baichuan")
def llama(c: ConfigReader) -> ModelSpec:
    """Llama 1 to 3.3, Yi, Vicuna, DeepSeek-LLM and others that ship as ``llama``, and InternLM2 and Baichuan 7B, whose
    fused projections have the same shapes."""
    hidden = c.integer("hidden_size", default=4096)
    bias = c.flag("attention_bias", default=False)
    attention = grouped_query(c, hidden, qkv_bias=bias, output_bias=bias)
    mlp = MlpSpec(c.integer("intermediate_size", default=11008), gated=True, bias=c.flag("mlp_bias", default=False))
    layers = [LayerSpec(attention, mlp)] * c.integer("num_hidden_layers", default=32)
    return causal_lm(c, "llama", hidden, layers, vocab_size=32000, positions=2048)


@family("mistral")
def mistral(c: ConfigReader) -> ModelSpec:
    """Mistral: as Llama, every layer with the same window (none when ``sliding_window`` is null)."""
    hidden = c.integer("hidden_size", default=4096)
    count = c.integer("num_hidden_layers", default=32)
    attention = grouped_query(c, hidden, kv_heads=8)
    mlp = MlpSpec(c.integer("intermediate_size", default=14336), gated=True)
    layers = [LayerSpec(a, mlp) for a in by_window(attention, [SLIDING] * count, c.window(4096))]
    return causal_lm(c, "mistral", hidden, layers, vocab_size=32000, positions=131072)


def _qwen(c: ConfigReader, name: str, attention: AttentionSpec, hidden: int) -> ModelSpec:
    count = c.integer("num_hidden_layers", default=32)
    window = c.window(4096) if c.flag("use_sliding_window", default=False) else 0
    first = c.integer("max_window_layers", default=28, minimum=0)
    default = [SLIDING if window and i >= first else FULL for i in range(count)]
    types = c.layer_types((FULL, SLIDING), count, default)
    mlp = MlpSpec(c.integer("intermediate_size", default=22016), gated=True)
    layers = [LayerSpec(a, mlp) for a in by_window(attention, types, window)]
    return causal_lm(c, name, hidden, layers, vocab_size=151936, positions=32768)


@family("qwen2", "mimo")
def qwen2(c: ConfigReader) -> ModelSpec:
    """Qwen1.5, Qwen2, Qwen2.5 and MiMo-7B: biases on q, k and v only."""
    hidden = c.integer("hidden_size", default=4096)
    return _qwen(c, "qwen2", grouped_query(c, hidden, kv_heads=32, qkv_bias=True), hidden)


@family("qwen3", "qwen3_vl_text")
def qwen3(c: ConfigReader) -> ModelSpec:
    """Qwen3: no biases, a norm on each query and key head."""
    hidden = c.integer("hidden_size", default=4096)
    bias = c.flag("attention_bias", default=False)
    attention = grouped_query(c, hidden, kv_heads=32, head_dim=128, qkv_bias=bias, output_bias=bias, qk_norm=True)
    return _qwen(c, "qwen3", attention, hidden)


@family("gemma")
def gemma(c: ConfigReader) -> ModelSpec:
    """Gemma: wide heads, tied embedding."""
    hidden = c.integer("hidden_size", default=3072)
    bias = c.flag("attention_bias", default=False)
    attention = grouped_query(c, hidden, heads=16, kv_heads=16, head_dim=256, qkv_bias=bias, output_bias=bias)
    mlp = MlpSpec(c.integer("intermediate_size", default=24576), gated=True)
    layers = [LayerSpec(attention, mlp)] * c.integer("num_hidden_layers", default=28)
    return causal_lm(c, "gemma", hidden, layers, vocab_size=256000, positions=8192, tied=True)


def _gemma_windows(c: ConfigReader, name: str, *, every: int, qk_norm: bool, vocab: int, positions: int) -> ModelSpec:
    hidden = c.integer("hidden_size", default=2304)
    count = c.integer("num_hidden_layers", default=26)
    bias = c.flag("attention_bias", default=False)
    attention = grouped_query(
        c, hidden, heads=8, kv_heads=4, head_dim=256, qkv_bias=bias, output_bias=bias, qk_norm=qk_norm
    )
    default = [SLIDING if (i + 1) % every else FULL for i in range(count)]
    types = c.layer_types((FULL, SLIDING), count, default)
    mlp = MlpSpec(c.integer("intermediate_size", default=9216), gated=True)
    layers = [LayerSpec(a, mlp, norms=4) for a in by_window(attention, types, c.window(4096))]
    return causal_lm(c, name, hidden, layers, vocab_size=vocab, positions=positions, tied=True)


@family("gemma2")
def gemma2(c: ConfigReader) -> ModelSpec:
    """Gemma 2: windows in every other layer, norms before and after both halves of the block."""
    return _gemma_windows(c, "gemma2", every=2, qk_norm=False, vocab=256000, positions=8192)


@family("gemma3_text")
def gemma3_text(c: ConfigReader) -> ModelSpec:
    """Gemma 3 without its vision tower: five windowed layers, then one full."""
    every = c.integer("sliding_window_pattern", default=6)
    return _gemma_windows(c, "gemma3_text", every=every, qk_norm=True, vocab=262208, positions=131072)


@family("phi3")
def phi3(c: ConfigReader) -> ModelSpec:
    """Phi-3 and Phi-4."""
    hidden = c.integer("hidden_size", default=3072)
    count = c.integer("num_hidden_layers", default=32)
    mlp = MlpSpec(c.integer("intermediate_size", default=8192), gated=True)
    attentions = by_window(grouped_query(c, hidden), [SLIDING] * count, c.window())
    layers = [LayerSpec(a, mlp) for a in attentions]
    return causal_lm(c, "phi3", hidden, layers, vocab_size=32064, positions=4096)


@family("cohere")
def cohere(c: ConfigReader) -> ModelSpec:
    """Command R: attention and feed-forward side by side under one norm without bias, tied embedding."""
    hidden = c.integer("hidden_size", default=8192)
    bias, normed = c.flag("attention_bias", default=False), c.flag("use_qk_norm", default=False)
    attention = grouped_query(c, hidden, heads=64, qkv_bias=bias, output_bias=bias)
    mlp = MlpSpec(c.integer("intermediate_size", default=22528), gated=True)
    heads = attention.num_attention_heads + attention.num_key_value_heads
    layer = LayerSpec(
        attention, mlp, norm="layer_nobias", norms=1, parallel_residual=True,
        extra_parameters=heads * attention.head_dim if normed else 0,  # a norm of its own for every head
    )  # fmt: skip
    layers = [layer] * c.integer("num_hidden_layers", default=40)
    return causal_lm(c, "cohere", hidden, layers, vocab_size=256000, positions=8192, tied=True)


@family("olmo2")
def olmo2(c: ConfigReader) -> ModelSpec:
    """OLMo 2: norms after attention and feed-forward, and over all query and all key heads."""
    hidden = c.integer("hidden_size", default=4096)
    bias = c.flag("attention_bias", default=False)
    attention = grouped_query(c, hidden, qkv_bias=bias, output_bias=bias)
    heads = attention.num_attention_heads + attention.num_key_value_heads
    mlp = MlpSpec(c.integer("intermediate_size", default=11008), gated=True)
    layer = LayerSpec(attention, mlp, extra_parameters=heads * attention.head_dim)
    layers = [layer] * c.integer("num_hidden_layers", default=32)
    return causal_lm(c, "olmo2", hidden, layers, vocab_size=50304, positions=2048)
