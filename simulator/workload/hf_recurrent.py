"""State-space and linear-attention models and their hybrids: Mamba, Mamba-2, Jamba, Bamba, Granite 4, Nemotron-H,
Qwen3-Next, MiniMax.

Convolution kernels are counted with the mixer (``conv_kernel``); parameters that no GEMM touches (A, D, time-step and
convolution biases, the mixer's inner norm) go to ``LayerSpec.extra_parameters``.
"""

from __future__ import annotations

import dataclasses
import math

from simulator.workload.hf_llama import FULL, causal_lm, grouped_query
from simulator.workload.hf_moe import qwen_mlps
from simulator.workload.hf_reader import ConfigReader, family
from simulator.workload.model import AttentionSpec, LayerSpec, MlpSpec, ModelSpec

__all__: list[str] = []

LINEAR = "linear_attention"


def _mamba1(c: ConfigReader, hidden: int, prefix: str, *, inner_norms: bool) -> tuple[AttentionSpec, int]:
    """The Mamba-1 mixer and its parameters outside GEMMs; Jamba has ``mamba_`` before its keys and inner norms."""
    state = c.integer("mamba_d_state" if prefix else "state_size", default=16)
    kernel = c.integer("mamba_d_conv" if prefix else "conv_kernel", default=4)
    inner = c.integer(f"{prefix}expand", default=2) * hidden
    if not prefix:
        inner = c.integer("intermediate_size", default=inner)
    key = "mamba_dt_rank" if prefix else "time_step_rank"
    rank = math.ceil(hidden / 16) if c.config.get(key, "auto") == "auto" else c.integer(key, default=1)
    bias = c.flag("mamba_proj_bias" if prefix else "use_bias", default=False)
    conv_bias = c.flag("mamba_conv_bias" if prefix else "use_conv_bias", default=True)
    mixer = AttentionSpec(
        "linear",
        inner,
        inner,
        1,
        1,
        qkv_bias=bias,
        output_bias=bias,
        state_size=state,
        conv_kernel=kernel,
        time_step_rank=rank,
        mixer="mamba1",
    )
    extra = inner * state + inner + inner + inner * conv_bias  # A, D, time-step bias, convolution bias
    return mixer, extra + (rank + 2 * state if inner_norms else 0)


def _mamba2(
    heads: int, head_dim: int, state: int, groups: int, kernel: int, *, bias: bool, conv_bias: bool, norm: bool = True
) -> tuple[AttentionSpec, int]:
    """The Mamba-2 mixer and its parameters outside GEMMs."""
    mixer = AttentionSpec(
        "linear",
        heads,
        heads,
        head_dim,
        head_dim,
        qkv_bias=bias,
        output_bias=bias,
        state_size=state,
        conv_kernel=kernel,
        num_groups=groups,
        mixer="mamba2",
    )
    inner = heads * head_dim
    extra = 3 * heads + (inner + 2 * groups * state) * conv_bias + inner * norm  # A, D, time-step bias; biases; norm
    return mixer, extra


@family("mamba")
def mamba(c: ConfigReader) -> ModelSpec:
    """Mamba: one norm and one mixer per block, no feed-forward."""
    hidden = c.integer("hidden_size", "d_model", default=768)
    mixer, extra = _mamba1(c, hidden, "", inner_norms=False)
    layer = LayerSpec(mixer, None, norms=1, extra_parameters=extra)
    layers = [layer] * c.integer("num_hidden_layers", "n_layer", default=32)
    return causal_lm(c, "mamba", hidden, layers, vocab_size=50280, positions=2**20, tied=True)


@family("mamba2")
def mamba2(c: ConfigReader) -> ModelSpec:
    """Mamba-2."""
    hidden = c.integer("hidden_size", default=4096)
    heads = c.integer("num_heads", default=128)
    head_dim = c.integer("head_dim", default=64)
    expand = c.integer("expand", default=2)
    if heads * head_dim != expand * hidden:
        c.add(
            f"num_heads x head_dim = {heads * head_dim} must be expand x hidden_size = {expand * hidden}", "num_heads"
        )
    mixer, extra = _mamba2(
        heads,
        head_dim,
        c.integer("state_size", default=128),
        c.integer("n_groups", default=8),
        c.integer("conv_kernel", default=4),
        bias=c.flag("use_bias", default=False),
        conv_bias=c.flag("use_conv_bias", default=True),
        norm=c.flag("rms_norm", default=True),
    )
    layers = [LayerSpec(mixer, None, norms=1, extra_parameters=extra)] * c.integer("num_hidden_layers", default=64)
    return causal_lm(c, "mamba2", hidden, layers, vocab_size=32768, positions=2**20)


