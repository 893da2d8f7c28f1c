"""Marked YAML: same values as the YAML library, with places, and without its traps."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from simulator.errors import ConfigError
from simulator.yaml_marks import load_yaml

TEXT = """\
name: test # a comment
sizes: [1, 2.5, 1e24]
nested:
  deep: {a: 400 Gb/s, b: null}
"""

words = st.text("abcdefghij klmopqrstuvwxyz", min_size=1, max_size=8).map(str.strip).filter(bool)
scalars = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | words
trees = st.recursive(scalars, lambda c: st.lists(c, max_size=4) | st.dictionaries(words, c, max_size=4), max_leaves=20)


@given(st.dictionaries(words, trees, min_size=1, max_size=4), st.sampled_from([None, True, False]))
def test_same_values_as_the_yaml_library(tree: dict[str, object], flow: bool | None) -> None:
    text = yaml.safe_dump(tree, default_flow_style=flow)
    assert load_yaml(text).to_plain() == yaml.safe_load(text) == tree


def test_positions_point_at_values_and_at_keys_of_collections() -> None:
    doc = load_yaml(TEXT, "t.yaml")
    assert doc.position(("name",)) == (1, 7)
    assert doc.position(("sizes",)) == (2, 1)
    assert doc.position(("sizes", 2)) == (2, 17)
    assert doc.position(("nested", "deep", "a")) == (4, 13)
    assert doc.key_position("nested") == (3, 1)
    node = doc.get(("nested", "deep", "a"))
    assert node is not None
    assert (node.file, node.line, node.column, node.text) == ("t.yaml", 4, 13, "400 Gb/s")


def test_position_of_a_missing_path_is_its_nearest_parent() -> None:
    doc = load_yaml(TEXT)
    assert doc.position(("nested", "deep", "zzz", 3)) == doc.position(("nested", "deep"))
    assert doc.position(("sizes", 9)) == doc.position(("sizes",))
    assert doc.position(("zzz",)) == (1, 1)
    assert doc.get(("nested", "zzz", "a")) is None


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e24", 1e24), ("1e-3", 1e-3), (".5", 0.5), ("1_000", 1000), ("0x10", 16), ("-7", -7), ('"7"', "7"),
        ("1:30", "1:30"), ("2026-05-01", "2026-05-01"), ("on", True), ("no", False), ("~", None),
        ("1e24 FLOP", "1e24 FLOP"), ("400 Gb/s", "400 Gb/s"), ("-.inf", -float("inf")),
    ],
)  # fmt: skip
def test_scalars(written: str, value: object) -> None:
    got = load_yaml(f"x: {written}").to_plain()["x"]
    assert got == value
    assert type(got) is type(value)


def test_keys_stay_text() -> None:
    assert load_yaml("{on: 1, 8: 2, null: 3}").to_plain() == {"on": 1, "8": 2, "null": 3}


def test_every_duplicate_key_is_reported_with_its_place() -> None:
    with pytest.raises(ConfigError) as caught:
        load_yaml("a: 1\nb: {c: 1, c: 2}\na: 3\n", "dup.yaml")
    assert [(i.file, i.line, i.column) for i in caught.value.issues] == [("dup.yaml", 2, 11), ("dup.yaml", 3, 1)]
    assert "'a' occurs twice (first in line 1)" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [("a: 1\nb: [1, 2\n", 3), ("a: 1\n\tb: 2\n", 2), ("a: b: c\n", 1), ("a: *x\n", 1), ("--- 1\n--- 2\n", 2)],
)
def test_syntax_errors_have_a_line(text: str, line: int) -> None:
    with pytest.raises(ConfigError) as caught:
        load_yaml(text, "bad.yaml")
    assert caught.value.issues[0].line == line
    assert "not valid YAML" in str(caught.value)


@pytest.mark.parametrize("text", ["", "# only a comment\n", "\x00", "&a [*a]", "{[1]: 2}", "<<: 3"])
def test_other_unusable_documents(text: str) -> None:
    with pytest.raises(ConfigError):
        load_yaml(text, "odd.yaml")


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_yaml(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_yaml(tmp_path / "latin.yaml")


def test_anchors_and_merge_keys_keep_the_place_of_the_original() -> None:
    doc = load_yaml("base: &b {x: 1, y: 2}\nuse: {<<: *b, y: 3}\nsame: *b\n")
    assert doc.to_plain()["use"] == {"x": 1, "y": 3}
    assert doc.position(("use", "x")) == (1, 14)
    assert doc.position(("use", "y")) == (2, 18)
    assert doc.to_plain()["same"] == {"x": 1, "y": 2}
