"""Decoders with mixtures of experts, and multi-head latent attention."""

from __future__ import annotations

import dataclasses

from simulator.workload.hf_llama import FULL, SLIDING, by_window, causal_lm, grouped_query
from simulator.workload.hf_reader import ConfigReader, family
from simulator.workload.model import AttentionSpec, LayerSpec, MlpSpec, ModelSpec

__all__ = ["qwen_mlps"]

FP8_BLOCK = 128
"""``weight_block_size`` of the official fp8 checkpoints of DeepSeek-V3 and R1, Kimi K2 and Qwen3."""


@family("mixtral", "grok-1")
def mixtral(c: ConfigReader) -> ModelSpec:
    """Mixtral and Grok-1: every layer routes to ``num_experts_per_tok`` of ``num_local_experts``."""
    hidden = c.integer("hidden_size", default=4096)
    count = c.integer("num_hidden_layers", default=32)
    mlp = MlpSpec(
        0,
        gated=True,
        num_experts=c.integer("num_local_experts", "num_experts", default=8),
        num_experts_per_tok=c.integer("num_experts_per_tok", default=2),
        moe_intermediate_size=c.integer("intermediate_size", default=14336),
    )
    attentions = by_window(grouped_query(c, hidden, kv_heads=8), [SLIDING] * count, c.window())
    layers = [LayerSpec(a, mlp) for a in attentions]
    return causal_lm(c, "mixtral", hidden, layers, vocab_size=32000, positions=131072)


@family("dbrx")
def dbrx(c: ConfigReader) -> ModelSpec:
    """DBRX: norms without bias, sixteen experts in every layer."""
    hidden = c.integer("d_model", default=2048)
    heads = c.integer("n_heads", default=16)
    mixed, experts = c.sub("attn_config", {}), c.sub("ffn_config", {})
    dim = c.head_dim(hidden, heads)
    attention = AttentionSpec("full", heads, mixed.key_value_heads(heads, "kv_n_heads", default=1), dim, dim)
    mlp = MlpSpec(
        0,
        gated=True,
        num_experts=experts.integer("moe_num_experts", default=4),
        num_experts_per_tok=experts.integer("moe_top_k", default=1),
        moe_intermediate_size=experts.integer("ffn_hidden_size", default=3584),
    )
    layers = [LayerSpec(attention, mlp, norm="layer_nobias")] * c.integer("n_layers", default=24)
    return causal_lm(c, "dbrx", hidden, layers, vocab_size=32000, positions=c.integer("max_seq_len", default=2048))


def qwen_mlps(
    c: ConfigReader,
    count: int,
    *,
    experts: int,
    per_token: int,
    width: int,
    dense: int,
    shared: int = 0,
) -> list[MlpSpec]:
    """Feed-forward of each layer of the Qwen mixtures: dense where ``mlp_only_layers`` or the sparse step says so."""
    shared_width = c.integer("shared_expert_intermediate_size", default=shared, minimum=0) if shared else 0
    sparse = MlpSpec(
        0,
        gated=True,
        num_experts=c.integer("num_experts", default=experts),
        num_experts_per_tok=c.integer("num_experts_per_tok", default=per_token),
        moe_intermediate_size=c.integer("moe_intermediate_size", default=width),
        shared_intermediate_size=shared_width,
        shared_gate=shared_width > 0,
    )
    dense_mlp = MlpSpec(c.integer("intermediate_size", default=dense), gated=True)
    only = set(c.items("mlp_only_layers") or ())
    step = c.integer("decoder_sparse_step", default=1)
    return [dense_mlp if i in only or (i + 1) % step else sparse for i in range(count)]


@family("qwen2_moe")
def qwen2_moe(c: ConfigReader) -> ModelSpec:
    """Qwen1.5-MoE and Qwen2-MoE: shared experts behind a sigmoid gate."""
    hidden = c.integer("hidden_size", default=2048)
    count = c.integer("num_hidden_layers", default=24)
    attention = grouped_query(c, hidden, heads=16, kv_heads=16, qkv_bias=c.flag("qkv_bias", default=True))
    window = c.window(4096) if c.flag("use_sliding_window", default=False) else 0
    first = c.integer("max_window_layers", default=28, minimum=0)
    types = c.layer_types((FULL, SLIDING), count, [SLIDING if window and i >= first else FULL for i in range(count)])
    mlps = qwen_mlps(c, count, experts=60, per_token=4, width=1408, dense=5632, shared=5632)
    layers = [LayerSpec(a, m) for a, m in zip(by_window(attention, types, window), mlps, strict=True)]
    return causal_lm(c, "qwen2_moe", hidden, layers, vocab_size=151936, positions=32768)


