"""Exact counts of a model: parameters, FLOPs per token, bytes of KV cache and of recurrent state.

Everything is derived from the :class:`~simulator.workload.model.ModelSpec`; nothing is rounded. FLOPs follow the
convention of model-FLOPs utilisation: a multiply-add is two, only matrix products and the mixers' own recurrences
count, the input embedding does not.
"""

from __future__ import annotations

from dataclasses import replace

from simulator.workload.model import AttentionSpec, LayerSpec, MlpSpec, ModelSpec

__all__ = [
    "active_parameters",
    "attention_parameters",
    "forward_flops_per_token",
    "index_bytes",
    "kv_bytes",
    "kv_bytes_per_token",
    "layer_parameters",
    "matmul_parameters",
    "mlp_parameters",
    "parameter_breakdown",
    "parameters",
    "state_bytes",
    "training_flops_per_token",
]

_INDEX_BLOCK = 128
_NORM_WIDTH = {"layer": 2, "layer_nobias": 1, "rms": 1, "none_affine": 0}

# FLOPs per state element and token: decay 1, update (multiply-add) 2, readout 2; Mamba discretises (2 more: the 7 of
# Megatron-LM's count of the scan), the delta rule reads its old value (2 more; arXiv 2412.06464, eq. 10).
_RECURRENCE_FLOPS = {"mamba1": 7, "mamba2": 7, "gated-delta-net": 7, "lightning": 5}


def _linear_matmul(a: AttentionSpec, hidden: int) -> int:
    inner, keys = _widths(a)
    if a.mixer == "mamba1":
        return (
            2 * hidden * inner
            + inner * (a.time_step_rank + 2 * a.state_size)
            + a.time_step_rank * inner
            + (inner * hidden)
        )
    if a.mixer == "mamba2":
        return hidden * (2 * inner + 2 * a.num_groups * a.state_size + a.num_attention_heads) + inner * hidden
    gates = 2 * a.num_attention_heads if a.mixer == "gated-delta-net" else 0
    return hidden * (2 * keys + inner + inner * a.gated_output + gates) + inner * hidden


def _widths(a: AttentionSpec) -> tuple[int, int]:
    """Inner (value) width and key width of an attention."""
    return a.num_attention_heads * a.v_head_dim, a.num_key_value_heads * a.head_dim


def _conv_channels(a: AttentionSpec) -> int:
    """Channels of the short causal convolution of a linear mixer."""
    if not a.conv_kernel:
        return 0
    inner, keys = _widths(a)
    if a.mixer == "mamba2":
        return inner + 2 * a.num_groups * a.state_size
    return inner + 2 * keys if a.mixer == "gated-delta-net" else inner


def _attention_matmul(a: AttentionSpec, hidden: int) -> int:
    """Parameters of the projections, without biases."""
    if a.kind == "linear":
        return _linear_matmul(a, hidden)
    heads = a.num_attention_heads
    output = heads * a.v_head_dim * hidden
    if a.kind == "latent":
        width = a.q_lora_rank or hidden
        query = hidden * a.q_lora_rank + width * heads * a.head_dim
        compress = hidden * (a.kv_lora_rank + a.qk_rope_head_dim)
        index = width * a.index_n_heads * a.index_head_dim + hidden * (a.index_head_dim + a.index_n_heads)
        return query + compress + a.kv_lora_rank * heads * (a.qk_nope_head_dim + a.v_head_dim) + output + index
    query = hidden * heads * a.head_dim + hidden * heads * a.v_head_dim * a.gated_output
    return query + hidden * a.num_key_value_heads * (a.head_dim + a.v_head_dim) + output


def attention_parameters(attention: AttentionSpec, hidden: int) -> int:
    """Parameters of a token mixer, with its biases, head norms, sinks and convolution kernel."""
    a = attention
    heads, kv_heads = a.num_attention_heads, a.num_key_value_heads
    total = _attention_matmul(a, hidden) + _conv_channels(a) * a.conv_kernel + a.output_bias * hidden
    if a.kind == "linear":
        # The input projection's bias; no published linear mixer but Mamba has the option.
        inner, _ = _widths(a)
        groups = 2 * a.num_groups * a.state_size + heads if a.mixer == "mamba2" else 0
        return total + a.qkv_bias * (2 * inner + groups)
    if a.kind == "latent":
        # Norms of the compressed query and key/value; the indexer's key has one with a bias.
        return total + a.q_lora_rank + a.kv_lora_rank + 2 * a.index_head_dim
    bias = heads * a.head_dim + kv_heads * (a.head_dim + a.v_head_dim)
    return total + a.qkv_bias * bias + a.qk_norm * 2 * a.head_dim + a.sinks * heads


