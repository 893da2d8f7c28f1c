"""Agent sessions as recorded by WEKA's cache tester: one coding session per line, with think times and block hashes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from simulator.errors import ConfigError
from simulator.workload.requests.readers.base import RowLog, TraceFile, build_table, json_rows, trace_format
from simulator.workload.requests.table import PrefixBlocks, RequestTable

__all__ = ["read_weka"]

SESSIONS_PER_S = 0.01
"""Rate of new sessions where none is asked for; the trace has no absolute time."""


@dataclass
class _Columns:
    """Requests of all sessions in file order: a parent comes before its children."""

    session: list[int] = field(default_factory=list)
    turn: list[int] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    think: list[float] = field(default_factory=list)
    parent: list[int] = field(default_factory=list)
    blocks: list[np.ndarray[Any, np.dtype[np.int64]]] = field(default_factory=list)


def _sniff(file: TraceFile) -> bool:
    return {"hash_id_scope", "block_size", "requests"} <= file.first_json().keys()


@trace_format("weka", "https://github.com/callanjfox/kv-cache-tester (Apache-2.0)", _sniff, ("rate", "sessions"))
def read_weka(
    file: TraceFile, skip_bad_rows: bool, seed: int, rate: float = SESSIONS_PER_S, sessions: int = 0
) -> RequestTable:
    """Agent sessions ``requests: [{in, out, think_time, hash_ids}]``: growing contexts that wait for their answers.

    A request is released ``think_time`` after the answer before it. A sub-agent's first request is released when the
    request before it in its session has ended; both go on side by side. The trace knows no absolute times: sessions
    begin as a Poisson process of ``rate`` [1/s]. Hashes are local to a session, so nothing is shared between sessions,
    not even the description of the tools; inside a session a block of ``block_size`` tokens keeps its id.

    Parameters
    ----------
    rate
        New sessions [1/s].
    sessions
        The first so many of the file; 0 = all.
    """
    if not (rate > 0 and math.isfinite(rate)) or sessions < 0:
        raise ConfigError(f"a rate of sessions is above 0 and their count at least 0, not {rate} and {sessions}")
    log, columns, sizes, number = RowLog(str(file.path)), _Columns(), set[int](), 0
    for line, row in json_rows(file, log):
        requests, size = row.get("requests"), row.get("block_size")
        if type(size) is not int or size < 1 or not isinstance(requests, list):
            log.add(line, "bad session", "a session has a 'block_size' [tokens] and a list of 'requests'")
            continue
        if problems := list(_problems(requests)):  # the turns behind a bad request hang in the air
            log.add(line, "bad session", "; ".join(problems[:5]))
            continue
        sizes.add(size)
        log.rows_read -= 1  # rows are requests here, or sessions that are left out
        _enter(columns, number, requests, -1, log)
        number += 1
        if sessions and number == sessions:
            break
    if len(sizes) > 1:
        raise ConfigError(
            f"{file.path}: sessions have blocks of {', '.join(map(str, sorted(sizes)))} tokens, not of one"
        )
    random = np.random.Generator(np.random.PCG64(seed))
    starts = np.cumsum(random.exponential(1.0 / rate, number)) if number else np.zeros(0)
    session, parent = np.array(columns.session, dtype=np.int64), np.array(columns.parent, dtype=np.int64)
    think = np.where(parent < 0, np.nan, np.array(columns.think, dtype=np.float64))
    counts = np.array([len(ids) for ids in columns.blocks], dtype=np.int64)
    offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    ids = np.concatenate(columns.blocks) if len(counts) else np.zeros(0, dtype=np.int64)
    return build_table(
        file, log, format="weka", skip_bad_rows=skip_bad_rows, arrival=starts[session] if len(session) else starts,
        input_tokens=np.array(columns.inputs), output_tokens=np.array(columns.outputs),
        extra={"session": session, "turn": np.array(columns.turn), "think_time": think, "parent": parent},
        prefix_blocks=PrefixBlocks(offsets, ids), prefix_block_tokens=next(iter(sizes), 0),
        transforms=(f"sessions begin at {rate:g} /s, seed {seed}",), synthetic_fields=("arrival of sessions",),
        time_resolution_s=0.0, seed=seed,
    )  # fmt: skip


def _problems(requests: list[Any]) -> Iterator[str]:
    """What is wrong with the requests of a session and of its sub-agents."""
    for at, request in enumerate(requests):
        if isinstance(request, dict) and isinstance(request.get("requests"), list):
            yield from (f"request {at}: {problem}" for problem in _problems(request["requests"]))
        elif isinstance(found := _numbers(request), str):
            yield f"request {at}: {found}"


def _enter(columns: _Columns, session: int, requests: list[Any], parent: int, log: RowLog) -> None:
    """Append the requests of a session or sub-agent behind ``parent``."""
    turn = 0
    for request in requests:
        if isinstance(request.get("requests"), list):
            _enter(columns, session, request["requests"], parent, log)
            continue
        log.rows_read += 1
        found = _numbers(request)
        assert not isinstance(found, str)  # the session was checked
        inputs, outputs, think, ids = found
        if outputs == 0:  # what failed or was stopped; the next request still follows the one before
            log.leave_out("no generated token")
            continue
        turn += 1
        columns.session.append(session)
        columns.turn.append(turn)
        columns.inputs.append(inputs)
        columns.outputs.append(outputs)
        columns.think.append(think)
        columns.parent.append(parent)
        columns.blocks.append((np.int64(session) << 32) + np.array(ids, dtype=np.int64))
        parent = len(columns.session) - 1


def _numbers(request: Any) -> tuple[int, int, float, list[int]] | str:
    """Input and output tokens, think time [s] and block ids of a request, or what is wrong with it."""
    if not isinstance(request, dict):
        return "not a mapping"
    inputs, outputs, ids = request.get("in"), request.get("out"), request.get("hash_ids", [])
    think = request.get("think_time", 0.0)
    if type(inputs) is not int or inputs < 1 or type(outputs) is not int or outputs < 0:
        return f"'in' and 'out' are whole numbers of tokens, not {inputs!r} and {outputs!r}"
    if isinstance(think, bool) or not isinstance(think, int | float) or not 0 <= think < math.inf:
        return f"'think_time' is a time in seconds, not {think!r}"
    if not isinstance(ids, list) or not all(type(i) is int and 0 <= i < 1 << 32 for i in ids):
        return "'hash_ids' is not a list of whole numbers"
    return inputs, outputs, float(think), ids
