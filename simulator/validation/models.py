"""A model from the dimensions that measurement files print, in their words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from simulator.validation.model_names import shipped_name
from simulator.validation.records import IncompleteError, sections, stated, whole
from simulator.workload.model import AttentionSpec, LayerSpec, MlpSpec, ModelSpec
from simulator.workload.model_files import load_model

__all__ = ["IncompleteError", "gpt_model", "llama_model", "model_of", "trained_model"]

GATED = ("swiglu", "geglu", "glu")

BIASED_FAMILIES = ("gpt", "gpt2", "gpt3", "opt", "bloom", "mt-nlg", "megatron")
"""Families with biases, LayerNorm and dropout in their recipe (Megatron-LM's GPT block)."""

ALIBI_FAMILIES = ("bloom", "mpt")
"""Families whose positions are biases on the scores; of the others the biased ones learn them, the rest rotate."""


def trained_model(dims: Mapping[str, Any]) -> tuple[ModelSpec, list[str]]:
    """The model of a ``model:`` block, of the public configuration of its name where it leaves dimensions out, and what
    was assumed.

    Raises
    ------
    IncompleteError
        With the dimensions that are missing, where no public model of that name is shipped.
    """
    try:
        return model_of(dims), []
    except IncompleteError:
        name = str(dims.get("name") or "")
        shipped = shipped_name(name)
        if not shipped or any(stated(dims.get(k)) for k in ("layers", "hidden")):
            raise
    return load_model(shipped), [f"dimensions of the public configuration of {shipped}"]


def model_of(dims: Mapping[str, Any]) -> ModelSpec:
    """The model of a ``model:`` block: layers, hidden, ffn_hidden, heads, kv_heads, head_dim, vocab, seq_len, mlp ...

    Raises
    ------
    IncompleteError
        With the dimensions that are missing.
    """
    sections(dims, (), ("moe", "mla"))
    needed = [k for k in ("layers", "hidden", "heads", "vocab") if not stated(dims.get(k))]
    if not stated(dims.get("ffn_hidden")) and not dims.get("moe"):
        needed.append("ffn_hidden")
    if needed:
        raise IncompleteError(f"model dimensions missing: {', '.join(needed)}")
    layers, hidden, _, vocab = whole(dims, "layers", "hidden", "heads", "vocab")
    family = str(dims.get("family", ""))
    biased = family in BIASED_FAMILIES
    norm = "layer" if biased else "rms" if dims.get("mlp") in GATED else "layer_nobias"
    alibi = family in ALIBI_FAMILIES
    attention = _attention(dims, biased, "alibi" if alibi else "none" if biased else "rope")
    [dense], sparse = whole(dims, "dense_layers", least=0, default=0), dims.get("moe")
    mlp = _mlp(dims, biased)
    runs: tuple[tuple[LayerSpec, int], ...]
    if sparse:
        if dense > layers:
            raise IncompleteError(f"{dense} dense layers of {layers}")
        [width] = whole(dims, "ffn_hidden", default=0)
        if dense and not width:
            raise IncompleteError("model dimensions missing: ffn_hidden of the dense layers")
        first = LayerSpec(attention, MlpSpec(width, True), norm=norm)  # type: ignore[arg-type]
        rest = LayerSpec(attention, mlp, norm=norm)  # type: ignore[arg-type]
        runs = tuple((layer, count) for layer, count in ((first, dense), (rest, layers - dense)) if count)
    else:
        runs = ((LayerSpec(attention, mlp, norm=norm), layers),)  # type: ignore[arg-type]
    [positions] = whole(dims, "seq_len", default=2048)
    return ModelSpec(
        str(dims.get("name", family)),
        family,
        hidden,
        runs,
        vocab,
        positions,
        learned_positions=positions if biased and not alibi else 0,
        tie_word_embeddings=bool(dims.get("tied_embeddings")),
        dropout=biased,
    )


def _attention(dims: Mapping[str, Any], biased: bool, positions: Literal["rope", "alibi", "none"]) -> AttentionSpec:
    heads, hidden = whole(dims, "heads", "hidden")
    if latent := dims.get("mla"):
        nope, rope, value, rank = whole(latent, "qk_nope", "qk_rope", "v_head", "kv_lora")
        return AttentionSpec(
            "latent", heads, heads, nope + rope, value, q_lora_rank=whole(latent, "q_lora", least=0, default=0)[0],
            kv_lora_rank=rank, qk_rope_head_dim=rope, qk_nope_head_dim=nope,
        )  # fmt: skip
    if not stated(dims.get("head_dim")) and hidden % heads:
        raise IncompleteError(f"{heads} heads do not divide a hidden size of {hidden}, and head_dim is not stated")
    [dim], [groups] = whole(dims, "head_dim", default=hidden // heads), whole(dims, "kv_heads", default=heads)
    if heads % groups:
        raise IncompleteError(f"{groups} key-value heads do not divide {heads} heads")
    return AttentionSpec(
        "full", heads, groups, dim, dim, qkv_bias=biased, output_bias=biased, position_embedding_type=positions
    )


def _mlp(dims: Mapping[str, Any], biased: bool) -> MlpSpec:
    moe = dims.get("moe")
    if not moe:
        return MlpSpec(whole(dims, "ffn_hidden")[0], dims.get("mlp") in GATED, bias=biased)
    # Files give the width of all shared experts together (DeepSeek-V2: 2 of 1536 are 3072), or none.
    experts, per_token, width = whole(moe, "experts", "top_k", "expert_ffn")
    if per_token > experts:
        raise IncompleteError(f"{per_token} of {experts} experts per token")
    [beside] = whole(moe, "shared_experts", least=0, default=0)
    [shared] = whole(moe, "shared_ffn", least=0, default=beside * width)
    return MlpSpec(
        0, True, num_experts=experts, num_experts_per_tok=per_token, moe_intermediate_size=width,
        shared_intermediate_size=shared,
    )  # fmt: skip


def gpt_model(name: str, layers: int, hidden: int, heads: int, seq_len: int, vocab: int) -> ModelSpec:
    """Megatron's GPT: feed-forward of four widths, tied embeddings."""
    return model_of(
        {"name": name, "family": "gpt", "layers": layers, "hidden": hidden, "heads": heads, "ffn_hidden": 4 * hidden,
         "vocab": vocab, "seq_len": seq_len, "mlp": "gelu", "tied_embeddings": True}
    )  # fmt: skip


def llama_model(
    name: str,
    layers: int,
    hidden: int,
    heads: int,
    kv_heads: int,
    ffn: int,
    vocab: int,
    seq_len: int,
    tied: bool = False,
) -> ModelSpec:
    """A Llama block with these sizes."""
    return model_of(
        {"name": name, "family": "llama", "layers": layers, "hidden": hidden, "heads": heads, "kv_heads": kv_heads,
         "ffn_hidden": ffn, "vocab": vocab, "seq_len": seq_len, "mlp": "swiglu", "tied_embeddings": tied}
    )  # fmt: skip


def dims_in_words(text: str) -> dict[str, int]:
    """Dimensions in a name such as ``InternLM-7B (L32 h4096 ffn11008 heads32 vocab103168)``; those that are there."""
    keys = {"L": "layers", "h": "hidden", "ffn": "ffn_hidden", "heads": "heads", "vocab": "vocab", "seq": "seq_len"}
    return {keys[k]: int(v) for k, v in re.findall(r"\b(L|h|ffn|heads|vocab|seq)(\d+)\b", text)}
