"""Any CSV file with arrival time and both lengths, under the usual names."""

from __future__ import annotations

from simulator.workload.requests.readers.base import TraceFile, build_table, trace_format
from simulator.workload.requests.readers.columns import Kind, read_columns
from simulator.workload.requests.table import RequestTable

__all__ = ["read_generic"]

_COLUMNS: dict[str, tuple[tuple[str, ...], Kind]] = {
    "arrival": (("arrival_s", "arrived_at", "arrival_time", "t_arrival_s", "arrival", "timestamp"), "float"),
    "input_tokens": (("input_tokens", "num_prefill_tokens", "prompt_tokens", "prompt_len", "input_len"), "int"),
    "output_tokens": (
        ("output_tokens", "num_decode_tokens", "completion_tokens", "output_len", "generated_tokens"),
        "int",
    ),
    "session": (("session", "session_id"), "int"),
    "turn": (("turn",), "int"),
    "client": (("client", "client_id"), "int"),
    "priority": (("priority",), "int"),
}
_OPTIONAL = ("session", "turn", "client", "priority")


def _sniff(file: TraceFile) -> bool:
    header = set(file.header)
    return all(header & set(spellings) for name, (spellings, _) in _COLUMNS.items() if name not in _OPTIONAL)


@trace_format("csv", "arrival_s, input_tokens, output_tokens (also the column names of Vidur and vLLM)", _sniff)
def read_generic(file: TraceFile, skip_bad_rows: bool, seed: int) -> RequestTable:
    """CSV ``arrival_s, input_tokens, output_tokens``; optionally ``session, turn, client, priority``."""
    columns = read_columns(file, _COLUMNS, optional=_OPTIONAL)
    columns.reject("arrival", columns["arrival"] < 0, "arrival is {} s: a time cannot be negative")
    columns.check_lengths("no output token")
    return build_table(
        file,
        columns.log,
        format="csv",
        skip_bad_rows=skip_bad_rows,
        arrival=columns["arrival"],
        input_tokens=columns["input_tokens"],
        output_tokens=columns["output_tokens"],
        extra={name: columns[name] for name in _OPTIONAL if name in columns},
    )
