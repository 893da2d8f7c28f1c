"""Readers of recorded node failures: StepFun's JSON and the CSV of Los Alamos, as published."""

from __future__ import annotations

import csv
import gzip
import json
import math
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from simulator.errors import ConfigError
from simulator.workload.failures.model import NodeEvents

__all__ = ["read_node_events"]

DAY = 86400.0
STEPFUN_NODES = 400
"""Servers that StepFun observed; the file names only those that failed."""
_CAUSES = ("Facilities", "Hardware", "Human Error", "Network", "Undetermined", "Software")


def read_node_events(path: str | Path, *, system: str = "", nodes: int = 0) -> NodeEvents:
    """Failures of nodes from a published file, plain or gzipped; the format is told by its content.

    Parameters
    ----------
    path
        ``fault_trace.json`` of InfiniteHBD-Trace (StepFun, SIGCOMM 2025), or ``LA-UR-05-7318-failure-data-…csv``.
    system
        Of the Los Alamos file: number of the machine, e.g. ``20``; required there, since machines differ.
    nodes
        Nodes that were observed, when the file does not say (StepFun: 400).

    Raises
    ------
    ConfigError
        If the file is missing, of neither format, or holds no failure.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"there is no failure trace '{path}'")
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8", "replace")
    if text.lstrip()[:1] == "[":
        events = _stepfun(json.loads(text), nodes or STEPFUN_NODES)
    elif "Prob Started" in text[:2000]:
        events = _lanl(csv.DictReader(text.splitlines()), system, str(path))
    else:
        raise ConfigError(
            f"'{path}' is no failure trace: a JSON list of fault_start and fault_end events (StepFun), or a CSV "
            f"with 'Prob Started' and 'Prob Fixed' (Los Alamos) is needed"
        )
    if not len(events):
        raise ConfigError(f"'{path}' holds no failure" + (f" of system {system}" if system else ""))
    return events


def _stepfun(rows: list[dict[str, Any]], nodes: int) -> NodeEvents:
    """Pairs of start and end; a start without an end is a node that never came back in the record."""
    numbers: dict[str, int] = {}
    open_faults: dict[tuple[str, str], list[tuple[float, str]]] = {}
    found: list[tuple[float, float, int, str]] = []
    dropped: Counter[str] = Counter()
    last = 0.0
    for row in sorted(rows, key=lambda r: float(r["event_time"])):
        node, time = str(row["node_id"]), float(row["event_time"]) * DAY
        what = row["fault_type"]
        key, last = (node, str(what["Desc"])), time
        number = numbers.setdefault(node, len(numbers))
        if row["event_type"] == "fault_start":
            open_faults.setdefault(key, []).append((time, str(what["Class"])))
        elif open_faults.get(key):
            start, kind = open_faults[key].pop(0)
            found.append((start, time, number, kind))
        else:
            dropped["end without a start"] += 1
    for (node, _), begun in open_faults.items():
        found += [(start, math.inf, numbers[node], kind) for start, kind in begun]
    return _events(found, max(nodes, len(numbers)), last, len(rows), dropped)


def _lanl(rows: Iterable[dict[str, str]], system: str, path: str) -> NodeEvents:
    """One row per failure; times to the minute, the cause in the one column that is filled."""
    wanted = system.strip()
    if not wanted:
        raise ConfigError(f"'{path}' records many machines: name one with 'system', e.g. system: 20")
    numbers: dict[str, int] = {}
    found: list[tuple[float, float, int, str]] = []
    dropped: Counter[str] = Counter()
    read, nodes = 0, 0
    for row in rows:
        row = {str(k).strip(): v for k, v in row.items()}
        if row["System"].strip() != wanted:
            continue
        read += 1
        start, end = _minute(row["Prob Started"]), _minute(row["Prob Fixed"])
        if start is None:
            dropped["no start time"] += 1
            continue
        nodes = max(nodes, int(row["nodes"]) if row["nodes"].strip().isdigit() else 0)
        kind = next((cause.lower() for cause in _CAUSES if (row.get(cause) or "").strip()), "undetermined")
        number = numbers.setdefault(row["nodenum"], len(numbers))
        found.append((start, math.inf if end is None else max(end, start), number, kind))
    begin = min((f[0] for f in found), default=0.0)
    found = [(s - begin, e - begin, n, k) for s, e, n, k in found]
    return _events(found, max(nodes, len(numbers)), max((f[0] for f in found), default=0.0), read, dropped)


def _minute(text: str) -> float | None:
    """``m/d/Y H:M`` as seconds of a calendar without daylight saving."""
    try:
        return (datetime.strptime(text.strip(), "%m/%d/%Y %H:%M") - datetime(1990, 1, 1)).total_seconds()
    except ValueError:
        return None


def _events(
    found: list[tuple[float, float, int, str]], nodes: int, span: float, read: int, dropped: Counter[str]
) -> NodeEvents:
    found.sort()
    start, end, node, kind = zip(*found, strict=True) if found else ((), (), (), ())
    return NodeEvents(node, start, end, kind, nodes, span, read, tuple(sorted(dropped.items())))
