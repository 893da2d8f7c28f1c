"""Readers of published request traces, one module per format; the format is recognised from the content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simulator.errors import ConfigError, unknown_name

# The order is the order in which formats are tried: the generic one comes last.
from simulator.workload.requests.readers import (  # noqa: F401  (imported to register)
    azure,
    bailian,
    burstgpt,
    generic,
    mooncake,
    ragpulse,
    servegen,
    weka,
)
from simulator.workload.requests.readers.base import FORMATS, TraceFile, TraceFormat
from simulator.workload.requests.table import RequestTable

__all__ = ["TraceFormat", "read_requests", "recognise", "trace_formats"]


def trace_formats() -> list[TraceFormat]:
    """All formats that can be read, the generic one last."""
    return sorted(FORMATS.values(), key=lambda f: f.name == "csv")


def read_requests(
    path: str | Path, format: str = "auto", skip_bad_rows: bool = False, seed: int = 0, **options: Any
) -> RequestTable:
    """Read a request trace as it was published, gzip or not.

    Parameters
    ----------
    path
        The file.
    format
        Name of one of :func:`trace_formats`, or ``auto``.
    skip_bad_rows
        Drop bad rows and count them by reason in ``provenance.dropped``, instead of raising.
    seed
        For what a format leaves to chance: jitter within a coarse time grid, requests drawn from client laws.
    options
        Of the format, e.g. ``jitter=False`` for ``mooncake``, ``start=43200`` for ``servegen``.

    Raises
    ------
    ConfigError
        If the file is absent or of no known format, an option is unknown, or rows are bad: then each of the first
        20 is named by file and line, and the rest counted.
    """
    found = recognise(path, format)
    unknown = [unknown_name(f"option of format {found.name}", o, found.options) for o in options.keys() - found.options]
    if unknown:
        raise ConfigError("; ".join(sorted(unknown)))
    return found.read(TraceFile(Path(path)), skip_bad_rows=skip_bad_rows, seed=seed, **options)


def recognise(path: str | Path, format: str = "auto") -> TraceFormat:
    """The format of a trace file: the named one, or the first that its content looks like.

    Raises
    ------
    ConfigError
        If there is no such file or format, or the file looks like none.
    """
    file = TraceFile(Path(path))
    if not file.path.is_file():
        raise ConfigError(f"there is no trace file '{path}'")
    if format != "auto":
        if format not in FORMATS:
            raise ConfigError(unknown_name("trace format", format, FORMATS))
        return FORMATS[format]
    found = next((f for f in trace_formats() if f.sniff(file)), None)
    if found is None:
        if not file.first_line.strip():
            raise ConfigError(f"the trace file '{path}' is empty: give a header and one row per request")
        known = ", ".join(f.name for f in trace_formats())
        raise ConfigError(
            f"{path} is of no known trace format ({known}); its first line is {file.first_line[:80]!r}. "
            "Rename the columns to arrival_s, input_tokens, output_tokens to read it as csv"
        )
    return found
