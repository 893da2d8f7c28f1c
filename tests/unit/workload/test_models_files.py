"""Finding model files and the places of their errors."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from simulator.errors import ConfigError
from simulator.workload.counting import parameters
from simulator.workload.model_files import load_model, model_aliases, model_names


def test_every_file_is_named_as_its_model() -> None:
    for name in model_names():
        model = load_model(name)
        assert model.name == name
        assert model.sources
        assert model.published_parameters > 0


def test_aliases_are_unique_and_no_file_names() -> None:
    aliases = model_aliases()
    assert not set(aliases) & set(model_names())
    assert load_model("deepseek-r1") == load_model("deepseek-v3")
    assert load_model("llama2-7b").name == "llama-2-7b"


def test_config_json_loads_as_file_and_as_folder(tmp_path: Path) -> None:
    folder = tmp_path / "my-llama"
    folder.mkdir()
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "rope_theta": 1e4, "torch_dtype": "float16"}
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    from_folder, from_file = load_model(folder), load_model(folder / "config.json")
    assert from_folder == from_file
    assert from_folder.name == "my-llama"
    assert parameters(from_folder) == 6_738_415_616


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text("config: {model_type: llama, num_hidden_layers: 2}\n")
    assert load_model(path).num_hidden_layers == 2
    assert load_model(path) is load_model(path)
    path.write_text("config: {model_type: llama, num_hidden_layers: 3}\n")
    os.utime(path, ns=(1, 1))
    assert load_model(path).num_hidden_layers == 3


def test_unknown_names_get_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown model 'llama-3\.1-70', did you mean 'llama-3\.1-70b'"):
        load_model("llama-3.1-70")
    with pytest.raises(ConfigError, match="there is no model file"):
        load_model(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r"holds no config\.json"):
        load_model(tmp_path)


def test_errors_have_file_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("name: broken\nconfig:\n  model_type: llama\n  hiden_size: 4096\n  vocab_size: many\n")
    with pytest.raises(ConfigError) as caught:
        load_model(path)
    places = {(issue.line, issue.column, issue.path) for issue in caught.value.issues}
    assert places == {(4, 3, "config.hiden_size"), (5, 3, "config.vocab_size")}
    assert all(issue.file == str(path) for issue in caught.value.issues)


def test_the_file_itself_is_checked_at_once(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(
        "name: 7\nconfg: 1\nconfig: {model_type: llama}\npublished: {parameters: many, total: 1}\nsources: none\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_model(path)
    messages = {issue.path: (issue.line, issue.message) for issue in caught.value.issues}
    assert set(messages) == {
        "name",
        "confg",
        "published.parameters",
        "published.total",
        "published.source",
        "sources",
    }
    assert messages["confg"] == (2, "unknown key 'confg', did you mean 'config'?")
