"""Who takes care of positions, by what each family's own code does, and the Ops that follow from it."""

from __future__ import annotations

import pytest

from simulator.scenario.deploy.models import sizes
from simulator.workload.framework_files import load_framework
from simulator.workload.hf_config import from_hf_config
from simulator.workload.lowering import LoweringContext, lower_layer
from simulator.workload.model import LayerSpec, ModelSpec
from simulator.workload.model_files import load_model

GRANITE: dict[str, object] = {"model_type": "granitemoehybrid", "layer_types": ["attention"] * 32}


def rotates(model: ModelSpec, layer: LayerSpec) -> bool:
    """Whether the lowered block has a kernel that rotates."""
    ctx = LoweringContext(model, 1, 128, True, load_framework("megatron-core-0.8"))
    return any(op.name.endswith(".rotary") for op in lower_layer(layer, ctx).ops)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("gpt3-175b", "learned_absolute"),
        ("opt-66b", "learned_absolute"),
        ("bert-large", "learned_absolute"),
        ("vit-l16", "learned_absolute"),
        ("bloom-176b", "alibi"),
        ("mpt-7b", "alibi"),
        ("t5-11b", "relative"),
        ("llama-3.1-8b", "rope"),
        ("gpt-neox-20b", "rope"),
        ("falcon-40b", "rope"),
        ("deepseek-v3", "rope"),
        ("jamba-v0.1", "none"),
        ("nemotron-h-8b", "none"),
        ("mamba-2.8b", "none"),
    ],
)
def test_only_rotary_positions_cost_a_kernel(name: str, kind: str) -> None:
    model = load_model(name)
    assert model.position_embedding_type == kind
    attention = [layer for layer, _ in model.layers if layer.attention and layer.attention.kind != "linear"]
    assert {rotates(model, layer) for layer in attention} <= {kind == "rope"}


def test_llama_4_rotates_three_layers_of_four() -> None:
    """``no_rope_layers`` of the checkpoint: every fourth layer sees all tokens and no positions."""
    model = load_model("llama4-scout")
    assert [rotates(model, layer) for layer in model.layer_list()] == [True, True, True, False] * 12


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"model_type": "falcon", "alibi": True}, "alibi"),
        ({"model_type": "mpt", "attn_config": {"alibi": False}}, "learned_absolute"),
        (GRANITE, "none"),
        ({**GRANITE, "position_embedding_type": "rope"}, "rope"),
    ],
)
def test_keys_of_configurations_that_choose(config: dict[str, object], kind: str) -> None:
    assert from_hf_config(config, "chosen").position_embedding_type == kind


def test_megatron_has_no_flag_for_alibi() -> None:
    """``--position-embedding-type`` of Megatron-LM takes learned_absolute, rope, mrope, relative or none."""
    flags = sizes(load_model("gpt3-175b"))
    assert flags is not None and flags["--position-embedding-type"] == "learned_absolute"
    assert sizes(load_model("bloom-176b")) is None