@family("qwen3_moe", "qwen3_vl_moe_text")
def qwen3_moe(c: ConfigReader) -> ModelSpec:
    """Qwen3-MoE: no shared expert."""
    hidden = c.integer("hidden_size", default=2048)
    count = c.integer("num_hidden_layers", default=24)
    bias = c.flag("attention_bias", default=False)
    attention = grouped_query(c, hidden, heads=32, kv_heads=4, qkv_bias=bias, output_bias=bias, qk_norm=True)
    window = c.window(4096) if c.flag("use_sliding_window", default=False) else 0
    mlps = qwen_mlps(c, count, experts=128, per_token=8, width=768, dense=6144)
    attentions = by_window(attention, [SLIDING] * count, window)
    layers = [LayerSpec(a, m) for a, m in zip(attentions, mlps, strict=True)]
    return causal_lm(c, "qwen3_moe", hidden, layers, vocab_size=151936, positions=32768, fp8_block=FP8_BLOCK)


def _latent(
    c: ConfigReader, heads: int, *, q_lora_rank: int, kv_lora_rank: int, nope: int = 128, value: int = 128,
    index_heads: int = 64,
) -> AttentionSpec:  # fmt: skip
    n = c.integer("num_attention_heads", default=heads)
    nope = c.integer("qk_nope_head_dim", default=nope)
    rope = c.integer("qk_rope_head_dim", default=64)
    direct = "q_lora_rank" in c.config and c.config["q_lora_rank"] is None
    bias = c.flag("attention_bias", default=False)
    if bias:
        c.add("biases on the latent projections are not modelled; no published checkpoint has them", "attention_bias")
    index = _indexer(c, index_heads)
    return AttentionSpec(
        "latent",
        n,
        n,
        nope + rope,
        c.integer("v_head_dim", default=value),
        q_lora_rank=0 if direct else c.integer("q_lora_rank", default=q_lora_rank, minimum=0),
        kv_lora_rank=c.integer("kv_lora_rank", default=kv_lora_rank),
        qk_rope_head_dim=rope,
        qk_nope_head_dim=nope,
        index_n_heads=index[0],
        index_head_dim=index[1],
        index_topk=index[2],
    )


INDEXED = ("deepseek_v32", "glm_moe_dsa")
"""Families whose latent attention always has an indexer."""


def _indexer(c: ConfigReader, heads: int) -> tuple[int, int, int]:
    """Heads, their size and the top-k of the indexer of DeepSeek-V3.2 and of what says that it has one; else zeros."""
    if c.config.get("model_type") not in INDEXED and "index_topk" not in c.config:
        return 0, 0, 0
    heads, size = c.integer("index_n_heads", default=heads), c.integer("index_head_dim", default=128)
    return heads, size, c.integer("index_topk", default=2048)


def _first_dense(
    c: ConfigReader, attention: AttentionSpec, dense: MlpSpec, sparse: MlpSpec, **defaults: int
) -> list[LayerSpec]:
    """The blocks of models whose first ``first_k_dense_replace`` layers are dense."""
    count = c.integer("num_hidden_layers", default=defaults["layers"])
    first = c.integer("first_k_dense_replace", default=defaults["first"], minimum=0)
    step = c.integer("moe_layer_freq", default=1)
    return [LayerSpec(attention, sparse if i >= first and i % step == 0 else dense) for i in range(count)]


@family("deepseek_v2")
def deepseek_v2(c: ConfigReader) -> ModelSpec:
    """DeepSeek-V2 and V2-Lite (whose queries are projected directly)."""
    hidden = c.integer("hidden_size", default=4096)
    attention = _latent(c, 32, q_lora_rank=1536, kv_lora_rank=512)
    width = c.integer("moe_intermediate_size", default=1407)
    sparse = MlpSpec(
        0,
        gated=True,
        num_experts=c.integer("n_routed_experts", default=64),
        num_experts_per_tok=c.integer("num_experts_per_tok", default=1),
        moe_intermediate_size=width,
        shared_intermediate_size=width * c.integer("n_shared_experts", default=2, minimum=0),
    )
    if "num_experts_per_tok" not in c.config:
        c.add("is missing; the transformers library has no default for it", "num_experts_per_tok")
    dense = MlpSpec(c.integer("intermediate_size", default=11008), gated=True, bias=c.flag("mlp_bias", default=False))
    layers = _first_dense(c, attention, dense, sparse, layers=32, first=0)
    return causal_lm(c, "deepseek_v2", hidden, layers, vocab_size=32000, positions=2048)


