"""A model from the dimensions that measurement files print, in their words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from simulator.workload.model import AttentionSpec, LayerSpec, MlpSpec, ModelSpec

__all__ = ["IncompleteError", "gpt_model", "llama_model", "model_of"]

GATED = ("swiglu", "geglu", "glu")

BIASED_FAMILIES = ("gpt", "gpt2", "gpt3", "opt", "bloom", "mt-nlg", "megatron")
"""Families with biases, LayerNorm and dropout in their recipe (Megatron-LM's GPT block)."""

ALIBI_FAMILIES = ("bloom", "mpt")
"""Families whose positions are biases on the scores; of the others the biased ones learn them, the rest rotate."""


class IncompleteError(ValueError):
    """A record does not say enough to be simulated; the message says what is missing."""


def model_of(dims: Mapping[str, Any]) -> ModelSpec:
    """The model of a ``model:`` block: layers, hidden, ffn_hidden, heads, kv_heads, head_dim, vocab, seq_len, mlp ...

    Raises
    ------
    IncompleteError
        With the dimensions that are missing.
    """
    needed = [k for k in ("layers", "hidden", "heads", "vocab") if not dims.get(k)]
    if not dims.get("ffn_hidden") and not dims.get("moe"):
        needed.append("ffn_hidden")
    if needed:
        raise IncompleteError(f"model dimensions missing: {', '.join(needed)}")
    family = str(dims.get("family", ""))
    biased = family in BIASED_FAMILIES
    norm = "layer" if biased else "rms" if dims.get("mlp") in GATED else "layer_nobias"
    alibi = family in ALIBI_FAMILIES
    attention = _attention(dims, biased, "alibi" if alibi else "none" if biased else "rope")
    dense, sparse = int(dims.get("dense_layers") or 0), dims.get("moe")
    layers = int(dims["layers"])
    mlp = _mlp(dims, biased)
    runs: tuple[tuple[LayerSpec, int], ...]
    if sparse:
        first = LayerSpec(attention, MlpSpec(int(dims.get("ffn_hidden") or 0), True), norm=norm)  # type: ignore[arg-type]
        rest = LayerSpec(attention, mlp, norm=norm)  # type: ignore[arg-type]
        runs = ((first, dense), (rest, layers - dense)) if dense else ((rest, layers),)
    else:
        runs = ((LayerSpec(attention, mlp, norm=norm), layers),)  # type: ignore[arg-type]
    positions = int(dims.get("seq_len") or 2048)
    return ModelSpec(
        str(dims.get("name", family)),
        family,
        int(dims["hidden"]),
        runs,
        int(dims["vocab"]),
        positions,
        learned_positions=positions if biased and not alibi else 0,
        tie_word_embeddings=bool(dims.get("tied_embeddings")),
        dropout=biased,
    )


def _attention(dims: Mapping[str, Any], biased: bool, positions: Literal["rope", "alibi", "none"]) -> AttentionSpec:
    heads = int(dims["heads"])
    if latent := dims.get("mla"):
        nope, rope = int(latent["qk_nope"]), int(latent["qk_rope"])
        return AttentionSpec(
            "latent", heads, heads, nope + rope, int(latent["v_head"]), q_lora_rank=int(latent.get("q_lora") or 0),
            kv_lora_rank=int(latent["kv_lora"]), qk_rope_head_dim=rope, qk_nope_head_dim=nope,
        )  # fmt: skip
    dim = int(dims.get("head_dim") or int(dims["hidden"]) // heads)
    groups = int(dims.get("kv_heads") or heads)
    return AttentionSpec(
        "full", heads, groups, dim, dim, qkv_bias=biased, output_bias=biased, position_embedding_type=positions
    )


def _mlp(dims: Mapping[str, Any], biased: bool) -> MlpSpec:
    moe = dims.get("moe")
    if not moe:
        return MlpSpec(int(dims["ffn_hidden"]), dims.get("mlp") in GATED, bias=biased)
    # Files give the width of all shared experts together (DeepSeek-V2: 2 of 1536 are 3072), or none.
    shared = int(moe.get("shared_ffn") or int(moe.get("shared_experts") or 0) * int(moe["expert_ffn"]))
    return MlpSpec(
        0, True, num_experts=int(moe["experts"]), num_experts_per_tok=int(moe["top_k"]),
        moe_intermediate_size=int(moe["expert_ffn"]), shared_intermediate_size=shared,
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
