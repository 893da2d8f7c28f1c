"""Intervals: the closed form of a linear function."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest

from simulator.constants import Constant, ConstantSet, Trust
from simulator.cost.sensitivity import Z80, by_trust, interval

CONSTANTS = ConstantSet(
    {k: Constant(k, v, "", s, Trust.FITTED, "test") for k, v, s in (("a", 3.0, 0.1), ("b", 5.0, 0.2), ("c", 7.0, 0.0))}
)


def linear(scale: Mapping[str, float]) -> float:
    values = CONSTANTS.moved(scale)
    return 2 * values["a"] + values["b"] + values["c"]


def test_errors_of_a_linear_function_add_in_quadrature() -> None:
    found = interval(linear, CONSTANTS, ["a", "b", "c", "a"])
    spread = Z80 * math.hypot(0.1 * 6, 0.2 * 5)
    assert found.low == pytest.approx(18 - spread)
    assert found.high == pytest.approx(18 + spread)
    assert found.sensitivity == pytest.approx({"a": 0.6 / 18, "b": 1 / 18})


def test_p10_and_p90_of_the_normal_distribution() -> None:
    assert 0.5 * (1 + math.erf(Z80 / math.sqrt(2))) == pytest.approx(0.9)


def test_only_used_constants_count_and_nothing_falls_below_zero() -> None:
    wild = ConstantSet({"a": Constant("a", 1.0, "", 5.0, Trust.ASSUMED, "test")})
    assert interval(lambda scale: wild.moved(scale)["a"], wild, ["a"]).low == 0.0
    assert interval(linear, CONSTANTS, []).sensitivity == {}
    assert interval(lambda _: 0.0, CONSTANTS, ["a"]).high == 0.0


def test_a_time_is_divided_by_what_moves_it() -> None:
    def constant(name: str, trust: Trust) -> Constant:
        return Constant(name, 1.0, "", 0.1, trust, "")

    known = [constant("rate", Trust.MEASURED), constant("launch", Trust.ASSUMED), constant("idle", Trust.DATASHEET)]

    def seconds(scale: Mapping[str, float]) -> float:
        return 9.0 / scale.get("rate", 1.0) + 1.0 * scale.get("launch", 1.0)

    parts = by_trust(seconds, known)
    assert sum(parts.values()) == pytest.approx(10.0)
    assert parts == pytest.approx({Trust.MEASURED: 9.0, Trust.ASSUMED: 1.0}, rel=1e-3)
    assert by_trust(seconds, known[:1]) == {Trust.MEASURED: 10.0}
    assert by_trust(lambda _: 4.0, known[:2]) == {Trust.MEASURED: 2.0, Trust.ASSUMED: 2.0}
    assert by_trust(seconds, []) == {Trust.MEASURED: 10.0}
