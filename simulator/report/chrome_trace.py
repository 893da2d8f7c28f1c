"""The timeline of a result in the Trace Event Format of chrome://tracing and Perfetto."""

from __future__ import annotations

from typing import Any

from simulator.errors import ConfigError
from simulator.results.tables import Result

__all__ = ["trace_events"]

_MICRO = 1e6
"""The format counts in microseconds."""


def trace_events(result: Result) -> dict[str, Any]:
    """Operations as slices (process = stage, thread = stream), requests as async spans, occupancy as counters.

    Raises
    ------
    ConfigError
        If the run recorded no timeline.
    """
    events: list[dict[str, Any]] = []
    processes: dict[tuple[str, str], int] = {}

    def process(workload: str, part: str) -> int:
        key = (workload, part)
        if key not in processes:
            processes[key] = len(processes) + 1
            events.append(_meta("process_name", processes[key], 0, f"{workload} {part}"))
        return processes[key]

    _operations(result, events, process)
    _requests(result, events, process)
    _counters(result, events, process)
    if not events:
        raise ConfigError("this run recorded no timeline: run it again with 'record: full'")
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {"scenario": result.provenance.get("scenario", "")},
    }


def _meta(name: str, pid: int, tid: int, text: str) -> dict[str, Any]:
    return {"ph": "M", "name": name, "pid": pid, "tid": tid, "args": {"name": text}}


def _operations(result: Result, events: list[dict[str, Any]], process: Any) -> None:
    threads: dict[tuple[int, str], int] = {}
    for row in result.rows("ops"):
        if row["start"] != row["start"]:  # priced, but not on a timeline
            continue
        pid = process(row["workload"], f"stage {row['stage']}")
        key = (pid, str(row["stream"]))
        if key not in threads:
            threads[key] = len(threads) + 1
            events.append(_meta("thread_name", pid, threads[key], key[1]))
        notes = ("phase", "microbatch", "chunk", "flops", "bytes", "bound", "trust")
        shown = {k: row[k] for k in notes if row.get(k) is not None and row[k] == row[k]}
        slice_ = {"ph": "X", "name": row["name"], "cat": str(row.get("kind", "op")), "pid": pid, "tid": threads[key]}
        events.append({**slice_, "ts": row["start"] * _MICRO, "dur": row["duration"] * _MICRO, "args": shown})


def _requests(result: Result, events: list[dict[str, Any]], process: Any) -> None:
    for row in result.rows("requests"):
        if row["finish"] != row["finish"]:
            continue
        pid = process(row["workload"], "requests")
        spans = (
            ("queue", "arrival", "scheduled"),
            ("prefill", "scheduled", "first_token"),
            ("decode", "first_token", "finish"),
        )
        for name, start, end in spans:
            common = {"name": name, "cat": "request", "id": row["request"], "pid": pid, "tid": 0}
            events.append({"ph": "b", **common, "ts": row[start] * _MICRO})
            events.append({"ph": "e", **common, "ts": row[end] * _MICRO})


def _counters(result: Result, events: list[dict[str, Any]], process: Any) -> None:
    for row in result.rows("resources"):
        time = row.get("time", float("nan"))
        if time != time:
            continue
        values = {
            k: row[k]
            for k in ("waiting", "running", "kv_blocks")
            if row.get(k) is not None and row.get(k) == row.get(k)
        }
        if values:
            pid = process(row["workload"], f"replica {row.get('replica', 0)}")
            events.append({"ph": "C", "name": "replica", "pid": pid, "tid": 0, "ts": time * _MICRO, "args": values})