def _mlp_parts(m: MlpSpec, hidden: int, *, active: bool) -> dict[str, int]:
    matrices = 3 if m.gated else 2

    def block(width: int, bias: bool) -> int:
        return matrices * hidden * width + bias * ((matrices - 1) * width + hidden)

    if not m.is_moe:
        return {"mlp": block(m.intermediate_size, m.bias)}
    experts = m.num_experts_per_tok if active else m.num_experts
    return {
        "experts": experts * block(m.moe_intermediate_size, m.expert_bias),
        "shared_experts": block(m.shared_intermediate_size, False) + m.shared_gate * hidden,
        "router": m.num_experts * (hidden + m.router_bias),
    }


def mlp_parameters(mlp: MlpSpec, hidden: int, active: bool = False) -> int:
    """Parameters of a feed-forward block; with ``active`` only the experts that one token visits."""
    return sum(_mlp_parts(mlp, hidden, active=active).values())


def _mlp_matmul(m: MlpSpec, hidden: int, *, active: bool) -> int:
    matrices = 3 if m.gated else 2
    if not m.is_moe:
        return matrices * hidden * m.intermediate_size
    experts = m.num_experts_per_tok if active else m.num_experts
    width = experts * m.moe_intermediate_size + m.shared_intermediate_size
    return matrices * hidden * width + hidden * (m.num_experts + m.shared_gate)


def _layer_parts(layer: LayerSpec, hidden: int, *, active: bool) -> dict[str, int]:
    parts = {"norm": layer.norms * _NORM_WIDTH[layer.norm] * hidden, "other": layer.extra_parameters}
    parts["adaptive_norm"] = layer.adaptive_norm
    if layer.attention is not None:
        parts["attention"] = attention_parameters(layer.attention, hidden)
    if layer.cross_attention is not None:
        parts["cross_attention"] = attention_parameters(layer.cross_attention, hidden)
    if layer.mlp is not None:
        parts.update(_mlp_parts(layer.mlp, hidden, active=active))
    return parts


def layer_parameters(layer: LayerSpec, hidden: int, active: bool = False) -> int:
    """Parameters of one block; with ``active`` only the experts that one token visits."""
    return sum(_layer_parts(layer, hidden, active=active).values())


def _breakdown(model: ModelSpec, *, active: bool) -> dict[str, int]:
    hidden = model.hidden_size
    width = model.embedding_size or hidden
    norm = _NORM_WIDTH[model.layers[0][0].norm] * hidden if model.layers else 0
    parts = {"embedding": model.vocab_size * width, "positions": model.learned_positions * hidden}
    parts["embedding"] += model.token_types * hidden + (2 * width * hidden if model.embedding_size else 0)
    if model.patch is not None:
        patch = model.patch
        parts["embedding"] += (patch.patch_dim + patch.bias + patch.class_tokens) * hidden
    for layer, count in model.layers:
        for key, value in _layer_parts(layer, hidden, active=active).items():
            parts[key] = parts.get(key, 0) + count * value
    parts["norm"] = parts.get("norm", 0) + norm * (model.final_norm + model.embedding_norm)
    parts["head"] = _head(model, norm)
    parts["other"] = parts.get("other", 0) + model.extra_parameters
    if model.encoder is not None:
        parts["encoder"] = sum(_breakdown(model.encoder, active=active).values())
    parts["towers"] = sum(sum(_breakdown(tower, active=active).values()) for tower in model.towers)
    parts["projector"] = model.projector_parameters
    return {key: value for key, value in parts.items() if value}


def _head(model: ModelSpec, norm: int) -> int:
    hidden = model.hidden_size
    dense = model.head_hidden_layers * (hidden * hidden + hidden + norm)
    if model.head == "lm":
        matrix = 0 if model.tie_word_embeddings else model.vocab_size * (model.embedding_size or hidden)
        return dense + matrix + model.head_bias * model.vocab_size
    if model.head == "classes":
        return dense + model.num_labels * (hidden + model.head_bias)
    return 0


def parameter_breakdown(model: ModelSpec) -> dict[str, int]:
    """Parameters by what they are for; the values add up to :func:`parameters`.

    Returns
    -------
    dict
        Keys among ``embedding, positions, attention, cross_attention, mlp, experts, shared_experts, router, norm,
        adaptive_norm, head, other, encoder, towers, projector``; zeros are left out. A tied head counts once, as
        ``embedding``.
    """
    return _breakdown(model, active=False)