@family("jamba")
def jamba(c: ConfigReader) -> ModelSpec:
    """Jamba: Mamba-1 with an attention layer in every ``attn_layer_period``, a mixture in every other block.

    Its attention knows no positions (transformers, ``JambaAttention``).
    """
    hidden = c.integer("hidden_size", default=4096)
    mixer, extra = _mamba1(c, hidden, "mamba_", inner_norms=True)
    attention = grouped_query(c, hidden, kv_heads=8, rotary=False)
    width = c.integer("intermediate_size", default=14336)
    dense = MlpSpec(width, gated=True)
    experts = c.integer("num_experts", default=16)
    per_token = c.integer("num_experts_per_tok", default=2)
    sparse = MlpSpec(0, gated=True, num_experts=experts, num_experts_per_tok=per_token, moe_intermediate_size=width)
    attention_every = c.integer("attn_layer_period", default=8)
    attention_at = c.integer("attn_layer_offset", default=4, minimum=0)
    expert_every = c.integer("expert_layer_period", default=2)
    expert_at = c.integer("expert_layer_offset", default=1, minimum=0)
    layers = []
    for i in range(c.integer("num_hidden_layers", default=32)):
        mlp = sparse if i % expert_every == expert_at and experts > 1 else dense
        if i % attention_every == attention_at:
            layers.append(LayerSpec(attention, mlp))
        else:
            layers.append(LayerSpec(mixer, mlp, extra_parameters=extra))
    return causal_lm(c, "jamba", hidden, layers, vocab_size=65536, positions=262144)


