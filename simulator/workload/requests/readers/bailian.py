"""Qwen-Bailian traces (USENIX ATC 2025): chats with parents, turns and 16-token prompt blocks."""

from __future__ import annotations

import math

import numpy as np

from simulator.workload.requests.readers.base import (
    RowLog,
    TraceFile,
    build_table,
    json_rows,
    trace_format,
    whole_number,
)
from simulator.workload.requests.table import PrefixBlocks, RequestTable

__all__ = ["read_bailian"]

BLOCK_TOKENS = 16


def _sniff(file: TraceFile) -> bool:
    return {"chat_id", "parent_chat_id", "timestamp", "input_length"} <= file.first_json().keys()


@trace_format("bailian", "https://github.com/alibaba-edu/qwen-bailian-usagetraces-anon (Apache-2.0)", _sniff)
def read_bailian(file: TraceFile, skip_bad_rows: bool, seed: int) -> RequestTable:
    """JSON Lines ``chat_id, parent_chat_id, timestamp`` [s]``, input_length, output_length, turn, hash_ids``.

    A conversation is a tree of chats: ``session`` is the one of its root. A ``parent`` outside the file (the trace
    was cut, or its row was dropped) is -1. Arrivals stay as observed; there are no think times.
    """
    log = RowLog(str(file.path))
    rows: list[tuple[float, int, int, int, int, int]] = []
    blocks: list[list[int]] = []
    for line, row in json_rows(file, log):
        numbers = [
            whole_number(log, line, row, key, least)
            for key, least in (("chat_id", 0), ("input_length", 1), ("output_length", 0))
        ]
        time, ids = row.get("timestamp"), row.get("hash_ids", [])
        parent, turn = row.get("parent_chat_id", -1), row.get("turn", 1)
        if not isinstance(time, int | float) or isinstance(time, bool) or not (0 <= time < math.inf):
            log.add(line, "bad timestamp", f"timestamp is {time!r}: write seconds from the start of the trace")
        elif not isinstance(ids, list) or not all(type(i) is int for i in (*ids, parent, turn)):
            log.add(line, "bad ids", "hash_ids, parent_chat_id and turn are whole numbers")
        elif None not in numbers and numbers[2] == 0:
            log.leave_out("no generated token")
        elif None not in numbers:
            chat, tokens_in, tokens_out = (n or 0 for n in numbers)
            rows.append((time, tokens_in, tokens_out, turn, chat, parent))
            blocks.append(ids)
    order = sorted(range(len(rows)), key=lambda i: rows[i][0])  # parents before children, for the roots below
    rows, blocks = [rows[i] for i in order], [blocks[i] for i in order]
    row_of = {row[4]: i for i, row in enumerate(rows)}
    parents = [p if (p := row_of.get(row[5], -1)) < i else -1 for i, row in enumerate(rows)]
    session: list[int] = []
    for i, p in enumerate(parents):
        session.append(session[p] if p >= 0 else i)
    _, numbered = np.unique(np.array(session, dtype=np.int64), return_inverse=True)
    return build_table(
        file,
        log,
        format="bailian",
        skip_bad_rows=skip_bad_rows,
        arrival=np.array([r[0] for r in rows], dtype=np.float64),
        input_tokens=np.array([r[1] for r in rows]),
        output_tokens=np.array([r[2] for r in rows]),
        extra={"session": numbered, "turn": [r[3] for r in rows], "parent": parents},
        prefix_blocks=PrefixBlocks.from_lists(blocks) if any(blocks) else None,
        prefix_block_tokens=BLOCK_TOKENS if any(blocks) else 0,
        time_resolution_s=1e-3,
    )