def parameters(model: ModelSpec) -> int:
    """All parameters, with encoder, towers and projector; tied matrices once."""
    return sum(parameter_breakdown(model).values())


def active_parameters(model: ModelSpec) -> int:
    """Parameters that one token visits: routed experts count ``num_experts_per_tok`` times, the rest in full."""
    return sum(_breakdown(model, active=True).values())


def _layer_matmul(layer: LayerSpec, hidden: int, *, active: bool) -> int:
    total = _attention_matmul(layer.attention, hidden) if layer.attention is not None else 0
    if layer.cross_attention is not None:
        total += _cross_query(layer.cross_attention, hidden)
    return total + (_mlp_matmul(layer.mlp, hidden, active=active) if layer.mlp is not None else 0)


def _cross_query(a: AttentionSpec, hidden: int) -> int:
    """Cross-attention parameters that a decoder token meets: query and output (keys and values meet the encoder's)."""
    return hidden * a.num_attention_heads * (a.head_dim + a.v_head_dim)


def _cross_key_value(model: ModelSpec) -> int:
    """Cross-attention parameters that an encoder token meets."""
    return sum(
        count * model.hidden_size * a.num_key_value_heads * (a.head_dim + a.v_head_dim)
        for layer, count in model.layers
        if (a := layer.cross_attention) is not None
    )


def matmul_parameters(model: ModelSpec, active: bool = True) -> int:
    """Parameters that multiply every token of the backbone: the P_matmul of F = 6·P_matmul + attention.

    With the output head and the patch projection, without the input embedding, biases and norms. Encoder and towers
    see other tokens: ask for them with ``model.encoder`` and ``model.towers``. A class head works once per item
    when there is a class token, else on every token (DiT).

    Parameters
    ----------
    active
        Count only the experts that one token visits; otherwise all.
    """
    hidden = model.hidden_size
    width = model.embedding_size or hidden
    total = sum(count * _layer_matmul(layer, hidden, active=active) for layer, count in model.layers)
    total += model.head_hidden_layers * hidden * hidden + (2 * width * hidden if model.embedding_size else 0)
    if model.head == "lm":
        total += model.vocab_size * width
    if model.patch is not None:
        total += model.patch.patch_dim * hidden
        total += 0 if model.patch.class_tokens else model.num_labels * hidden
    return total


def _keys_seen(a: AttentionSpec, sequence_length: int, causal: bool) -> float:
    """Mean number of keys a token attends to [tokens]; causal is half of all, a window its band of the triangle."""
    window = min(a.sliding_window or a.index_topk or sequence_length, sequence_length)
    if not (causal and a.causal):
        return float(window)
    return window - window * window / (2 * sequence_length)


def _mixing_flops(a: AttentionSpec, sequence_length: int, causal: bool) -> float:
    """Forward FLOPs per token of scores and values, or of a recurrence with its convolution [FLOP]."""
    if a.kind == "linear":
        state = a.num_attention_heads * a.head_dim * a.state_size
        return float(_RECURRENCE_FLOPS[a.mixer] * state + 2 * a.conv_kernel * _conv_channels(a))
    found = 2.0 * _keys_seen(a, sequence_length, causal) * a.num_attention_heads * (a.head_dim + a.v_head_dim)
    if a.index_topk:  # the indexer scores all of them
        every = _keys_seen(replace(a, index_topk=0), sequence_length, causal)
        found += 2.0 * every * a.index_n_heads * a.index_head_dim
    return found


def forward_flops_per_token(
    model: ModelSpec, sequence_length: int, causal: bool = False, encoder_sequence_length: int | None = None
) -> float:
    """FLOPs of one forward pass per token of the backbone: 2·P_matmul + attention.

    Parameters
    ----------
    sequence_length
        Tokens per sequence.
    causal
        Count only the lower triangle of causal attention (half); the non-causal figure is the convention of
        PaLM's and Megatron-LM's model-FLOPs utilisation.
    encoder_sequence_length
        Encoder-decoder models: tokens the encoder reads (default: as many as the decoder). Its whole pass and the
        keys and values of cross-attention are spread over the decoder's tokens.

    Returns
    -------
    float
        [FLOP/token]. Towers are not in it: they see other tokens.

    References
    ----------
    Chowdhery et al., PaLM, arXiv 2204.02311, app. B; Narayanan et al., arXiv 2104.04473, eq. 3. Latent attention
    counts heads·(qk + v)/2 for heads·head_dim.
    """
    total = 2.0 * matmul_parameters(model)
    for layer, count in model.layers:
        if layer.attention is not None:
            total += count * _mixing_flops(layer.attention, sequence_length, causal)
    if model.encoder is None:
        return total
    read = sequence_length if encoder_sequence_length is None else encoder_sequence_length
    for layer, count in model.layers:
        if layer.cross_attention is not None:
            total += count * _mixing_flops(layer.cross_attention, read, causal=False)
    encoder = forward_flops_per_token(model.encoder, read, causal) + 2.0 * _cross_key_value(model)
    return total + encoder * read / sequence_length


