"""Workload files and load_requests: every source by one door, every mistake with its line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from simulator.errors import ConfigError
from simulator.workload.requests import (
    ClosedLoop,
    Fixed,
    Poisson,
    generate_requests,
    load_requests,
    load_workload,
    workload_names,
)

GOOD = """\
name: mine
arrival: {process: on-off, burst_rate: 4 /s, on_duration: 5 s, off_duration: 500 ms}
input_tokens: {law: mixture, weights: [1, 3], components: [{law: fixed, tokens: 7}, {law: uniform, min: 2, max: 4}]}
output_tokens: 12
count: 30
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_workload_file(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.yaml", GOOD)
    table = load_requests(path, seed=4)
    assert len(table) == 30
    assert table.name == "mine"
    assert set(table.input_tokens.tolist()) <= {2, 3, 4, 7}
    assert set(table.output_tokens.tolist()) == {12}
    assert load_workload(path).arrival.mean_rate == pytest.approx(4 * 5 / 5.5)  # type: ignore[union-attr]
    assert np.array_equal(load_requests(str(path), seed=4).arrival, table.arrival)


def test_rate_duration_and_count_override_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.yaml", GOOD)
    assert len(load_requests(path, count=5)) == 5
    timed = load_requests(path, rate=50.0, duration=20.0)
    assert timed.arrival.max() < 20.0
    assert len(timed) == pytest.approx(1000, rel=0.2)
    loop = load_requests(path, concurrency=8)
    assert loop.closed_loop_concurrency == 8 and len(loop) == 30


def test_a_trace_by_path_and_through_a_workload_file(tmp_path: Path) -> None:
    rows = "".join(f"{i},{i + 1},3\n" for i in range(10))
    trace = write(tmp_path / "t.csv", "arrival_s,input_tokens,output_tokens\n" + rows)
    direct = load_requests(trace, rate=2.0, duration=2.0)
    assert direct.input_tokens.tolist() == [1, 2, 3, 4]  # a window of the scaled time
    workload = write(tmp_path / "w.yaml", "trace: t.csv\nformat: csv\ncount: 3\n")
    assert load_requests(workload).input_tokens.tolist() == [1, 2, 3]
    with pytest.raises(ConfigError, match=r"11 requests are wanted, but .* has 10"):
        load_requests(trace, count=11)


def test_empirical_lengths_come_from_a_trace_beside_the_file(tmp_path: Path) -> None:
    write(tmp_path / "t.csv", "arrival_s,input_tokens,output_tokens\n0,5,3\n1,9,4\n")
    law = "{law: empirical, trace: t.csv, column: input_tokens}"
    path = write(
        tmp_path / "w.yaml",
        f"arrival: {{process: poisson, rate: 1 /s}}\ninput_tokens: {law}\noutput_tokens: 1\ncount: 50\n",
    )
    assert set(load_requests(path).input_tokens.tolist()) == {5, 9}


def test_all_mistakes_are_reported_with_their_lines(tmp_path: Path) -> None:
    text = """\
name: bad
arrival: {process: gama, rate: 4 /s}
input_tokens:
  law: lognormal
  median: many
  sigmaa: 1
output_tokens: {law: uniform, min: 9, max: 2}
cout: 5
duration: 30
"""
    path = write(tmp_path / "bad.yaml", text)
    with pytest.raises(ConfigError) as error:
        load_workload(path)
    found = {(i.line, i.path): i.message for i in error.value.issues}
    assert "did you mean 'gamma'" in found[2, "arrival.process"]
    assert "write a number" in found[5, "input_tokens.median"]
    assert "did you mean 'sigma'" in found[6, "input_tokens.sigmaa"]
    assert "needs 'sigma'" in found[4, "input_tokens"]
    assert "min <= max" in found[7, "output_tokens"]
    assert "did you mean 'count'" in found[8, "cout"]
    assert "has no unit" in found[9, "duration"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("arrival: [1, 2\n", "not YAML"),
        ("- 1\n", "is a mapping"),
        ("count: 1\ncount: 2\n", "written twice"),
        (GOOD.replace("count: 30\n", ""), "default extent"),
        (GOOD + "trace: t.csv\n", "either a trace or laws"),
        (GOOD.replace("4 /s", "4"), "has no unit"),
        (GOOD.replace("count: 30", "count: 0"), "at least 1"),
        ("count: 3\n", "arrival: write a mapping with 'process'"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_workload(write(tmp_path / "w.yaml", text))


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'azure-2023-conv'"):
        load_requests("azure-2023-con")
    with pytest.raises(ConfigError, match="no trace file"):
        load_requests(tmp_path / "absent.csv.gz")


def test_generated_requests_need_an_end_that_can_be_meant() -> None:
    law = Poisson(10.0)
    for arguments, message in (
        ({}, "need an end"),
        ({"duration": -1.0}, "positive"),
        ({"count": 0}, "at least 1"),
        ({"duration": 1e9}, "shorter duration"),
    ):
        with pytest.raises(ConfigError, match=message):
            generate_requests(law, Fixed(1), Fixed(1), **arguments)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="give a count"):
        generate_requests(ClosedLoop(4), Fixed(1), Fixed(1), duration=10.0)
    loop = generate_requests(ClosedLoop(4), Fixed(1), Fixed(1), count=9)
    assert loop.closed_loop_concurrency == 4 and not loop.arrival.any()
    with pytest.raises(ConfigError, match="no rate to set"):
        ClosedLoop(4).with_rate(3.0)


@pytest.mark.parametrize("name", workload_names())
def test_shipped_workloads_say_where_they_come_from(name: str) -> None:
    workload = load_workload(name)
    assert workload.name == name
    assert workload.description and workload.source and workload.assumes
    assert "default" in workload.tolerance
