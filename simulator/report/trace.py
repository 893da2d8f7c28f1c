"""The timeline of a result as a Chrome trace, which chrome://tracing and ui.perfetto.dev open.

The format is that of "Trace Event Format" (Google, 2016): complete events (``X``), nested asynchronous events (``b``,
``e``), counters (``C``), instants (``i``) and metadata (``M``), with times in microseconds.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from simulator.errors import ConfigError
from simulator.results.tables import Result

__all__ = ["chrome_trace", "write_trace"]

Event = dict[str, Any]

_MICRO = 1e6

_STREAMS = ("compute", "scale_up", "scale_out", "h2d", "d2h", "nvme")
"""Threads of a process from top to bottom."""

_SPANS = (
    ("queue", "arrival", "scheduled"),
    ("prefill", "scheduled", "first_token"),
    ("decode", "first_token", "finish"),
)

_COLOURS = {
    "forward": "thread_state_running", "backward": "rail_response", "input_gradient": "rail_response",
    "weight_gradient": "rail_animation", "optimizer": "rail_idle", "omitted": "generic_work",
}  # fmt: skip
"""Names of the viewer's own palette."""


class _Processes:
    """Numbers of processes and threads, with the metadata events that name and order them."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._pids: dict[tuple[str, str], int] = {}
        self._tids: dict[tuple[int, str], int] = {}

    def pid(self, workload: str, part: str) -> int:
        """The process of a pipeline rank, a replica or the requests of a workload."""
        key = (workload, part)
        if key not in self._pids:
            pid = self._pids[key] = len(self._pids) + 1
            self.events.append(_meta("process_name", pid, 0, name=f"{workload}: {part}"))
            self.events.append(_meta("process_sort_index", pid, 0, sort_index=pid))
        return self._pids[key]

    def tid(self, pid: int, stream: str) -> int:
        """The thread of a stream."""
        key = (pid, stream)
        if key not in self._tids:
            known = _STREAMS.index(stream) if stream in _STREAMS else len(_STREAMS) + len(self._tids)
            tid = self._tids[key] = known + 1
            self.events.append(_meta("thread_name", pid, tid, name=stream.replace("_", "-")))
            self.events.append(_meta("thread_sort_index", pid, tid, sort_index=tid))
        return self._tids[key]


def chrome_trace(result: Result) -> dict[str, Any]:
    """What happened when, as one JSON object.

    Pipeline tasks are slices (process = pipeline rank, thread = stream) with FLOPs, bytes and trust as arguments;
    requests are asynchronous spans (queue, prefill, decode); waiting and running requests and the occupancy of the KV
    cache are counters of their replica; recorded events are instants. Tasks that were not recorded are one slice per
    stage that says how many there were.

    Raises
    ------
    ConfigError
        If the result has no times in it.
    """
    processes = _Processes()
    events = [
        *_operations(result, processes),
        *_counters(result, processes),
        *_requests(result, processes),
        *_instants(result, processes),
    ]
    if not events:
        raise ConfigError("the result has no timeline: run the scenario with 'record: full'")
    return {
        "traceEvents": [*processes.events, *sorted(events, key=lambda e: e["ts"])],
        "displayTimeUnit": "ms",
        "otherData": {k: result.provenance.get(k, "") for k in ("scenario", "fmsim", "seed")},
    }


def write_trace(result: Result, path: str | Path) -> Path:
    """Write :func:`chrome_trace` as a file; an interrupted write leaves none.

    Raises
    ------
    ConfigError
        If the result has no times in it, or the file cannot be written.
    """
    target = Path(path)
    text = json.dumps(chrome_trace(result), separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(target)
    except OSError as error:
        raise ConfigError(f"'{target}' cannot be written: {error.strerror or error}") from None
    finally:
        partial.unlink(missing_ok=True)
    return target


def _meta(kind: str, pid: int, tid: int, **args: Any) -> Event:
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": args}


def _micro(seconds: float) -> float:
    """Microseconds, to the picosecond: more digits only make the file longer."""
    return round(float(seconds) * _MICRO, 6)


def _known(row: Mapping[str, Any], columns: tuple[str, ...]) -> dict[str, Any]:
    """Entries that say something: no NaN, no empty text."""
    found = {}
    for column in columns:
        value = row.get(column)
        value = getattr(value, "item", lambda value=value: value)()  # numbers of numpy as those of Python
        if value is not None and value != "" and not (isinstance(value, float) and math.isnan(value)):
            found[column] = value
    return found


def _operations(result: Result, processes: _Processes) -> Iterator[Event]:
    for row in result.rows("ops"):
        if row["start"] != row["start"]:  # a distinct Op with its price: it has no place in time
            continue
        pid = processes.pid(str(row["workload"]), f"stage {int(row['stage'])}")
        event: Event = {
            "ph": "X", "name": str(row["name"]), "cat": f"{row['kind']},{row['phase']}", "pid": pid,
            "tid": processes.tid(pid, str(row["stream"])), "ts": _micro(row["start"]), "dur": _micro(row["duration"]),
            "args": _known(row, ("phase", "microbatch", "chunk", "count", "flops", "bytes", "bound", "trust")),
        }  # fmt: skip
        if row["phase"] in _COLOURS:
            event["cname"] = _COLOURS[row["phase"]]
        yield event


def _counters(result: Result, processes: _Processes) -> Iterator[Event]:
    for row in result.rows("resources"):
        if row["resource"] != "replica" or row["time"] != row["time"]:
            continue
        pid = processes.pid(str(row["workload"]), f"replica {int(row['replica'])}")
        common: Event = {"ph": "C", "pid": pid, "tid": 0, "ts": _micro(row["time"])}
        yield {**common, "name": "requests", "args": _known(row, ("running", "waiting"))}
        if cache := _known(row, ("kv_occupancy",)):
            yield {**common, "name": "KV occupancy [%]", "args": {"used": 100 * cache["kv_occupancy"]}}


def _requests(result: Result, processes: _Processes) -> Iterator[Event]:
    for row in result.rows("requests"):
        pid = processes.pid(str(row["workload"]), "requests")
        common: Event = {"cat": "request", "id": str(row["request"]), "pid": pid, "tid": 0}
        notes = ("replica", "input_tokens", "output_tokens", "preemptions", "status")
        for name, begin, end in _SPANS:
            if row[begin] != row[begin] or row[end] != row[end]:  # rejected, or cut off by the end of the run
                break
            first = {"args": _known(row, notes)} if name == "queue" else {}
            yield {"ph": "b", "name": name, **common, "ts": _micro(row[begin]), **first}
            yield {"ph": "e", "name": name, **common, "ts": _micro(row[end])}


def _instants(result: Result, processes: _Processes) -> Iterator[Event]:
    for row in result.rows("events"):
        pid = processes.pid(str(row["workload"]), "events")
        yield {
            "ph": "i", "s": "p", "name": str(row["event"]), "cat": "event", "pid": pid, "tid": 0,
            "ts": _micro(row["time"]), "args": _known(row, ("replica", "detail")),
        }  # fmt: skip