def _prefixed_mamba2(c: ConfigReader, hidden: int) -> tuple[AttentionSpec, int]:
    heads = c.integer("mamba_n_heads", default=128)
    inner = c.integer("mamba_expand", default=2) * hidden
    automatic = c.config.get("mamba_d_head", "auto") == "auto"
    head_dim = max(inner // heads, 1) if automatic else c.integer("mamba_d_head", default=1)
    if heads * head_dim != inner:
        c.add(f"{heads} heads of {head_dim} must make mamba_expand x hidden_size = {inner}", "mamba_n_heads")
    return _mamba2(
        heads,
        head_dim,
        c.integer("mamba_d_state", default=256),
        c.integer("mamba_n_groups", default=1),
        c.integer("mamba_d_conv", default=4),
        bias=c.flag("mamba_proj_bias", default=False),
        conv_bias=c.flag("mamba_conv_bias", default=True),
    )


@family("bamba")
def bamba(c: ConfigReader) -> ModelSpec:
    """Bamba: Mamba-2 with attention at ``attn_layer_indices``."""
    hidden = c.integer("hidden_size", default=4096)
    mixer, extra = _prefixed_mamba2(c, hidden)
    attention = grouped_query(c, hidden, kv_heads=8)
    mlp = MlpSpec(c.integer("intermediate_size", default=14336), gated=True)
    at = set(c.items("attn_layer_indices") or ())
    layers = [
        LayerSpec(attention, mlp) if i in at else LayerSpec(mixer, mlp, extra_parameters=extra)
        for i in range(c.integer("num_hidden_layers", default=32))
    ]
    return causal_lm(c, "bamba", hidden, layers, vocab_size=128000, positions=262144)


@family("granitemoehybrid")
def granite_moe_hybrid(c: ConfigReader) -> ModelSpec:
    """Granite 4: Mamba-2 and attention by ``layer_types``; a shared feed-forward beside any experts."""
    hidden = c.integer("hidden_size", default=4096)
    count = c.integer("num_hidden_layers", default=32)
    mixer, extra = _prefixed_mamba2(c, hidden)
    bias = c.flag("attention_bias", default=False)
    rotary = c.text("position_embedding_type", default="none") == "rope"
    attention = grouped_query(c, hidden, qkv_bias=bias, output_bias=bias, rotary=rotary)
    experts = c.integer("num_local_experts", default=8, minimum=0)
    shared = c.integer("shared_intermediate_size", default=1024)
    mlp = MlpSpec(
        0 if experts else shared,
        gated=True,
        num_experts=experts,
        num_experts_per_tok=c.integer("num_experts_per_tok", default=2, minimum=0) if experts else 0,
        moe_intermediate_size=c.integer("intermediate_size", default=11008) if experts else 0,
        shared_intermediate_size=shared if experts else 0,
    )
    types = c.layer_types(("mamba", "attention"), count, ["mamba"] * count)
    layers = [
        LayerSpec(attention, mlp) if kind == "attention" else LayerSpec(mixer, mlp, extra_parameters=extra)
        for kind in types
    ]
    return causal_lm(c, "granitemoehybrid", hidden, layers, vocab_size=32000, positions=2048)


@family("nemotron_h")
def nemotron_h(c: ConfigReader) -> ModelSpec:
    """Nemotron-H and Nemotron 3: each block is one mixer (``M``), one attention without positions (``*``), one
    feed-forward (``-``) or one mixture of experts (``E``), whose experts are not gated.

    Its configuration class lives with the checkpoints; the defaults are those of Nemotron-H-8B.
    """
    hidden = c.integer("hidden_size", default=4096)
    pattern = c.text("hybrid_override_pattern", default="M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-")
    count = c.integer("num_hidden_layers", default=52)
    if len(pattern) != count or set(pattern) - set("M*-E"):
        c.add(f"must be {count} of the letters M, *, - and E", "hybrid_override_pattern")
    if c.integer("moe_latent_size", default=0, minimum=0):
        c.add("experts on a latent of their own are not modelled", "moe_latent_size")
    bias = c.flag("attention_bias", default=False)
    heads = c.integer("num_attention_heads", default=32)
    kv_heads = c.key_value_heads(heads, default=8)
    head_dim = c.integer("attention_head_dim", "head_dim", default=128)
    attention = AttentionSpec(
        "full", heads, kv_heads, head_dim, head_dim, qkv_bias=bias, output_bias=bias, position_embedding_type="none"
    )
    mixer, extra = _mamba2(
        c.integer("mamba_num_heads", default=128),
        c.integer("mamba_head_dim", default=64),
        c.integer("ssm_state_size", default=128),
        c.integer("n_groups", default=8),
        c.integer("conv_kernel", default=4),
        bias=c.flag("use_bias", "mamba_proj_bias", default=False),
        conv_bias=c.flag("use_conv_bias", default=True),
    )
    mlp = MlpSpec(c.integer("intermediate_size", default=21504), gated=False, bias=c.flag("mlp_bias", default=False))
    blocks = {
        "M": LayerSpec(mixer, None, norms=1, extra_parameters=extra),
        "*": LayerSpec(attention, None, norms=1),
        "-": LayerSpec(None, mlp, norms=1),
    }
    if "E" in pattern:
        blocks["E"] = LayerSpec(None, _nemotron_experts(c), norms=1)
    layers = [blocks[letter] for letter in pattern if letter in blocks]
    return causal_lm(c, "nemotron_h", hidden, layers, vocab_size=131072, positions=4096)


def _nemotron_experts(c: ConfigReader) -> MlpSpec:
    return MlpSpec(
        0,
        gated=False,
        num_experts=c.integer("n_routed_experts", default=128),
        num_experts_per_tok=c.integer("num_experts_per_tok", default=6),
        moe_intermediate_size=c.integer("moe_intermediate_size", default=1856),
        shared_intermediate_size=c.integer("n_shared_experts", default=1, minimum=0)
        * c.integer("moe_shared_expert_intermediate_size", default=3712),
        router_bias=True,
    )


def _delta_net_mixers(c: ConfigReader, hidden: int, count: int, *, kv_heads: int) -> list[tuple[AttentionSpec, int]]:
    """Three gated delta nets, then one attention with an output gate, over and over: the mixer of each layer and its
    parameters besides."""
    bias = c.flag("attention_bias", default=False)
    plain = grouped_query(
        c, hidden, heads=16, kv_heads=kv_heads, head_dim=256, qkv_bias=bias, output_bias=bias, qk_norm=True
    )
    attention = dataclasses.replace(plain, gated_output=True)
    value_heads = c.integer("linear_num_value_heads", default=32)
    value_dim = c.integer("linear_value_head_dim", default=128)
    delta = AttentionSpec(
        "linear",
        value_heads,
        c.integer("linear_num_key_heads", default=16),
        c.integer("linear_key_head_dim", default=128),
        value_dim,
        state_size=value_dim,
        conv_kernel=c.integer("linear_conv_kernel_dim", default=4),
        gated_output=True,
        mixer="gated-delta-net",
    )
    every = c.integer("full_attention_interval", default=4)
    types = c.layer_types((LINEAR, FULL), count, [LINEAR if (i + 1) % every else FULL for i in range(count)])
    extra = 2 * value_heads + value_dim  # A, time-step bias, gated norm
    return [(attention, 0) if kind == FULL else (delta, extra) for kind in types]


@family("qwen3_next")
def qwen3_next(c: ConfigReader) -> ModelSpec:
    """Qwen3-Next: gated delta nets between attentions with an output gate; many small experts."""
    hidden = c.integer("hidden_size", default=2048)
    count = c.integer("num_hidden_layers", default=48)
    mixers = _delta_net_mixers(c, hidden, count, kv_heads=2)
    mlps = qwen_mlps(c, count, experts=512, per_token=10, width=512, dense=5632, shared=512)
    layers = [LayerSpec(a, m, extra_parameters=extra) for (a, extra), m in zip(mixers, mlps, strict=True)]
    return causal_lm(c, "qwen3_next", hidden, layers, vocab_size=151936, positions=32768)


@family("qwen3_5_text")
def qwen3_5(c: ConfigReader) -> ModelSpec:
    """Qwen3.5 and 3.6, dense: the mixers of Qwen3-Next."""
    hidden = c.integer("hidden_size", default=4096)
    mixers = _delta_net_mixers(c, hidden, c.integer("num_hidden_layers", default=32), kv_heads=4)
    mlp = MlpSpec(c.integer("intermediate_size", default=12288), gated=True)
    layers = [LayerSpec(a, mlp, extra_parameters=extra) for a, extra in mixers]
    return causal_lm(c, "qwen3_5", hidden, layers, vocab_size=248320, positions=32768)


@family("qwen3_5_moe_text")
def qwen3_5_moe(c: ConfigReader) -> ModelSpec:
    """Qwen3.5 and 3.6 with experts: as Qwen3-Next."""
    hidden = c.integer("hidden_size", default=2048)
    count = c.integer("num_hidden_layers", default=40)
    mixers = _delta_net_mixers(c, hidden, count, kv_heads=2)
    mlps = qwen_mlps(c, count, experts=256, per_token=8, width=512, dense=5632, shared=512)
    layers = [LayerSpec(a, m, extra_parameters=extra) for (a, extra), m in zip(mixers, mlps, strict=True)]
    return causal_lm(c, "qwen3_5_moe", hidden, layers, vocab_size=248320, positions=32768)


@family("minimax", "minimax_text_01", "minimax_m1")
def minimax(c: ConfigReader) -> ModelSpec:
    """MiniMax-Text-01: lightning (linear) attention with an output gate between full attentions; experts everywhere.

    The first release lists ``attn_type_list`` (0 linear, 1 softmax) where the library has ``layer_types``.
    """
    hidden = c.integer("hidden_size", default=4096)
    count = c.integer("num_hidden_layers", default=32)
    attention = grouped_query(c, hidden, kv_heads=8)
    heads, head_dim = attention.num_attention_heads, attention.head_dim
    lightning = AttentionSpec(
        "linear", heads, heads, head_dim, head_dim, state_size=head_dim, gated_output=True, mixer="lightning"
    )
    mlp = MlpSpec(
        0,
        gated=True,
        num_experts=c.integer("num_local_experts", default=8),
        num_experts_per_tok=c.integer("num_experts_per_tok", default=2),
        moe_intermediate_size=c.integer("intermediate_size", default=14336),
    )
    listed = c.items("attn_type_list", count)
    default = [FULL if i % 2 else LINEAR for i in range(count)]
    if listed is not None and len(listed) == count:
        default = [FULL if kind == 1 else LINEAR for kind in listed]
    types = c.layer_types((LINEAR, FULL), count, default)
    layers = [
        LayerSpec(attention, mlp) if kind == FULL else LayerSpec(lightning, mlp, extra_parameters=heads * head_dim)
        for kind in types
    ]
    return causal_lm(c, "minimax", hidden, layers, vocab_size=32000, positions=131072)
