"""The trace keeps to the Trace Event Format and holds the times of the tables."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

import simulator as sim
from simulator.errors import ConfigError
from simulator.report.trace import chrome_trace, write_trace
from simulator.results.storage import load_result, save_result
from simulator.results.tables import Result
from simulator.training.tables import timeline_tables

REQUIRED = {
    "M": {"name", "pid", "args"}, "X": {"name", "cat", "ts", "dur", "pid", "tid"}, "C": {"name", "ts", "pid", "args"},
    "b": {"name", "cat", "id", "ts", "pid"}, "e": {"name", "cat", "id", "ts", "pid"}, "i": {"name", "ts", "pid", "s"},
}  # fmt: skip
"""Keys that the format asks for, by phase."""

METADATA = {
    "process_name": "name",
    "thread_name": "name",
    "process_sort_index": "sort_index",
    "thread_sort_index": "sort_index",
}


def check_format(document: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Every rule of the format that a viewer relies on; events by phase."""
    assert set(document) <= {"traceEvents", "displayTimeUnit", "otherData"}
    assert document["displayTimeUnit"] in ("ms", "ns")
    by_phase: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in document["traceEvents"]:
        assert REQUIRED[event["ph"]] <= set(event), event
        assert isinstance(event["pid"], int)
        if event["ph"] != "M":
            assert isinstance(event["ts"], int | float)
            assert math.isfinite(event["ts"])
        by_phase[event["ph"]].append(event)
    for event in by_phase["M"]:
        assert set(event["args"]) == {METADATA[event["name"]]}
    named = {e["pid"] for e in by_phase["M"] if e["name"] == "process_name"}
    threads = {(e["pid"], e["tid"]) for e in by_phase["M"] if e["name"] == "thread_name"}
    assert {e["pid"] for e in document["traceEvents"]} == named
    assert {(e["pid"], e["tid"]) for e in by_phase["X"]} == threads
    assert all(e["dur"] >= 0 for e in by_phase["X"])
    assert all(isinstance(v, int | float) for e in by_phase["C"] for v in e["args"].values())
    assert all(e["s"] in "gpt" for e in by_phase["i"])
    spans: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for event in (e for e in document["traceEvents"] if e["ph"] in "be"):
        open_ = spans[event["pid"], event["cat"], event["id"]]
        if event["ph"] == "b":
            open_.append(event)
        else:
            assert open_.pop()["name"] == event["name"]
    assert not any(spans.values())
    return by_phase


@pytest.fixture(scope="module")
def trained() -> Result:
    result = sim.estimate("gpt3-175b-selene", ["workloads.0.batch.global_batch_size=16"])
    pipeline = result.details["gpt3-175b"].details["pipeline"]
    tables = dict(result.tables)
    for name, columns in timeline_tables(pipeline, pipeline.run()).items():
        tables[name] = {"workload": ["gpt3-175b"] * len(next(iter(columns.values()))), **columns}
    return Result(tables, result.document, result.provenance, details=result.details)


@pytest.fixture(scope="module")
def served() -> Result:
    return sim.run("quickstart", ["workloads.chat.requests.count=200", "workloads.0.steps=2"])


def test_training_trace_keeps_to_the_format(trained: Result) -> None:
    slices = check_format(chrome_trace(trained))["X"]
    tracks = defaultdict(list)
    for event in slices:
        tracks[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    for track in tracks.values():
        for (_, end), (start, _) in zip(sorted(track), sorted(track)[1:], strict=False):
            assert start >= end - 1e-3  # microseconds: slices of one thread nest or follow each other


def test_slices_hold_the_tasks_of_every_rank(trained: Result) -> None:
    document = chrome_trace(trained)
    names = {e["args"]["name"]: e["pid"] for e in document["traceEvents"] if e["name"] == "process_name"}
    timeline = trained.details["gpt3-175b"].details["timeline"]
    for rank in range(8):
        mine = [e for e in document["traceEvents"] if e["pid"] == names[f"gpt3-175b: stage {rank}"] and e["ph"] == "X"]
        tasks = [e for e in mine if e["cat"].startswith("pipeline")]
        assert len(tasks) == 2 * 16 * 3
        assert sum(e["dur"] for e in tasks) == pytest.approx(timeline.busy[rank] * 1e6)
        assert all(e["args"]["flops"] > 0 and e["args"]["bytes"] > 0 and e["args"]["trust"] for e in tasks)
    end = max(e["ts"] + e["dur"] for e in document["traceEvents"] if e["ph"] == "X")
    assert end == pytest.approx(trained.of("gpt3-175b")["seconds"] * 1e6)


def test_serving_trace_keeps_to_the_format(served: Result) -> None:
    events = check_format(chrome_trace(served))
    assert len(events["b"]) == 3 * 200
    by_request = defaultdict(dict)
    for event in events["b"]:
        by_request[event["id"]][event["name"]] = event["ts"]
    first = served.requests.iloc[0]
    assert by_request["0"]["queue"] == pytest.approx(first["arrival"] * 1e6, abs=1e-3)
    assert by_request["0"]["decode"] - by_request["0"]["queue"] == pytest.approx(first["ttft"] * 1e6, abs=1e-3)


def test_counters_are_the_samples(served: Result) -> None:
    counters = check_format(chrome_trace(served))["C"]
    running = [e["args"]["running"] for e in counters if e["name"] == "requests"]
    used = [e["args"]["used"] for e in counters if e["name"].startswith("KV")]
    assert sum(running) == served.resources["running"].sum()
    assert sum(used) == pytest.approx(100 * served.resources["kv_occupancy"].sum())


def test_a_request_that_never_ended_has_only_what_happened() -> None:
    nan = math.nan
    requests = {
        "workload": ["c"] * 3, "request": [0, 1, 2], "arrival": [0.0, 1.0, 2.0], "scheduled": [0.5, 1.5, nan],
        "first_token": [1.0, nan, nan], "finish": [2.0, nan, nan], "status": ["completed", "unfinished", "too long"],
    }  # fmt: skip
    events = check_format(chrome_trace(Result({"requests": requests})))
    begun = sorted((e["id"], e["ts"], e["name"]) for e in events["b"])
    assert [name for *_, name in begun] == ["queue", "prefill", "decode", "queue"]


def test_file_is_strict_json_and_the_same_from_disk(served: Result, tmp_path: Path) -> None:
    loaded = load_result(save_result(served, tmp_path / "run"))
    paths = [write_trace(r, tmp_path / f"{i}.json") for i, r in enumerate((served, loaded))]
    texts = [p.read_text(encoding="utf-8") for p in paths]
    assert texts[0] == texts[1]

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    check_format(json.loads(texts[0], parse_constant=refuse))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.json", "1.json", "run"]


def test_without_times_there_is_no_trace(tmp_path: Path) -> None:
    empty = Result({"summary": {"workload": ["a"]}})
    with pytest.raises(ConfigError, match="record: full"):
        write_trace(empty, tmp_path / "trace.json")
    assert not list(tmp_path.iterdir())