@family("deepseek_v3", "kimi_k2", "deepseek_v32")
def deepseek_v3(c: ConfigReader) -> ModelSpec:
    """DeepSeek-V3, R1 and Kimi K2; the router has a correction bias. V3.2 attends to what its indexer chooses."""
    hidden = c.integer("hidden_size", default=7168)
    attention = _latent(c, 128, q_lora_rank=1536, kv_lora_rank=512)
    dense = MlpSpec(c.integer("intermediate_size", default=18432), gated=True)
    layers = _first_dense(c, attention, dense, _corrected_experts(c), layers=61, first=3)
    return causal_lm(c, "deepseek_v3", hidden, layers, vocab_size=129280, positions=4096, fp8_block=FP8_BLOCK)


def _corrected_experts(c: ConfigReader) -> MlpSpec:
    """Experts of DeepSeek-V3, whose router has a correction bias."""
    width = c.integer("moe_intermediate_size", default=2048)
    return MlpSpec(
        0,
        gated=True,
        num_experts=c.integer("n_routed_experts", default=256),
        num_experts_per_tok=c.integer("num_experts_per_tok", default=8),
        moe_intermediate_size=width,
        shared_intermediate_size=width * c.integer("n_shared_experts", default=1, minimum=0),
        router_bias=True,
    )


@family("glm_moe_dsa")
def glm_moe_dsa(c: ConfigReader) -> ModelSpec:
    """GLM-5: DeepSeek-V3.2's attention with heads of another size.

    From GLM-5.2 on, layers whose ``indexer_types`` is ``shared`` attend to what the layer with an indexer before them
    chose.
    """
    hidden = c.integer("hidden_size", default=6144)
    attention = _latent(c, 64, q_lora_rank=2048, kv_lora_rank=512, nope=192, value=256, index_heads=32)
    dense = MlpSpec(c.integer("intermediate_size", default=12288), gated=True)
    layers = _first_dense(c, attention, dense, _corrected_experts(c), layers=78, first=3)
    without = dataclasses.replace(attention, index_n_heads=0, index_head_dim=0)
    kinds = c.items("indexer_types", len(layers)) or ["full"] * len(layers)
    layers = [
        dataclasses.replace(layer, attention=without) if kind == "shared" else layer
        for layer, kind in zip(layers, kinds, strict=True)
    ]
    return causal_lm(c, "glm_moe_dsa", hidden, layers, vocab_size=154880, positions=202752, fp8_block=FP8_BLOCK)


@family("minimax_m2")
def minimax_m2(c: ConfigReader) -> ModelSpec:
    """MiniMax-M2: grouped attention in every layer, norms over all query and all key heads, many small experts."""
    hidden = c.integer("hidden_size", default=3072)
    count = c.integer("num_hidden_layers", default=62)
    attention = grouped_query(c, hidden, heads=48, kv_heads=8, head_dim=128)
    mlp = MlpSpec(
        0,
        gated=True,
        num_experts=c.integer("num_local_experts", default=256),
        num_experts_per_tok=c.integer("num_experts_per_tok", default=8),
        moe_intermediate_size=c.integer("intermediate_size", default=1536),
        shared_intermediate_size=c.integer("shared_intermediate_size", default=0, minimum=0),
        router_bias=c.flag("use_routing_bias", default=True),
    )
    heads, kv_heads = attention.num_attention_heads, attention.num_key_value_heads
    norms = (heads + kv_heads) * attention.head_dim if c.flag("use_qk_norm", default=True) else 0
    layers = [LayerSpec(attention, mlp, extra_parameters=norms)] * count
    return causal_lm(c, "minimax_m2", hidden, layers, vocab_size=200064, positions=196608, fp8_block=FP8_BLOCK)


