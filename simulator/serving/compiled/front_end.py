"""Front ends over arrays: those of :mod:`simulator.serving.front_end`, request by request in the same order of sums."""

from __future__ import annotations

from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

from simulator.serving.compiled.jit import entry
from simulator.serving.front_end import FrontEnd, InTurns
from simulator.workload.requests.table import RequestTable

__all__ = ["compiled_leave_times"]

Floats = NDArray[np.float64]
Counts = NDArray[np.int32]


def compiled_leave_times(front_end: FrontEnd, table: RequestTable) -> Floats:
    """When the requests of ``table``, in order of arrival, leave a front end of their own [s]."""
    left = np.empty(len(table))
    came = np.require(table.arrival, np.float64, "C")
    tokens = np.require(table.input_tokens, np.int32, "C")
    each, token, servers, latency = front_end.per_request, front_end.per_token, front_end.servers, front_end.latency
    if isinstance(front_end, InTurns):
        _in_turns(came, tokens, float(each), float(token), servers, float(latency), float(front_end.tokenizers), left)
    else:
        _in_a_queue(came, tokens, float(each), float(token), servers, float(latency), left)
    return left


@entry
def _in_a_queue(
    came: Floats, tokens: Counts, per_request: float, per_token: float, servers: int, latency: float, left: Floats
) -> None:
    free = last = 0.0
    for row in range(len(came)):
        begins, work = max(came[row] + latency, free), per_request + per_token * tokens[row]
        last = max(last, begins + work)
        free = begins + work / servers
        left[row] = last


@entry
def _in_turns(
    came: Floats, tokens: Counts, per_request: float, per_token: float, servers: int, latency: float,
    tokenizers: float, left: Floats,
) -> None:  # fmt: skip
    share = 1.0 - 1.0 / tokenizers
    now = served = last = 0.0
    gone, rows = 0, len(came)
    ends = [0.0]
    ends.pop()
    for row in range(rows + 1):
        until = came[row] + latency if row < rows else np.inf
        while len(ends) > 0:
            time = now + max(0.0, ends[0] - served) * max(1.0, len(ends) / servers)
            if time > until:
                break
            now, served = time, heappop(ends)
            last = max(last, time + per_token * tokens[gone] * share)
            left[gone] = last
            gone += 1
        if row == rows:
            break
        if len(ends) > 0:
            served += max(0.0, until - now) / max(1.0, len(ends) / servers)
        else:
            served = 0.0
        now = max(now, until)
        beside = per_token * tokens[row] * share
        heappush(ends, served + (per_request + per_token * tokens[row]) - beside)
