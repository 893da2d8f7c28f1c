"""BurstGPT (KDD 2025): campus-wide use of the Azure OpenAI service."""

from __future__ import annotations

import numpy as np

from simulator.workload.requests.readers.base import TraceFile, build_table, trace_format
from simulator.workload.requests.readers.columns import read_columns
from simulator.workload.requests.table import RequestTable

__all__ = ["read_burstgpt"]


def _sniff(file: TraceFile) -> bool:
    return {"timestamp", "request tokens", "response tokens"} <= set(file.header)


@trace_format("burstgpt", "https://github.com/HPMLL/BurstGPT (CC BY 4.0)", _sniff)
def read_burstgpt(file: TraceFile, skip_bad_rows: bool, seed: int) -> RequestTable:
    """CSV ``Timestamp`` [s], ``Request tokens``, ``Response tokens``; 6 columns, or 8 with sessions.

    Rows without response tokens are failed requests of the source system: left out and counted.
    """
    columns = read_columns(
        file,
        {
            "arrival": (("Timestamp",), "float"),
            "input_tokens": (("Request tokens",), "int"),
            "output_tokens": (("Response tokens",), "int"),
            "session": (("Session ID",), "text"),
        },
        optional=("session",),
    )
    columns.leave_out(columns["output_tokens"] == 0, "failed request (zero response tokens)")
    columns.check_lengths("failed request (zero response tokens)")
    extra = {}
    if "session" in columns:
        ids = columns["session"].astype(str)
        _, session = np.unique(ids, return_inverse=True)
        extra["session"] = np.where(ids == "", -1, session)  # calls of the programming interface have none
    return build_table(
        file,
        columns.log,
        format="burstgpt",
        skip_bad_rows=skip_bad_rows,
        arrival=columns["arrival"],
        input_tokens=columns["input_tokens"],
        output_tokens=columns["output_tokens"],
        extra=extra,
        time_resolution_s=1.0,
    )
