"""Encoders, encoder-decoders, vision towers and diffusion transformers."""

from __future__ import annotations

from collections.abc import Mapping

from simulator.workload.hf_reader import ConfigReader, family
from simulator.workload.model import AttentionSpec, LayerSpec, MlpSpec, ModelSpec, PatchSpec

__all__ = ["encoder_layer", "patches"]


def encoder_layer(
    hidden: int, heads: int, intermediate: int, *, causal: bool = False, bias: bool = True, rotary: bool = False
) -> LayerSpec:
    """A transformer block with LayerNorm and biases; bidirectional unless ``causal``, learned positions alone unless
    ``rotary``."""
    head_dim = hidden // heads
    attention = AttentionSpec(
        "full", heads, heads, head_dim, head_dim, causal=causal, qkv_bias=bias, output_bias=True,
        position_embedding_type="rope" if rotary else "none",
    )  # fmt: skip
    return LayerSpec(attention, MlpSpec(intermediate, gated=False, bias=True), norm="layer")


def patches(c: ConfigReader, *, image_size: int, patch_size: int, bias: bool, class_tokens: int) -> PatchSpec:
    """The patch embedding of a square image; the tokens it makes include the class token."""
    image = c.integer("image_size", default=image_size)
    patch = c.integer("patch_size", default=patch_size)
    if image < patch:
        c.add(f"an image of {image} has no patch of {patch}", "image_size")
    channels = c.integer("num_channels", default=3)
    return PatchSpec(patch * patch * channels, (image // patch) ** 2 + class_tokens, bias, class_tokens)


def _num_labels(c: ConfigReader) -> int:
    labels = c.config.get("id2label")
    if isinstance(labels, Mapping):
        return len(labels)
    return c.integer("num_labels", default=2)


def _bert(c: ConfigReader, name: str, *, vocab: int, type_vocab: int) -> ModelSpec:
    hidden = c.integer("hidden_size", default=768)
    heads = c.integer("num_attention_heads", default=12)
    c.head_dim(hidden, heads)
    positions = c.integer("max_position_embeddings", default=512)
    layer = encoder_layer(hidden, heads, c.integer("intermediate_size", default=3072))
    architecture = str((c.items("architectures") or ["ForMaskedLM"])[0])
    masked_lm = architecture.endswith(("ForMaskedLM", "ForPreTraining"))
    classes = _num_labels(c) if architecture.endswith("ForSequenceClassification") else 0
    pooled = not architecture.endswith("ForMaskedLM")
    pair_classes = 2 * hidden + 2 if architecture.endswith("ForPreTraining") else 0
    return ModelSpec(
        c.name,
        name,
        hidden,
        ((layer, c.integer("num_hidden_layers", default=12)),),
        vocab_size=c.integer("vocab_size", default=vocab),
        max_position_embeddings=positions,
        learned_positions=positions,
        token_types=c.integer("type_vocab_size", default=type_vocab, minimum=0),
        embedding_norm=True,
        tie_word_embeddings=c.flag("tie_word_embeddings", default=True),
        final_norm=False,
        head="lm" if masked_lm else "classes" if classes else "none",
        head_bias=masked_lm or bool(classes),
        head_hidden_layers=int(masked_lm),
        num_labels=classes,
        is_decoder=False,
        dropout=c.number("hidden_dropout_prob", default=0.1) > 0,
        extra_parameters=(hidden * hidden + hidden if pooled else 0) + pair_classes,
    )


@family("bert")
def bert(c: ConfigReader) -> ModelSpec:
    """BERT; ``architectures`` says which head it has (masked language model when absent)."""
    return _bert(c, "bert", vocab=30522, type_vocab=2)


@family("roberta", "xlm-roberta")
def roberta(c: ConfigReader) -> ModelSpec:
    """RoBERTa: as BERT with another vocabulary; two rows of its position table are not positions."""
    return _bert(c, "roberta", vocab=50265, type_vocab=2)


@family("vit")
def vit(c: ConfigReader) -> ModelSpec:
    """ViT; classifies unless ``architectures`` says ``ViTModel`` (then with a pooler)."""
    hidden = c.integer("hidden_size", default=768)
    heads = c.integer("num_attention_heads", default=12)
    c.head_dim(hidden, heads)
    patch = patches(c, image_size=224, patch_size=16, bias=True, class_tokens=1)
    bias = c.flag("qkv_bias", default=True)
    layer = encoder_layer(hidden, heads, c.integer("intermediate_size", default=3072), bias=bias)
    bare = str((c.items("architectures") or ["ViTForImageClassification"])[0]) == "ViTModel"
    return ModelSpec(
        c.name,
        "vit",
        hidden,
        ((layer, c.integer("num_hidden_layers", default=12)),),
        vocab_size=0,
        max_position_embeddings=patch.tokens,
        learned_positions=patch.tokens,
        head="none" if bare else "classes",
        head_bias=not bare,
        num_labels=0 if bare else _num_labels(c),
        is_decoder=False,
        dropout=c.number("hidden_dropout_prob", default=0.0) > 0,
        patch=patch,
        extra_parameters=hidden * hidden + hidden if bare else 0,
    )


@family("clip_vision_model")
def clip_vision(c: ConfigReader) -> ModelSpec:
    """The vision tower of CLIP: norms before and after, no bias on the patches."""
    hidden = c.integer("hidden_size", default=768)
    heads = c.integer("num_attention_heads", default=12)
    c.head_dim(hidden, heads)
    patch = patches(c, image_size=224, patch_size=32, bias=False, class_tokens=1)
    layer = encoder_layer(hidden, heads, c.integer("intermediate_size", default=3072))
    return ModelSpec(
        c.name,
        "clip_vision_model",
        hidden,
        ((layer, c.integer("num_hidden_layers", default=12)),),
        vocab_size=0,
        max_position_embeddings=patch.tokens,
        learned_positions=patch.tokens,
        embedding_norm=True,
        head="none",
        is_decoder=False,
        patch=patch,
    )


@family("siglip_vision_model")
def siglip_vision(c: ConfigReader) -> ModelSpec:
    """The vision tower of SigLIP; ``vision_use_head`` adds its attention pooling."""
    hidden = c.integer("hidden_size", default=768)
    heads = c.integer("num_attention_heads", default=12)
    c.head_dim(hidden, heads)
    width = c.integer("intermediate_size", default=3072)
    patch = patches(c, image_size=224, patch_size=16, bias=True, class_tokens=0)
    # A probe, one attention of four h x h matrices with biases, a norm and a feed-forward.
    pooling = hidden + 4 * hidden * (hidden + 1) + 2 * hidden + 2 * hidden * width + width + hidden
    return ModelSpec(
        c.name,
        "siglip_vision_model",
        hidden,
        ((encoder_layer(hidden, heads, width), c.integer("num_hidden_layers", default=12)),),
        vocab_size=0,
        max_position_embeddings=patch.tokens,
        learned_positions=patch.tokens,
        head="none",
        is_decoder=False,
        patch=patch,
        extra_parameters=pooling if c.flag("vision_use_head", default=True) else 0,
    )


def _t5_attention(heads: int, head_dim: int, *, causal: bool) -> AttentionSpec:
    return AttentionSpec("full", heads, heads, head_dim, head_dim, causal=causal, position_embedding_type="relative")


@family("t5")
def t5(c: ConfigReader) -> ModelSpec:
    """T5, T5 v1.1 and Flan-T5: shared embedding, relative position buckets in the first layer of each stack."""
    hidden = c.integer("d_model", "hidden_size", default=512)
    heads = c.integer("num_heads", "num_attention_heads", default=8)
    head_dim = c.integer("d_kv", "head_dim", default=64)
    layers = c.integer("num_layers", "num_hidden_layers", default=6)
    gated = c.text("feed_forward_proj", default="relu").startswith("gated-")
    mlp = MlpSpec(c.integer("d_ff", default=2048), gated=gated)
    dropout = c.number("dropout_rate", default=0.1) > 0
    buckets = c.integer("relative_attention_num_buckets", default=32) * heads
    positions = c.integer("n_positions", default=512)
    both = _t5_attention(heads, head_dim, causal=False)
    encoder = ModelSpec(
        f"{c.name}/encoder",
        "t5",
        hidden,
        ((LayerSpec(both, mlp), layers),),
        vocab_size=0,
        max_position_embeddings=positions,
        head="none",
        is_decoder=False,
        dropout=dropout,
        extra_parameters=buckets,
    )
    block = LayerSpec(_t5_attention(heads, head_dim, causal=True), mlp, cross_attention=both, norms=3)
    return ModelSpec(
        c.name,
        "t5",
        hidden,
        ((block, c.integer("num_decoder_layers", default=layers)),),
        vocab_size=c.integer("vocab_size", default=32128),
        max_position_embeddings=positions,
        tie_word_embeddings=c.flag("tie_word_embeddings", default=True),
        dropout=dropout,
        encoder=encoder,
        extra_parameters=buckets,
    )


@family("DiTTransformer2DModel", "dit_transformer_2d")
def dit(c: ConfigReader) -> ModelSpec:
    """DiT with adaLN-Zero, in the field names of diffusers.

    One timestep and label embedder is counted for the whole model, as in the paper (arXiv 2212.09748) and its code;
    diffusers stores a copy of it in every block. The fixed sine positions are no parameters.
    """
    heads = c.integer("num_attention_heads", default=16)
    head_dim = c.integer("attention_head_dim", default=72)
    hidden = heads * head_dim
    channels = c.integer("in_channels", default=4)
    patch = c.integer("patch_size", default=2)
    sample = c.integer("sample_size", default=32)
    classes = c.integer("num_embeds_ada_norm", default=1000)
    frequencies = 256
    layer = LayerSpec(
        AttentionSpec(
            "full",
            heads,
            heads,
            head_dim,
            head_dim,
            causal=False,
            qkv_bias=c.flag("attention_bias", default=True),
            output_bias=True,
            position_embedding_type="none",
        ),
        MlpSpec(4 * hidden, gated=False, bias=True),
        norm="none_affine",
        adaptive_norm=6 * hidden * hidden + 6 * hidden,
    )
    timestep = frequencies * hidden + hidden + hidden * hidden + hidden
    labels = (classes + 1) * hidden  # one more for classifier-free guidance
    final_modulation = 2 * hidden * hidden + 2 * hidden
    tokens = (sample // patch) ** 2
    return ModelSpec(
        c.name,
        "dit",
        hidden,
        ((layer, c.integer("num_layers", default=28)),),
        vocab_size=0,
        max_position_embeddings=tokens,
        head="classes",
        head_bias=True,
        num_labels=patch * patch * c.integer("out_channels", default=channels),
        is_decoder=False,
        dropout=c.number("dropout", default=0.0) > 0,
        patch=PatchSpec(patch * patch * channels, tokens),
        extra_parameters=timestep + labels + final_modulation,
    )
