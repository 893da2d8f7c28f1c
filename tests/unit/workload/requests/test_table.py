"""RequestTable: validation with named rows, transforms that are recorded, statistics."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from simulator.errors import ConfigError
from simulator.workload.requests import PrefixBlocks, RequestTable, RequestTableError, TraceProvenance


def table(arrival: list[float], inputs: list[int] | None = None, **more: Any) -> RequestTable:
    n = len(arrival)
    return RequestTable(
        arrival=np.array(arrival, dtype=np.float64),
        input_tokens=np.array(inputs or [10] * n),
        output_tokens=np.full(n, 5),
        name="test",
        provenance=TraceProvenance("test", "generated", n, n),
        **more,
    )


@pytest.mark.parametrize(
    ("arrival", "inputs", "more", "message"),
    [
        ([0, 2, 1, 3], None, {}, "time before that of the row above in 1 rows, first in row 2: 1.0"),
        ([-1, 2], None, {}, "negative time in 1 rows"),
        ([0, float("nan")], None, {}, "not a finite time in 1 rows"),
        ([0, 1], [5, 0], {}, "input_tokens: fewer than one token in 1 rows, first in row 1: 0"),
        ([0, 1], [5, 5, 5], {}, "input_tokens: 3 rows, but arrival has 2"),
        ([0, 1], [5, 2**31], {}, "values beyond 2147483647"),
        ([0, 1], None, {"parent": np.array([-1, 1])}, "parent: no earlier row in 1 rows, first in row 1"),
        ([0, 1], None, {"think_time": np.array([np.nan, -1])}, "think_time: negative time in 1 rows"),
        ([0, 1], None, {"closed_loop_concurrency": 0}, "at least one request in flight"),
    ],
)
def test_invalid_columns_are_named(
    arrival: list[float], inputs: list[int] | None, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestTableError, match=message):
        table(arrival, inputs, **more)


def test_all_problems_are_reported_together() -> None:
    with pytest.raises(RequestTableError) as error:
        table([3, 1], [0, 1])
    assert [i.path for i in error.value.issues] == ["arrival", "input_tokens"]


def test_columns_are_lean_and_the_table_is_frozen() -> None:
    t = table([0, 1, 2], session=[1, 1, 2], priority=[0, 1, 0])
    assert (t.arrival.dtype, t.input_tokens.dtype, t.output_tokens.dtype) == (np.float64, np.int32, np.int32)
    assert t.session is not None and t.session.dtype == np.int32
    assert t.priority is not None and t.priority.dtype == np.int16
    with pytest.raises(dataclasses.FrozenInstanceError):
        t.name = "other"  # type: ignore[misc]


def test_statistics_by_hand() -> None:
    found = table([0, 1, 4], [10, 20, 60]).statistics()
    assert found["count"] == 3
    assert found["duration_s"] == 4
    assert found["rate"] == 0.5  # two gaps in four seconds
    assert found["arrival_cv"] == pytest.approx(0.5)  # gaps 1 and 3
    assert (found["input_tokens_mean"], found["input_tokens_median"]) == (30, 20)
    assert found["input_tokens_p90"] == pytest.approx(52)  # linear between 20 at 50 % and 60 at 100 %


def test_transforms_are_recorded_and_nothing_is_lost() -> None:
    t = table([0, 1, 2, 3, 4]).with_rate(2.0)
    np.testing.assert_allclose(t.arrival, [0, 0.5, 1, 1.5, 2])
    cut = t.window(0.5, 1.75)
    np.testing.assert_allclose(cut.arrival, [0, 0.5, 1.0])
    two = cut.head(2)
    record = two.provenance
    assert len(two) == 2
    assert dict(record.dropped) == {"kept arrivals in [0.5, 1.75) s": 2, "kept the first 2 requests": 1}
    assert record.rows_read == 5
    assert len(record.transforms) == 3
    assert "scaled time by 0.5" in record.transforms[0]


def test_provenance_must_add_up() -> None:
    with pytest.raises(ValueError, match="do not add up"):
        TraceProvenance("x", "csv", 10, 8, {"bad": 1})


@pytest.mark.parametrize("rate", [0.0, -1.0, float("inf"), float("nan")])
def test_an_impossible_rate_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match="positive number"):
        table([0, 1]).with_rate(rate)


def test_a_table_without_span_has_no_rate() -> None:
    t = table([1.0])
    assert np.isnan(t.rate)
    with pytest.raises(ConfigError, match="span no time"):
        t.with_rate(1.0)


def test_closed_loop_has_no_arrival_times() -> None:
    t = table([0, 1, 2]).closed_loop(2)
    assert t.closed_loop_concurrency == 2
    assert t.arrival.tolist() == [0, 0, 0]
    assert t.head(2).closed_loop_concurrency == 2
    for refused in (lambda: t.with_rate(1.0), lambda: t.window(0, 1)):
        with pytest.raises(ConfigError, match="closed loop"):
            refused()


def test_prefix_blocks_follow_their_requests() -> None:
    blocks = PrefixBlocks.from_lists([[1, 2, 3], [], [1, 7], [9]], [[16, 16, 4], [], [16, 2], [5]])
    assert [blocks[i].tolist() for i in range(4)] == [[1, 2, 3], [], [1, 7], [9]]
    taken = blocks.take(np.array([2, 0]))
    assert [taken[i].tolist() for i in range(2)] == [[1, 7], [1, 2, 3]]
    assert taken.tokens is not None
    assert taken.tokens.tolist() == [16, 2, 16, 16, 4]
    t = table([0, 1, 2, 3], prefix_blocks=blocks).window(1, 3)
    assert t.prefix_blocks is not None
    assert [t.prefix_blocks[i].tolist() for i in range(2)] == [[], [1, 7]]


def test_frame_has_the_columns_that_are_known() -> None:
    frame = table([0, 1], session=[4, 5], prefix_blocks=PrefixBlocks.from_lists([[1], [1, 2]])).to_frame()
    assert list(frame.columns) == ["arrival", "input_tokens", "output_tokens", "session", "num_prefix_blocks"]
    assert frame["num_prefix_blocks"].tolist() == [1, 2]


def test_importing_the_package_and_reading_a_trace_loads_no_pandas() -> None:
    code = (
        "import sys, simulator.workload.requests as r; assert 'numpy' not in sys.modules;"
        "r.load_requests('azure-2023-conv', count=10); assert not {'pandas', 'scipy'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
