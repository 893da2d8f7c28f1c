"""Models with towers: CLIP, LLaVA, Gemma 3, Llama 4."""

from __future__ import annotations

import dataclasses

from simulator.workload.hf_encoders import encoder_layer
from simulator.workload.hf_reader import FAMILIES, ConfigReader, family
from simulator.workload.model import ModelSpec, PatchSpec

__all__: list[str] = []

_LLAVA_VISION = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "patch_size": 14,
    "image_size": 336,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
}
"""What LlavaConfig uses when ``vision_config`` is absent (CLIP ViT-L/14 at 336 pixels)."""


def _nested(c: ConfigReader, key: str, model_type: str, defaults: dict[str, object] | None = None) -> ModelSpec:
    """Build the model under ``key``; its own ``model_type`` wins over the one given."""
    present = isinstance(c.config.get(key), dict)
    reader = c.sub(key, {"model_type": model_type, **(defaults if defaults and not present else {})})
    kind = reader.text("model_type", default=model_type)
    if kind not in FAMILIES:
        reader.add(f"unknown model_type '{kind}'; known: {', '.join(sorted(FAMILIES))}", "model_type")
        kind = model_type
    model = FAMILIES[kind](reader)
    c.defaults.update({f"{key}.{k}": v for k, v in reader.defaults.items()})
    c.issues.extend(reader.typos())
    return model


def _pooled(c: ConfigReader, tower: ModelSpec, output_tokens: int) -> ModelSpec:
    if tower.patch is None:
        c.add(f"model_type '{tower.family}' takes no image; give a vision tower", "vision_config")
        return tower
    return dataclasses.replace(tower, patch=dataclasses.replace(tower.patch, output_tokens=output_tokens))


def _with_tower(c: ConfigReader, name: str, text: ModelSpec, vision: ModelSpec, projector: int) -> ModelSpec:
    return dataclasses.replace(text, name=c.name, family=name, towers=(vision,), projector_parameters=projector)


@family("clip_text_model")
def clip_text(c: ConfigReader) -> ModelSpec:
    """The text tower of CLIP: causal, learned positions, no language-model head."""
    hidden = c.integer("hidden_size", default=512)
    heads = c.integer("num_attention_heads", default=8)
    c.head_dim(hidden, heads)
    positions = c.integer("max_position_embeddings", default=77)
    layer = encoder_layer(hidden, heads, c.integer("intermediate_size", default=2048), causal=True)
    return ModelSpec(
        c.name,
        "clip_text_model",
        hidden,
        ((layer, c.integer("num_hidden_layers", default=12)),),
        vocab_size=c.integer("vocab_size", default=49408),
        max_position_embeddings=positions,
        learned_positions=positions,
        head="none",
        is_decoder=False,
    )


@family("clip")
def clip(c: ConfigReader) -> ModelSpec:
    """CLIP: the text tower is the backbone, the vision tower its tower; both project to ``projection_dim``."""
    text = _nested(c, "text_config", "clip_text_model")
    vision = _nested(c, "vision_config", "clip_vision_model")
    width = c.integer("projection_dim", default=512)
    projector = width * (text.hidden_size + vision.hidden_size)
    return dataclasses.replace(_with_tower(c, "clip", text, vision, projector), extra_parameters=1)  # the temperature


def _llava(c: ConfigReader, name: str, *, extra: bool) -> ModelSpec:
    vision = _nested(c, "vision_config", "clip_vision_model", dict(_LLAVA_VISION))
    text = _nested(c, "text_config", "llama")
    bias = c.flag("multimodal_projector_bias", default=True)
    hidden = text.hidden_size
    projector = vision.hidden_size * hidden + hidden * hidden + 2 * hidden * bias
    patch = vision.patch
    per_image = patch.tokens if patch is not None else 0
    if patch is not None and c.text("vision_feature_select_strategy", default="default") == "default":
        per_image -= patch.class_tokens
    model = _with_tower(c, name, text, _pooled(c, vision, per_image), projector)
    return dataclasses.replace(model, extra_parameters=text.extra_parameters + (hidden if extra else 0))


@family("llava")
def llava(c: ConfigReader) -> ModelSpec:
    """LLaVA 1.5: CLIP patches through a two-layer projector into a language model."""
    return _llava(c, "llava", extra=False)


@family("llava_next")
def llava_next(c: ConfigReader) -> ModelSpec:
    """LLaVA-NeXT: as LLaVA with several tiles per image and a learned end of a row of patches."""
    return _llava(c, "llava_next", extra=True)


@family("gemma3")
def gemma3(c: ConfigReader) -> ModelSpec:
    """Gemma 3 with its SigLIP tower, whose patches are averaged to ``mm_tokens_per_image`` tokens."""
    text = _nested(c, "text_config", "gemma3_text")
    vision = _nested(c, "vision_config", "siglip_vision_model")
    tokens = c.integer("mm_tokens_per_image", default=256)
    projector = vision.hidden_size * text.hidden_size + vision.hidden_size  # projection and its norm
    return _with_tower(c, "gemma3", text, _pooled(c, vision, tokens), projector)


@family("llama4_vision_model")
def llama4_vision(c: ConfigReader) -> ModelSpec:
    """The vision tower of Llama 4, which learns and rotates positions.

    Its adapter shuffles patches together and projects them twice.
    """
    hidden = c.integer("hidden_size", default=768)
    heads = c.integer("num_attention_heads", default=16)
    c.head_dim(hidden, heads)
    width = c.integer("intermediate_size", default=5632)
    image = c.integer("image_size", default=448)
    patch = c.integer("patch_size", default=14)
    per_side = image // patch
    ratio = c.number("pixel_shuffle_ratio", default=0.5)
    inner = c.integer("projector_input_dim", default=4096)
    outer = c.integer("projector_output_dim", default=4096)
    tokens = per_side * per_side + 1
    return ModelSpec(
        c.name,
        "llama4_vision_model",
        hidden,
        ((encoder_layer(hidden, heads, width, rotary=True), c.integer("num_hidden_layers", default=34)),),
        vocab_size=0,
        max_position_embeddings=tokens,
        learned_positions=tokens,
        embedding_norm=True,
        head="none",
        is_decoder=False,
        patch=PatchSpec(
            patch * patch * c.integer("num_channels", default=3),
            tokens,
            bias=False,
            class_tokens=1,
            output_tokens=round(per_side * per_side * ratio * ratio),
        ),
        extra_parameters=width * inner + outer * outer,
    )


@family("llama4")
def llama4(c: ConfigReader) -> ModelSpec:
    """Llama 4 with its vision tower."""
    text = _nested(c, "text_config", "llama4_text")
    vision = _nested(c, "vision_config", "llama4_vision_model")
    nested = c.config.get("vision_config")
    width = ConfigReader(nested if isinstance(nested, dict) else {}, c.name, c.issues, "vision_config").integer(
        "vision_output_dim", default=7680
    )
    return _with_tower(c, "llama4", text, vision, width * text.hidden_size)


@family("qwen3_5", "qwen3_5_moe", "qwen3_vl", "qwen3_vl_moe", "kimi_k25", "mistral3")
def text_decoder(c: ConfigReader) -> ModelSpec:
    """Models whose ``text_config`` is served alone: their vision tower is left out."""
    kinds = {"kimi_k25": "kimi_k2", "mistral3": "mistral"}
    kind = str(c.config.get("model_type"))
    text = _nested(c, "text_config", kinds.get(kind, f"{kind}_text"))
    tied = c.flag("tie_word_embeddings", default=text.tie_word_embeddings)
    return dataclasses.replace(text, name=c.name, tie_word_embeddings=tied)
