"""Alternatives: from text and from ``what_if`` to points."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.errors import ConfigError
from simulator.scenario.axes import Axes, alternatives, changes_of, parse_axes, point_texts


@given(st.integers(-50, 50), st.integers(0, 60), st.integers(1, 9))
def test_a_range_is_that_of_python_with_its_end(first: int, length: int, step: int) -> None:
    assert alternatives(f"{first}:{first + length}:{step}") == list(range(first, first + length + 1, step))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1:16:x2", [1, 2, 4, 8, 16]),
        ("1:3,8", [1, 2, 3, 8]),
        ("bf16,fp8", ["bf16", "fp8"]),
        ("true,no,null", [True, False, None]),
        ("20 /s,40 /s", ["20 /s", "40 /s"]),
        ("[1, 2],[3]", [[1, 2], [3]]),
        ("{law: lognormal, median: 5},100", [{"law": "lognormal", "median": 5}, 100]),
        ("'a,b',c", ["a,b", "c"]),
        ("'8',8", ["8", 8]),
    ],
)
def test_alternatives(text: str, values: list[object]) -> None:
    assert alternatives(text) == values


@pytest.mark.parametrize("text", ["4:1", "1:8:0", "0:8:x2", "1:8:x1"])
def test_an_empty_or_endless_range_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="empty range"):
        alternatives(text)


def test_one_value_is_a_change_and_several_are_an_axis() -> None:
    fixed, axes = changes_of(["seed=3", "a.b=1,2"])
    assert (fixed, axes) == (["seed=3"], {"a.b": [1, 2]})
    with pytest.raises(ConfigError) as wrong:
        changes_of(["seed", "a=4:1", "b=1,2"])
    assert len(wrong.value.issues) == 2


@given(st.dictionaries(st.sampled_from("abcd"), st.lists(st.integers(), min_size=1, max_size=4, unique=True)))
def test_a_grid_is_the_product_of_its_lists_last_fastest(grid: dict[str, list[int]]) -> None:
    wanted = [dict(zip(grid, row, strict=True)) for row in itertools.product(*grid.values())]
    assert parse_axes(grid, {}).points() == wanted
    assert parse_axes({}, grid).points() == wanted


def test_zipped_lists_move_together_and_lists_are_taken_as_they_are() -> None:
    axes = parse_axes({"x": [0, 1], "zip": {"a": [1, 2], "b": "5:6"}, "list": [{"c": 1}, {"c": 2, "d": 3}]}, {})
    points = axes.points()
    assert len(points) == 2 * 2 * 2
    assert {(p["a"], p["b"]) for p in points} == {(1, 5), (2, 6)}
    assert {(p["c"], p.get("d")) for p in points} == {(1, None), (2, 3)}
    assert axes.names == ["x", "a", "b", "c", "d"]
    with pytest.raises(ConfigError, match="one length: a has 2, b has 1"):
        parse_axes({"zip": {"a": [1, 2], "b": [1]}}, {})


def test_conditional_axes_grow_only_where_a_point_matches() -> None:
    axes = parse_axes({"gpu": ["h", "b"], "when": {"if": {"gpu": ["b"]}, "then": {"dtype": ["fp8", "fp4"]}}}, {})
    assert axes.points() == [{"gpu": "h"}, {"gpu": "b", "dtype": "fp8"}, {"gpu": "b", "dtype": "fp4"}]


def test_skipped_combinations_are_left_out() -> None:
    axes = parse_axes({"a": [1, 2, 3], "b": [1, 2], "skip": [{"a": [1, 2], "b": 2}, {"a": 3}]}, {})
    assert axes.points() == [{"a": 1, "b": 1}, {"a": 2, "b": 1}]
    with pytest.raises(ConfigError, match="'c' is not varied"):
        parse_axes({"a": [1, 2], "skip": {"c": 1}}, {})
    with pytest.raises(ConfigError, match="leaves no point"):
        parse_axes({"a": [1, 2], "skip": {"a": [1, 2]}}, {}).points()


def test_the_command_line_wins_over_the_section_however_the_path_is_spelled() -> None:
    section = {"workloads.0.plan.tensor_parallel": [1, 2], "seed": [1, 2]}
    assert parse_axes(section, {"workloads[0].plan.tp": [4, 8]}, ["seed=5"]).points() == [
        {"workloads[0].plan.tp": 4},
        {"workloads[0].plan.tp": 8},
    ]


def test_everything_wrong_in_a_section_is_said_at_once() -> None:
    with pytest.raises(ConfigError) as wrong:
        parse_axes({"a": 3, "b": "9:1", "zip": 4, "when": [{"if": 3}]}, {})
    assert sorted(i.path for i in wrong.value.issues) == ["what_if.a", "what_if.b", "what_if.when[0]", "what_if.zip"]


def test_no_axis_is_one_point() -> None:
    assert Axes().points() == [{}]


def test_points_are_written_as_changes_that_read_back() -> None:
    assert point_texts({"a.b": "8", "c": [1, {"d": None}]}) == ['a.b="8"', 'c=[1, {"d": null}]']
