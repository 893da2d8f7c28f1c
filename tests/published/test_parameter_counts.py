"""Every shipped model against the counts its authors, its checkpoint and the reference tables state."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from simulator.workload.counting import active_parameters, kv_bytes_per_token, parameters
from simulator.workload.model_files import load_model, model_names

TOLERANCE = 0.005

SIZE = re.compile(r"(?<![\da-z.])(\d+(?:\.\d+)?)([bm])(?:-|$)")
"""Billions or millions of parameters in a model's name."""


@pytest.mark.parametrize("name", model_names())
def test_parameters_as_published(name: str) -> None:
    model = load_model(name)
    assert parameters(model) == pytest.approx(model.published_parameters, rel=TOLERANCE)
    if model.published_active_parameters:
        assert active_parameters(model) == pytest.approx(model.published_active_parameters, rel=TOLERANCE)


@pytest.mark.parametrize("name", [n for n in model_names() if SIZE.search(n)])
def test_parameters_are_near_the_size_in_the_name(name: str) -> None:
    """A layer count or width read wrong shows here, whatever the file says it was published as."""
    found = SIZE.search(name)
    assert found is not None
    said = float(found[1]) * {"b": 1e9, "m": 1e6}[found[2]]
    rounded_down = name in ("falcon3-1b", "gemma-2-2b", "gemma-2b", "gemma-7b", "llama-3.2-1b", "mpt-1b")
    assert 0.88 < parameters(load_model(name)) / said < (1.7 if rounded_down else 1.12)


@pytest.mark.parametrize(("name", "billions"), [("gpt-oss-20b", 3.61), ("gpt-oss-120b", 5.13)])
def test_gpt_oss_active_parameters_of_the_model_card(name: str, billions: float) -> None:
    # arXiv 2508.10925, table 1: active parameters count the unembedding, not the embedding.
    model = load_model(name)
    counted = active_parameters(model) - model.vocab_size * model.hidden_size
    assert round(counted / 1e9, 2) == billions


@pytest.mark.parametrize(
    ("name", "total", "active"),
    [
        ("mixtral-8x7b", 47, 13),  # arXiv 2401.04088
        ("mixtral-8x22b", 141, 39),  # mistral.ai/news/mixtral-8x22b
        ("deepseek-v2", 236, 21),  # arXiv 2405.04434
        ("deepseek-v3", 671, 37),  # arXiv 2412.19437
        ("kimi-k2", 1026, 32),  # arXiv 2507.20534 (1.04 T with the tensors of its quantisation)
        ("jamba-v0.1", 52, 12),  # arXiv 2403.19887
    ],
)
def test_billions_of_the_papers(name: str, total: int, active: int) -> None:
    # Papers round, and count as active what multiplies a token: all but the input embedding.
    model = load_model(name)
    assert round(parameters(model) / 1e9) == total
    assert round((active_parameters(model) - model.vocab_size * model.hidden_size) / 1e9) == active


@pytest.fixture(scope="module")
def reference(shared: Path) -> dict[str, dict[str, object]]:
    """The ``models:`` table of the published serving measurements."""
    text = (shared / "reference" / "published_serving.yaml").read_text()
    table: dict[str, dict[str, object]] = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))[
        "models"
    ]
    return table


def test_shapes_of_the_serving_reference(reference: dict[str, dict[str, object]]) -> None:
    assert len(reference) >= 34
    for name, row in reference.items():
        model = load_model(name)
        layers = model.layer_list()
        attention = layers[0].attention
        assert attention is not None
        shape = {
            "layers": len(layers),
            "hidden": model.hidden_size,
            "heads": attention.num_attention_heads,
            "vocab": model.vocab_size,
            "kv_bytes_per_token_bf16": kv_bytes_per_token(model, 2),
        }
        assert shape == {key: row[key] for key in shape}, name


def test_counts_of_the_serving_reference(reference: dict[str, dict[str, object]]) -> None:
    for name, row in reference.items():
        model = load_model(name)
        # The reference counts text models; two of its sizes leave out position tables (0.02 %).
        towers = sum(parameters(tower) for tower in model.towers) + model.projector_parameters
        assert (parameters(model) - towers) / 1e9 == pytest.approx(row["params_b"], rel=TOLERANCE), name
        assert (active_parameters(model) - towers) / 1e9 == pytest.approx(row["active_b"], rel=TOLERANCE), name


def test_experts_of_the_serving_reference(
    reference: dict[str, dict[str, object]],
) -> None:
    experts = {name: row["experts"] for name, row in reference.items() if "experts" in row}
    for name, count in experts.items():
        sparse = [layer.mlp for layer in load_model(name).layer_list() if layer.mlp is not None and layer.mlp.is_moe]
        assert len(sparse) == reference[name]["moe_layers"]
        assert {mlp.num_experts for mlp in sparse} == {count}
        assert {mlp.num_experts_per_tok for mlp in sparse} == {reference[name]["top_k"]}
