"""Mooncake traces (FAST 2025): JSON Lines with the hash ids of 512-token prompt blocks."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from simulator.errors import ConfigError
from simulator.workload.requests.readers.base import (
    RowLog,
    TraceFile,
    build_table,
    json_rows,
    trace_format,
    whole_number,
)
from simulator.workload.requests.table import PrefixBlocks, RequestTable

__all__ = ["read_mooncake"]

BLOCK_TOKENS = 512


def _sniff(file: TraceFile) -> bool:
    row = file.first_json()
    return {"timestamp", "input_length", "output_length"} <= row.keys() and not {"chat_id", "session_id"} & row.keys()


def _grid(times: NDArray[np.float64]) -> float:
    """Step of the time stamps [s], 0 when they are fine.

    The usual gap between distinct stamps, if nearly all gaps are multiples of it within 1 % (the published grid
    of 3 s has stamps that are a millisecond off).
    """
    gaps = np.diff(np.unique(times))
    if len(gaps) < 2:
        return 0.0
    step = float(np.median(gaps))
    off = np.abs(gaps / step - np.rint(gaps / step))
    return step if (off < 0.01).mean() > 0.95 else 0.0


@trace_format("mooncake", "https://github.com/kvcache-ai/Mooncake (Apache-2.0)", _sniff, ("jitter", "block_tokens"))
def read_mooncake(
    file: TraceFile, skip_bad_rows: bool, seed: int, jitter: bool = True, block_tokens: int = BLOCK_TOKENS
) -> RequestTable:
    """JSON Lines ``timestamp`` [ms], ``input_length``, ``output_length``, ``hash_ids``: lengths and shared prefixes.

    The conversation trace has its time stamps on a 3-s grid: replayed as they stand, requests come in volleys of
    ten (CV 3.0). ``jitter`` adds uniform(0, grid) to each where the grid is coarser than 0.1 s, which gives the
    CV of 1.0 that the counts per minute support; what it invents is recorded.
    """
    if block_tokens < 1:
        raise ConfigError(f"block_tokens must be at least 1, not {block_tokens}")
    log = RowLog(str(file.path))
    times, inputs, outputs, blocks = [], [], [], []
    for line, row in json_rows(file, log):
        tokens_in = whole_number(log, line, row, "input_length", 1)
        tokens_out = whole_number(log, line, row, "output_length", 0)
        time, ids = row.get("timestamp"), row.get("hash_ids", [])
        if not isinstance(time, int | float) or isinstance(time, bool) or not (0 <= time < math.inf):
            log.add(line, "bad timestamp", f"timestamp is {time!r}: write milliseconds from the start of the trace")
        elif not isinstance(ids, list) or not all(type(i) is int for i in ids):
            log.add(line, "bad hash_ids", "hash_ids is not a list of whole numbers")
        elif tokens_in is not None and tokens_out == 0:
            log.leave_out("no generated token")
        elif tokens_in is not None and tokens_out is not None:
            times.append(time)
            inputs.append(tokens_in)
            outputs.append(tokens_out)
            blocks.append(ids)
    arrival = np.array(times, dtype=np.float64) / 1e3
    grid = _grid(arrival)
    jittered = jitter and grid > 0.1
    if jittered:
        arrival += np.random.Generator(np.random.PCG64(seed)).uniform(0, grid, len(arrival))
    notes = (f"added uniform(0, {grid:g} s) to time stamps on a {grid:g}-s grid, seed {seed}",)
    return build_table(
        file,
        log,
        format="mooncake",
        skip_bad_rows=skip_bad_rows,
        arrival=arrival,
        input_tokens=np.array(inputs),
        output_tokens=np.array(outputs),
        prefix_blocks=PrefixBlocks.from_lists(blocks) if any(blocks) else None,
        prefix_block_tokens=block_tokens if any(blocks) else 0,
        transforms=notes if jittered else (),
        synthetic_fields=("arrival within the time grid",) if jittered else (),
        time_resolution_s=grid or 1e-3,
        seed=seed if jittered else None,
    )