@family("glm4_moe")
def glm4_moe(c: ConfigReader) -> ModelSpec:
    """GLM-4.5 and 4.6: biases on q, k and v, DeepSeek-V3 routing."""
    hidden = c.integer("hidden_size", default=4096)
    attention = grouped_query(
        c,
        hidden,
        heads=96,
        kv_heads=8,
        qkv_bias=c.flag("attention_bias", default=False),
        qk_norm=c.flag("use_qk_norm", default=False),
    )
    width = c.integer("moe_intermediate_size", default=1408)
    sparse = MlpSpec(
        0,
        gated=True,
        num_experts=c.integer("n_routed_experts", default=128),
        num_experts_per_tok=c.integer("num_experts_per_tok", default=8),
        moe_intermediate_size=width,
        shared_intermediate_size=width * c.integer("n_shared_experts", default=1, minimum=0),
        router_bias=True,
    )
    dense = MlpSpec(c.integer("intermediate_size", default=10944), gated=True)
    layers = _first_dense(c, attention, dense, sparse, layers=46, first=1)
    return causal_lm(c, "glm4_moe", hidden, layers, vocab_size=151552, positions=131072)


@family("gpt_oss")
def gpt_oss(c: ConfigReader) -> ModelSpec:
    """gpt-oss: a window in every other layer, attention sinks, biases everywhere."""
    hidden = c.integer("hidden_size", default=2880)
    count = c.integer("num_hidden_layers", default=36)
    # The library's own default; every published file says attention_bias: true.
    bias = c.flag("attention_bias", default=True)
    plain = grouped_query(c, hidden, heads=64, kv_heads=8, head_dim=64, qkv_bias=bias, output_bias=bias)
    types = c.layer_types((FULL, SLIDING), count, [SLIDING if (i + 1) % 2 else FULL for i in range(count)])
    mlp = MlpSpec(
        0,
        gated=True,
        num_experts=c.integer("num_local_experts", default=128),
        num_experts_per_tok=c.integer("num_experts_per_tok", "experts_per_token", default=4),
        moe_intermediate_size=c.integer("intermediate_size", default=2880),
        router_bias=True,
        expert_bias=True,
    )
    attentions = by_window(dataclasses.replace(plain, sinks=True), types, c.window(128))
    layers = [LayerSpec(a, mlp) for a in attentions]
    return causal_lm(c, "gpt_oss", hidden, layers, vocab_size=201088, positions=131072)


@family("llama4_text")
def llama4_text(c: ConfigReader) -> ModelSpec:
    """Llama 4 without its vision tower: a shared expert in each mixture, chunked attention in three of four layers.

    A chunk of ``attention_chunk_size`` tokens is described as a window of that size, its upper bound. The layers that
    see everything do not rotate (``no_rope_layers``, whose 1 means that a layer does).
    """
    hidden = c.integer("hidden_size", default=5120)
    count = c.integer("num_hidden_layers", default=48)
    bias = c.flag("attention_bias", default=False)
    attention = grouped_query(c, hidden, heads=40, kv_heads=8, head_dim=128, qkv_bias=bias, output_bias=bias)
    width = c.integer("intermediate_size", default=8192)
    sparse = MlpSpec(
        0,
        gated=True,
        num_experts=c.integer("num_local_experts", default=16),
        num_experts_per_tok=c.integer("num_experts_per_tok", default=1),
        moe_intermediate_size=width,
        shared_intermediate_size=width,
    )
    dense = MlpSpec(c.integer("intermediate_size_mlp", default=16384), gated=True)
    step = c.integer("interleave_moe_layer_step", default=1)
    given = c.items("moe_layers")
    moe = set(given) if given is not None else set(range(step - 1, count, step))
    no_rope = c.items("no_rope_layers", count) or [int(bool((i + 1) % 4)) for i in range(count)]
    chunk = c.integer("attention_chunk_size", default=8192, minimum=0)
    chunked = by_window(attention, [SLIDING if rotary else FULL for rotary in no_rope], chunk)
    attentions = [
        a if rotary else dataclasses.replace(a, position_embedding_type="none")
        for a, rotary in zip(chunked, no_rope, strict=True)
    ]
    layers = [LayerSpec(a, sparse if i in moe else dense) for i, a in enumerate(attentions)]
    return causal_lm(c, "llama4_text", hidden, layers, vocab_size=202048, positions=131072)
