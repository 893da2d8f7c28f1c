"""Reading config.json, against the transformers library: an independent implementation of every family."""

from __future__ import annotations

import pytest

from simulator.errors import ConfigError
from simulator.workload.counting import kv_bytes_per_token, parameters
from simulator.workload.hf_config import from_hf_config, known_families
from simulator.workload.model_files import load_model

# Number of elements of the distinct parameters of transformers 4.57.1 models built on torch's meta device from the
# default config of the family (AutoConfig.for_model, AutoModelForCausalLM; for encoders the class with the
# masked-language-model head, for multimodal ones ...ForConditionalGeneration), with ties applied.
TRANSFORMERS_DEFAULTS = {
    "bamba": 9_992_765_440,
    "bert": 109_514_298,
    "bloom": 16_156_544,
    "clip": 151_277_313,
    "clip_text_model": 63_165_952,
    "clip_vision_model": 87_456_000,
    "falcon": 6_921_720_704,
    "gemma": 8_537_680_896,
    "gemma2": 2_614_341_888,
    "gemma3": 2_723_312_896,
    "gemma3_text": 2_628_658_432,
    "gpt2": 124_439_808,
    "gpt_neox": 20_554_567_680,
    "gpt_oss": 116_829_156_672,
    "gptj": 6_050_882_784,
    "jamba": 51_570_323_328,
    "llama": 6_738_415_616,
    "llama4": 108_225_039_360,
    "llama4_text": 107_769_861_120,
    "llava": 7_062_902_784,
    "llava_next": 7_062_906_880,
    "mamba": 159_308_544,
    "mamba2": 7_285_403_648,
    "minimax": 47_373_946_880,
    "mistral": 7_241_732_096,
    "mixtral": 46_702_792_704,
    "mpt": 1_311_213_568,
    "opt": 125_239_296,
    "phi3": 3_821_079_552,
    "qwen2": 12_049_846_272,
    "qwen2_moe": 14_315_784_192,
    "qwen3": 12_049_461_248,
    "qwen3_moe": 15_350_731_776,
    "qwen3_next": 79_674_391_296,
    "roberta": 124_696_665,
    "siglip_vision_model": 92_884_224,
    "t5": 60_506_624,
    "vit": 85_800_194,
}

# The same of families that are newer than that, or were left out: transformers 5.23.0.
TRANSFORMERS_DEFAULTS |= {
    "cohere": 34_980_831_232,
    "olmo2": 6_888_624_128,
    "qwen3_5_moe_text": 34_660_610_688,
    "qwen3_5_text": 8_953_803_264,
}

# The same with the named keys changed: biases, ties, layer patterns, projections.
HYBRID = (["mamba"] * 5 + ["attention"]) * 5
TRANSFORMERS_VARIANTS: list[tuple[str, dict[str, object], int]] = [
    ("granitemoehybrid", {"layer_types": HYBRID, "num_hidden_layers": 30}, 36_023_742_336),
    ("granitemoehybrid", {"layer_types": HYBRID, "num_hidden_layers": 30, "num_local_experts": 0}, 3_558_846_336),
    ("minimax", {"head_dim": 128}, 47_373_946_880),
    (
        "falcon",
        {
            "new_decoder_architecture": True,
            "hidden_size": 4096,
            "num_attention_heads": 64,
            "num_kv_heads": 8,
            "bias": True,
        },
        5_770_747_904,
    ),
    ("falcon", {"parallel_attn": False, "multi_query": False}, 8_224_867_200),
    (
        "opt",
        {"word_embed_proj_dim": 512, "do_layer_norm_before": False, "hidden_size": 1024, "num_attention_heads": 16},
        154_863_616,
    ),
    ("t5", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "num_decoder_layers": 3}, 73_805_824),
    (
        "llama",
        {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "num_key_value_heads": 8},
        5_803_200_512,
    ),
    ("mamba", {"use_bias": True, "use_conv_bias": False}, 159_382_272),
    ("mamba2", {"use_bias": True, "n_groups": 2}, 6_883_610_624),
    ("jamba", {"mamba_proj_bias": True}, 51_570_896_768),
    ("gpt_neox", {"attention_bias": False, "use_parallel_residual": False}, 20_553_486_336),
    ("qwen3_moe", {"decoder_sparse_step": 2, "mlp_only_layers": [3, 5]}, 7_419_827_200),
    ("deepseek_v2", {"num_experts_per_tok": 6}, 38_035_591_168),
    ("cohere", {"use_qk_norm": True}, 34_981_486_592),
    ("cohere", {"num_key_value_heads": 8, "attention_bias": True}, 30_283_948_032),
    ("deepseek_v2", {"q_lora_rank": None, "num_experts_per_tok": 4, "first_k_dense_replace": 2}, 36_325_363_712),
]


@pytest.mark.parametrize("model_type", sorted(TRANSFORMERS_DEFAULTS))
def test_absent_keys_take_the_defaults_of_transformers(model_type: str) -> None:
    assert parameters(from_hf_config({"model_type": model_type}, model_type)) == TRANSFORMERS_DEFAULTS[model_type]


@pytest.mark.parametrize(("model_type", "keys", "count"), TRANSFORMERS_VARIANTS)
def test_keys_change_the_model_as_they_do_in_transformers(model_type: str, keys: dict[str, object], count: int) -> None:
    assert parameters(from_hf_config({"model_type": model_type, **keys}, model_type)) == count