def training_flops_per_token(
    model: ModelSpec,
    sequence_length: int,
    causal: bool = False,
    encoder_sequence_length: int | None = None,
    frozen: bool = False,
) -> float:
    """FLOPs of forward and backward per token, three times the forward pass, without recomputation [FLOP/token].

    ``frozen``: weights that are not trained have no gradient, which leaves 4 FLOPs per weight and token of 6.
    """
    total = 3.0 * forward_flops_per_token(model, sequence_length, causal, encoder_sequence_length)
    return total - _weight_flops(model, sequence_length, encoder_sequence_length) if frozen else total


def _weight_flops(model: ModelSpec, sequence_length: int, encoder_sequence_length: int | None) -> float:
    """Products with weights in one forward pass, per token: as many as their gradients take."""
    total = 2.0 * matmul_parameters(model)
    if model.encoder is None:
        return total
    read = sequence_length if encoder_sequence_length is None else encoder_sequence_length
    encoder = _weight_flops(model.encoder, read, None) + 2.0 * _cross_key_value(model)
    return total + encoder * read / sequence_length


def _kv_elements(a: AttentionSpec) -> int:
    if a.kind == "linear":
        return 0
    if a.kind == "latent":
        return a.kv_lora_rank + a.qk_rope_head_dim
    return a.num_key_value_heads * (a.head_dim + a.v_head_dim)


def index_bytes(a: AttentionSpec) -> int:
    """Bytes of an indexer's key of one token: fp8 with an fp32 scale per block of 128 (vLLM and SGLang) [B]; 0 without
    an indexer."""
    return a.index_head_dim + 4 * -(-a.index_head_dim // _INDEX_BLOCK) if a.index_n_heads else 0


def kv_bytes_per_token(model: ModelSpec, dtype_bytes: float = 2) -> float:
    """Bytes that one more token adds to the KV cache while no window is full [B/token].

    Latent attention stores the compressed key/value, the rotary key and an indexer's own; linear mixers add nothing per
    token.
    0 for models without a cache (``is_decoder`` false). A whole number when ``dtype_bytes`` is an int.
    """
    return kv_bytes(model, 1, dtype_bytes)


def kv_bytes(model: ModelSpec, context: int, dtype_bytes: float = 2, encoder_context: int = 0) -> float:
    """Bytes of KV cache of one sequence of ``context`` tokens [B].

    A windowed layer keeps at most ``sliding_window`` tokens. ``encoder_context`` tokens of the encoder are kept once
    by each cross-attention. The constant state of linear mixers is in :func:`state_bytes`.
    """
    if not model.is_decoder:
        return 0
    elements = indexed = 0
    for layer, count in model.layers:
        if (a := layer.attention) is not None:
            elements += count * _kv_elements(a) * min(context, a.sliding_window or context)
            indexed += count * index_bytes(a) * context
        if layer.cross_attention is not None:
            elements += count * _kv_elements(layer.cross_attention) * encoder_context
    return elements * dtype_bytes + indexed


def state_bytes(model: ModelSpec, dtype_bytes: float = 2, state_dtype_bytes: float | None = None) -> float:
    """Bytes of recurrent state of one sequence, whatever its length [B].

    Per linear mixer: heads × head_dim × state_size, and the last ``conv_kernel − 1`` inputs of its convolution
    (vLLM's state shapes).

    Parameters
    ----------
    dtype_bytes
        Of the convolution window.
    state_dtype_bytes
        Of the recurrence, which many engines keep in fp32; default ``dtype_bytes``.
    """
    wide = dtype_bytes if state_dtype_bytes is None else state_dtype_bytes
    total: float = 0
    for layer, count in model.layers:
        a = layer.attention
        if a is not None and a.kind == "linear":
            total += count * a.num_attention_heads * a.head_dim * a.state_size * wide
            total += count * max(a.conv_kernel - 1, 0) * _conv_channels(a) * dtype_bytes
    return total
