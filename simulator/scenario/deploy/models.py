"""Models by their names in other programs: Hugging Face repositories, and sizes as Megatron-LM's flags give them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from simulator.data import data_root
from simulator.errors import ConfigError, unknown_name
from simulator.workload.model import AttentionSpec, MlpSpec, ModelSpec
from simulator.workload.model_files import load_model, model_aliases, model_names

__all__ = ["by_sizes", "named", "repository", "sizes"]

_REPOSITORY = re.compile(r"https://huggingface\.co/([\w.-]+/[\w.-]+)")
_DECORATION = re.compile(
    r"^meta-|-(hf|instruct|chat|base|it|fp8|fp8-dynamic|bf16|awq|gptq|int4|w4a16|v0\.\d|20\d\d|2[45]\d\d)(?=-|$)"
)


def repository(model: ModelSpec) -> str:
    """The Hugging Face repository that a shipped model was taken from, or the model's own name."""
    found = [match[1] for source in model.sources if (match := _REPOSITORY.search(source))]
    return found[0] if found else model.name


def named(name: str) -> str:
    """The shipped model of a repository name, or a path of one's own.

    >>> named("meta-llama/Llama-3.1-70B-Instruct"), named("llama-3-8b")
    ('llama-3.1-70b', 'llama-3-8b')

    Raises
    ------
    ConfigError
        If nothing shipped has that name.
    """
    if Path(name).exists() or name in model_names() or name in model_aliases():
        return name
    if name in (known := _repositories()):
        return known[name]
    plain = _plain(name)
    every = {_plain(n): n for n in (*model_names(), *model_aliases())} | {_plain(r): m for r, m in known.items()}
    if plain in every:
        return every[plain]
    raise ConfigError(
        f"{unknown_name('model', name, model_names())}; say which it is with --model NAME or --model config.json"
    )


def _plain(name: str) -> str:
    """A name without its organisation and what does not change the shapes."""
    text = name.rpartition("/")[2].lower().replace("_", "-")
    while (shorter := _DECORATION.sub("", text)) != text:
        text = shorter
    return text


@cache
def _repositories() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in model_names():
        text = (data_root() / "workloads/models" / f"{name}.yaml").read_text(encoding="utf-8")
        for match in _REPOSITORY.finditer(text):
            found.setdefault(match[1], name)
    return found


def sizes(model: ModelSpec) -> dict[str, object] | None:
    """The flags of Megatron-LM that make this model, switches as None; nothing if its layers are of other kinds."""
    layers = model.layer_list()
    attentions = {layer.attention for layer in layers}
    blocks = [layer.mlp for layer in layers]
    attention = next(iter(attentions))
    norms = {(layer.norm, layer.norms, layer.parallel_residual, layer.cross_attention) for layer in layers}
    plain = (
        len(attentions) == 1 and attention is not None and attention.kind in ("full", "latent") and attention.causal
        and not attention.index_topk and len(norms) == 1 and all(b is not None for b in blocks) and model.head == "lm"
        and not model.towers
    )  # fmt: skip
    norm, count, parallel, cross = next(iter(norms))
    positions = model.position_embedding_type
    plain = plain and positions != "alibi"  # not among the choices of --position-embedding-type
    if not plain or attention is None or count != 2 or parallel or cross is not None or norm not in ("rms", "layer"):
        return None
    found: dict[str, object] = {"--num-layers": len(layers), "--hidden-size": model.hidden_size}
    found |= dict(_attention(model, attention)) | dict(_blocks([b for b in blocks if b is not None]))
    found |= {"--normalization": "RMSNorm"} if norm == "rms" else {}
    found |= {"--max-position-embeddings": model.max_position_embeddings, "--vocab-size": model.vocab_size}
    found["--position-embedding-type"] = positions
    return found | ({} if model.tie_word_embeddings else {"--untie-embeddings-and-output-weights": None})


def _attention(model: ModelSpec, attention: AttentionSpec) -> Iterator[tuple[str, object]]:
    heads = attention.num_attention_heads
    yield "--num-attention-heads", heads
    if attention.kind == "latent":
        yield "--multi-latent-attention", None
        if attention.q_lora_rank:
            yield "--q-lora-rank", attention.q_lora_rank
        yield "--kv-lora-rank", attention.kv_lora_rank
        yield "--qk-head-dim", attention.qk_nope_head_dim
        yield "--qk-pos-emb-head-dim", attention.qk_rope_head_dim
        yield "--v-head-dim", attention.v_head_dim
        return
    if attention.num_key_value_heads != heads:
        yield "--group-query-attention", None
        yield "--num-query-groups", attention.num_key_value_heads
    if attention.head_dim * heads != model.hidden_size:
        yield "--kv-channels", attention.head_dim
    if attention.qk_norm:
        yield "--qk-layernorm", None
    if not attention.output_bias:
        yield "--disable-bias-linear", None
    if attention.qkv_bias and not attention.output_bias:
        yield "--add-qkv-bias", None


def _blocks(blocks: list[MlpSpec]) -> Iterator[tuple[str, object]]:
    dense = [b for b in blocks if not b.is_moe]
    sparse = [b for b in blocks if b.is_moe]
    first = sparse[0] if sparse else dense[0]
    if dense or sparse:
        yield "--ffn-hidden-size", dense[0].intermediate_size if dense else first.moe_intermediate_size
    if first.gated:
        yield "--swiglu", None
    if not sparse:
        return
    yield "--num-experts", first.num_experts
    yield "--moe-router-topk", first.num_experts_per_tok
    yield "--moe-ffn-hidden-size", first.moe_intermediate_size
    if first.shared_intermediate_size:
        yield "--moe-shared-expert-intermediate-size", first.shared_intermediate_size
    if dense:
        start = next(i for i, b in enumerate(blocks) if b.is_moe)
        if all(b.is_moe for b in blocks[start:]):
            yield "--moe-layer-freq", f"([0]*{start}+[1]*{len(blocks) - start})"


def by_sizes(given: Mapping[str, object]) -> str:
    """The shipped model with these sizes; among equal ones that of the same context and vocabulary, then by name.

    Raises
    ------
    ConfigError
        If there is none.
    """
    shape = ("--num-layers", "--hidden-size", "--num-attention-heads", "--num-query-groups", "--ffn-hidden-size",
             "--num-experts", "--moe-ffn-hidden-size", "--kv-lora-rank")  # fmt: skip
    wanted = {name: given[name] for name in shape if name in given}
    if wanted.get("--num-query-groups") == wanted.get("--num-attention-heads"):
        wanted.pop("--num-query-groups", None)
    ranked: list[tuple[int, str]] = []
    for name in model_names():
        has = sizes(load_model(name))
        if has is None or any(has.get(n) != v for n, v in wanted.items()):
            continue
        if any(n in has and n not in given for n in ("--num-experts", "--num-query-groups", "--kv-lora-rank")):
            continue
        same = sum(has.get(n) == given.get(n) for n in ("--max-position-embeddings", "--vocab-size"))
        ranked.append((-same, name))
    if not ranked:
        said = ", ".join(f"{name} {value}" for name, value in wanted.items())
        raise ConfigError(f"no shipped model has {said or 'no sizes'}; say which it is with --model NAME|config.json")
    return min(ranked)[1]