def test_router_correction_bias_is_a_parameter_of_the_checkpoint() -> None:
    # transformers keeps e_score_correction_bias as a buffer (671,026,404,352); the checkpoint stores 58 x 256 of them.
    assert parameters(from_hf_config({"model_type": "deepseek_v3"}, "v3")) == 671_026_404_352 + 58 * 256
    glm = {"model_type": "glm4_moe", "head_dim": 128, "attention_bias": True, "use_qk_norm": True}
    assert parameters(from_hf_config(glm, "glm")) == 106_852_257_280 + 45 * 128
    assert parameters(from_hf_config({"model_type": "minimax_m2"}, "m2")) == 228_689_748_992 + 62 * 256
    assert parameters(load_model("nemotron-3-nano-30b-a3b")) == 31_577_937_344 + 23 * 128


def test_layers_of_glm_share_the_choice_of_an_indexer() -> None:
    """transformers 5.23.0; a layer that takes the choice of another keeps no index and adds nothing per token."""
    shared = ["full"] * 3 + ["shared"] * 75
    whole, few = (from_hf_config({"model_type": "glm_moe_dsa", "indexer_types": t}, "g") for t in (None, shared))
    assert parameters(whole) == 743_911_199_232 + 75 * 256
    assert parameters(few) == 743_208_306_432 + 75 * 256
    assert parameters(load_model("glm-5.2")) == 743_377_000_704 + 75 * 256
    assert kv_bytes_per_token(whole) - kv_bytes_per_token(few) == 75 * (128 + 4)  # fp8 keys with a scale each


def test_null_keys_are_as_absent_and_null_windows_are_none() -> None:
    windowed = from_hf_config({"model_type": "mistral", "head_dim": None}, "m")
    assert windowed.layers[0][0].attention.sliding_window == 4096  # type: ignore[union-attr]
    full = from_hf_config({"model_type": "mistral", "sliding_window": None}, "m")
    assert full.layers[0][0].attention.kind == "full"  # type: ignore[union-attr]


def test_layers_that_alternate_keep_their_order() -> None:
    model = from_hf_config({"model_type": "gemma3_text", "num_hidden_layers": 13}, "g")
    assert [a.kind for layer in model.layer_list() if (a := layer.attention)] == (["sliding"] * 5 + ["full"]) * 2 + [
        "sliding"
    ]
    assert model.num_hidden_layers == 13
    assert len(model.layers) == 5


def test_defaults_that_were_used_are_told() -> None:
    model = from_hf_config({"model_type": "llama", "hidden_size": 2048}, "m")
    told = dict(model.extra)["defaults"]
    assert "vocab_size=32000" in told  # type: ignore[operator]
    assert not any(entry.startswith("hidden_size") for entry in told)  # type: ignore[attr-defined]


def test_unknown_family_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown model_type 'lama', did you mean 'llama'") as caught:
        from_hf_config({"model_type": "lama"}, "x", "config.json")
    assert all(name in str(caught.value) for name in known_families())
    assert caught.value.issues[0].file == "config.json"
    with pytest.raises(ConfigError, match="there is no model_type"):
        from_hf_config({"hidden_size": 8}, "x")


def test_all_issues_come_at_once() -> None:
    config = {
        "model_type": "llama",
        "hiden_size": 8192,
        "num_hidden_layers": "80",
        "num_attention_heads": 63,
        "num_key_value_heads": 8,
        "vocab_size": -1,
        "tie_word_embeddings": "yes",
    }
    with pytest.raises(ConfigError) as caught:
        from_hf_config(config, "x")
    found = {issue.path: issue.message for issue in caught.value.issues}
    assert "did you mean 'hidden_size'" in found["hiden_size"]
    assert "whole number" in found["num_hidden_layers"]
    assert "do not divide 63" in found["num_key_value_heads"]
    assert "at least 1" in found["vocab_size"]
    assert "neither true nor false" in found["tie_word_embeddings"]
    assert "does not divide by 63 heads" in found["head_dim"]


def test_issues_of_nested_configs_have_their_path() -> None:
    config = {"model_type": "llava", "text_config": {"model_type": "llama", "hidden_size": 0}, "vision_config": 3}
    with pytest.raises(ConfigError) as caught:
        from_hf_config(config, "x")
    assert {issue.path for issue in caught.value.issues} == {"text_config.hidden_size", "vision_config"}


def test_a_tower_must_take_images() -> None:
    config = {"model_type": "gemma3", "vision_config": {"model_type": "bert"}}
    with pytest.raises(ConfigError, match="vision_config: model_type 'bert' takes no image"):
        from_hf_config(config, "x")


def test_both_spellings_of_minimax_agree() -> None:
    layers = {"num_hidden_layers": 8, "head_dim": 128}
    listed = from_hf_config({"model_type": "minimax_text_01", **layers, "attn_type_list": [0] * 7 + [1]}, "m")
    named = from_hf_config(
        {"model_type": "minimax", **layers, "layer_types": ["linear_attention"] * 7 + ["full_attention"]}, "m"
    )
    assert listed.layers == named.layers
    assert [count for _, count in listed.layers] == [7, 1]


def test_layer_types_must_cover_the_layers() -> None:
    with pytest.raises(ConfigError, match="has 2 entries for 26 layers"):
        from_hf_config({"model_type": "gemma2", "layer_types": ["full_attention"] * 2}, "x")
    with pytest.raises(ConfigError, match="unknown layer type wide"):
        from_hf_config({"model_type": "gemma2", "num_hidden_layers": 1, "layer_types": ["wide"]}, "x")
