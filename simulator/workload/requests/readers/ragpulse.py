"""RAGPulse: retrieval-augmented generation with the parts of each prompt."""

from __future__ import annotations

from typing import Any

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

__all__ = ["read_ragpulse"]

_PARTS = (
    ("sys_prompt", "1_sys_prompt", "sys_prompt_id"),
    ("passages_ids", "2_passages", "passage_id"),
    ("history", "3_history", "history_id"),
    ("web_search", "5_web_search", "web_search_id"),
    ("user_input", "4_user_input", "user_input_id"),
)
"""Key in the trace, file with the part sizes beside it, its key; in the order of the prompt."""


def _sniff(file: TraceFile) -> bool:
    row = file.first_json()
    return {"timestamp", "input_length", "session_id"} <= row.keys() and isinstance(row.get("hash_ids"), dict)


@trace_format("ragpulse", "https://github.com/flashserve/RAGPulse (MIT)", _sniff)
def read_ragpulse(file: TraceFile, skip_bad_rows: bool, seed: int) -> RequestTable:
    """JSON Lines with sessions and the ids of system prompt, passages, history, web search and user input.

    Parts become prefix blocks of their own size where the files with the part sizes lie beside the trace; ids are
    then chained, since a cached part can be reused only after the same parts before it. The rate is very low
    (one request in 85 s): scale it with ``with_rate``.
    """
    log = RowLog(str(file.path))
    times, inputs, outputs, sessions, parts = [], [], [], [], []
    for line, row in json_rows(file, log):
        tokens_in = whole_number(log, line, row, "input_length", 1)
        tokens_out = whole_number(log, line, row, "output_length", 0)
        try:
            time = float(row["timestamp"])
            found = [(kind, int(i)) for kind, _, _ in _PARTS for i in row["hash_ids"].get(kind, [])]
            session = str(row["session_id"])
            if not 0 <= time < float("inf"):
                raise ValueError(time)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            log.add(line, "bad fields", f"timestamp, session_id or hash_ids is missing or malformed ({error})")
            continue
        if tokens_in is not None and tokens_out == 0:
            log.leave_out("no generated token")
        elif tokens_in is not None and tokens_out is not None:
            times.append(time)
            inputs.append(tokens_in)
            outputs.append(tokens_out)
            sessions.append(session)
            parts.append(found)
    _, session_ids = np.unique(np.array(sessions, dtype=str), return_inverse=True)
    sizes = _part_sizes(file)
    blocks = None if sizes is None else _chained(parts, sizes)
    return build_table(
        file,
        log,
        format="ragpulse",
        skip_bad_rows=skip_bad_rows,
        arrival=np.array(times, dtype=np.float64),
        input_tokens=np.array(inputs),
        output_tokens=np.array(outputs),
        extra={"session": session_ids},
        prefix_blocks=blocks,
        transforms=(
            "chained the part ids into prefix blocks of their own sizes"
            if blocks
            else "no prefix blocks: the files with the part sizes are not beside the trace",
        ),
        time_resolution_s=1.0,
    )


def _part_sizes(file: TraceFile) -> dict[tuple[str, int], int] | None:
    """(kind, id) -> tokens, from the files beside the trace; ``None`` if one is absent."""
    sizes: dict[tuple[str, int], int] = {}
    for kind, stem, key in _PARTS:
        path = next((p for end in (".jsonl", ".jsonl.gz") if (p := file.path.parent / f"{stem}{end}").is_file()), None)
        if path is None:
            return None
        log = RowLog(str(path))
        for line, row in json_rows(TraceFile(path), log):
            part = whole_number(log, line, row, key)
            tokens = whole_number(log, line, row, "token_length")
            if part is not None and tokens is not None:
                sizes[kind, part] = tokens
        log.settle(skip_bad_rows=False)
    return sizes


def _chained(parts: list[list[tuple[str, int]]], sizes: dict[tuple[str, int], int]) -> PrefixBlocks:
    """Number each distinct sequence of leading parts; parts of unknown size end the chain of a prompt."""
    known: dict[Any, int] = {}
    ids: list[list[int]] = []
    tokens: list[list[int]] = []
    for row in parts:
        chain, lengths, before = [], [], -1
        for part in row:
            if (size := sizes.get(part)) is None:
                break
            before = known.setdefault((before, part), len(known))
            chain.append(before)
            lengths.append(size)
        ids.append(chain)
        tokens.append(lengths)
    return PrefixBlocks.from_lists(ids, tokens)
