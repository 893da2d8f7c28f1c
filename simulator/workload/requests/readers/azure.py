"""Azure LLM inference traces of 2023 (Splitwise, ISCA 2024) and 2024 (DynamoLLM, HPCA 2025)."""

from __future__ import annotations

import numpy as np

from simulator.workload.requests.readers.base import TraceFile, build_table, trace_format
from simulator.workload.requests.readers.columns import read_columns
from simulator.workload.requests.table import RequestTable

__all__ = ["read_azure"]


def _sniff(file: TraceFile) -> bool:
    return {"timestamp", "contexttokens", "generatedtokens"} <= set(file.header)


@trace_format("azure", "https://github.com/Azure/AzurePublicDataset (CC BY 4.0)", _sniff)
def read_azure(file: TraceFile, skip_bad_rows: bool, seed: int) -> RequestTable:
    """CSV ``TIMESTAMP, ContextTokens, GeneratedTokens``: time of arrival and both lengths."""
    columns = read_columns(
        file,
        {
            "arrival": (("TIMESTAMP",), "timestamp"),
            "input_tokens": (("ContextTokens",), "int"),
            "output_tokens": (("GeneratedTokens",), "int"),
        },
    )
    columns.check_lengths("no generated token")
    nanoseconds = columns["arrival"].astype(np.int64)
    if nanoseconds.size:
        nanoseconds -= nanoseconds.min()  # before the change to floats, which hold 100 ns only near zero
    return build_table(
        file,
        columns.log,
        format="azure",
        skip_bad_rows=skip_bad_rows,
        arrival=nanoseconds * np.float64(1e-9),
        input_tokens=columns["input_tokens"],
        output_tokens=columns["output_tokens"],
        time_resolution_s=1e-7,
    )
