"""What an iteration costs, from tables that are filled as they are needed.

The sums are those of :class:`~simulator.serving.separable.SeparableCost`, term by term in the same order, so that both
loops see the same bits. An entry that is not known yet is not a number; the kernel then stops and says which.
"""

from __future__ import annotations

import math

from simulator.serving.compiled.jit import inner
from simulator.serving.compiled.layout import (
    CAPTURED_SEQUENCES,
    CAPTURED_TOKENS,
    CHUNK_BITS,
    COMPUTED,
    CONTEXT,
    DECODES,
    EXPOSED,
    FINISHED,
    GAP,
    HIDDEN,
    HOST_EACH,
    HOST_FIXED,
    LAUNCH_EXPOSED,
    LAUNCHING,
    LAUNCHING_PIECES,
    LAUNCHING_PROMPTS,
    NO_CHUNK,
    NO_DECODES,
    NO_ROWS,
    NO_TOKENS,
    NONE,
    OVERLAPPED,
    PER_CONTEXT,
    WANTED,
    State,
)
from simulator.strategies.serving_protocols import FOREVER

__all__ = ["decode_segment", "find_chunk", "iteration"]


@inner
def find_chunk(keys: object, key: int) -> int:
    """Place of ``key`` in the open-addressed table ``keys``, or of the gap where it belongs."""
    mask = len(keys) - 1  # type: ignore[arg-type]
    at = (key * 0x9E3779B1 ^ (key >> CHUNK_BITS) * 0x85EBCA77) & mask
    while keys[at] != NONE and keys[at] != key:  # type: ignore[index]
        at = (at + 1) & mask
    return at


@inner
def iteration(s: State, r: int, planned: int, with_group: bool) -> tuple[int, float]:
    """(what is missing, seconds) of an iteration over the planned chunks and, perhaps, the decodes."""
    decodes = s.replica[r, DECODES] if with_group else 0
    tokens, rows = decodes, decodes + planned
    for i in range(planned):
        tokens += s.chunk[r, i]
    token_part, row_part = s.token_seconds[tokens], s.row_seconds[rows]
    if math.isnan(token_part):
        s.common[WANTED] = tokens
        return NO_TOKENS, 0.0
    if math.isnan(row_part):
        s.common[WANTED] = rows
        return NO_ROWS, 0.0
    if decodes and math.isnan(s.decode_seconds[decodes, 0]):
        s.common[WANTED] = decodes
        return NO_DECODES, 0.0
    device = token_part + row_part + s.rate[GAP]
    attention = 0.0
    for kind in range(len(s.term)):
        total = s.term[kind, 0]
        for i in range(planned):
            key = s.chunk[r, i] << CHUNK_BITS | s.slot[s.planned[r, i], COMPUTED]
            at = find_chunk(s.chunk_keys, key)
            if s.chunk_keys[at] != key:
                s.common[WANTED] = key
                return NO_CHUNK, 0.0
            total += s.chunk_seconds[at, kind]
        attention += s.term[kind, 1] * total
    device += attention
    if decodes:
        device += s.decode_seconds[decodes, 1] + s.rate[PER_CONTEXT] * s.replica[r, CONTEXT]
    if planned:
        launches = s.rate[LAUNCHING_PROMPTS] if tokens > s.size[CAPTURED_TOKENS] else s.rate[LAUNCHING_PIECES]
        device = max(device, launches) + s.rate[LAUNCH_EXPOSED] * min(device, launches)
    seconds = max(device + s.rate[EXPOSED], s.rate[HIDDEN])
    host = s.rate[HOST_FIXED] + s.rate[HOST_EACH] * rows
    return FINISHED, max(seconds, host) if s.size[OVERLAPPED] else seconds + host


@inner
def decode_segment(s: State, r: int) -> tuple[float, float, int]:
    """(base, slope, valid) of the next iterations of the decodes alone; valid = 0 where their cost is missing."""
    decodes = s.replica[r, DECODES]
    if math.isnan(s.decode_seconds[decodes, 0]):
        s.common[WANTED] = decodes
        return 0.0, 0.0, 0
    seconds = s.decode_seconds[decodes, 1] + s.rate[PER_CONTEXT] * s.replica[r, CONTEXT]
    slope = s.rate[PER_CONTEXT] * decodes
    seconds += s.decode_seconds[decodes, 0]
    valid = FOREVER
    if decodes > s.size[CAPTURED_SEQUENCES]:
        launches, shorter = s.rate[LAUNCHING], s.rate[LAUNCH_EXPOSED]
        if seconds >= launches:
            seconds += shorter * launches
        else:
            if slope > 0:
                valid = max(1, int(min((launches - seconds) / slope, 1e15)) + 1)
            seconds, slope = launches + shorter * seconds, shorter * slope
    seconds += s.rate[EXPOSED]
    host = s.rate[HOST_FIXED] + s.rate[HOST_EACH] * decodes
    wait = max(s.rate[HIDDEN], host if s.size[OVERLAPPED] else 0.0)
    if seconds < wait:
        if slope > 0:
            valid = min(valid, max(1, int(min((wait - seconds) / slope, 1e15)) + 1))
        seconds, slope = wait, 0.0
    return seconds if s.size[OVERLAPPED] else seconds + host, slope, valid
