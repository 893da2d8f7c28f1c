"""What all trace readers share: opening files, gathering bad rows, building the table.

A reader is a function decorated with :func:`trace_format` in a module of this package. It parses, and hands
its columns and a :class:`RowLog` to :func:`build_table`, which alone decides what happens to bad rows.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.errors import ConfigError, Issue, IssueCollector
from simulator.workload.requests.provenance import TraceProvenance
from simulator.workload.requests.table import PrefixBlocks, RequestTable

__all__ = ["FORMATS", "RowLog", "TraceFile", "TraceFormat", "build_table", "json_rows", "trace_format", "whole_number"]

SHOWN_ISSUES = 20
_HEAD_BYTES = 1 << 17
"""Enough for the first line of a trace whose prompts list thousands of block ids."""


@dataclass(frozen=True)
class TraceFile:
    """A trace on disk, transparently decompressed."""

    path: Path

    @cached_property
    def compressed(self) -> bool:
        """Whether the file is gzip-compressed (by its magic number, not its name)."""
        with self.path.open("rb") as file:
            return file.read(2) == b"\x1f\x8b"

    @cached_property
    def head(self) -> str:
        """The first 128 KiB of text, for recognising the format."""
        try:
            with gzip.open(self.path) if self.compressed else self.path.open("rb") as file:
                return file.read(_HEAD_BYTES).decode("utf-8", errors="replace").lstrip("\ufeff")
        except (OSError, EOFError, zlib.error) as error:
            raise ConfigError(f"{self.path} cannot be read: {error}") from None

    @property
    def first_line(self) -> str:
        """The first line of text, without its end."""
        return self.head.split("\n", 1)[0].rstrip("\r")

    @property
    def header(self) -> tuple[str, ...]:
        """The names in the first line of a CSV file, in lower case."""
        return tuple(h.strip().lower() for h in next(csv.reader([self.first_line]), []))

    def first_json(self) -> dict[str, Any]:
        """The first line as a JSON object; empty if it is none."""
        try:
            found = json.loads(self.first_line)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def read(self) -> bytes:
        """The whole file, decompressed."""
        try:
            raw = self.path.read_bytes()
            return gzip.decompress(raw) if self.compressed else raw
        except (OSError, EOFError, zlib.error) as error:
            raise ConfigError(f"{self.path} cannot be read: {error}; is the download complete?") from None


@dataclass
class RowLog:
    """Rows that cannot become requests: bad ones (an error unless skipped) and failures (left out by definition)."""

    file: str
    rows_read: int = 0
    bad: dict[int, tuple[str, str]] = field(default_factory=dict)
    """Line -> (reason, message)."""
    left_out: dict[str, int] = field(default_factory=dict)

    def add(self, line: int, reason: str, message: str) -> None:
        """Record a bad row; the first reason found for a line stands."""
        self.bad.setdefault(line, (reason, message))

    def leave_out(self, reason: str, count: int = 1) -> None:
        """Count rows that are well formed but are no request to serve."""
        if count:
            self.left_out[reason] = self.left_out.get(reason, 0) + count

    def settle(self, skip_bad_rows: bool) -> dict[str, int]:
        """Dropped rows by reason; raises for bad rows unless they are to be skipped.

        Raises
        ------
        ConfigError
            Naming file and line of the first 20 bad rows, and the number of the others.
        """
        if self.bad and not skip_bad_rows:
            issues = IssueCollector(self.file)
            lines = sorted(self.bad)
            for line in lines[:SHOWN_ISSUES]:
                issues.add(self.bad[line][1], line=line, column=1)
            rest = f" ({len(lines) - SHOWN_ISSUES} more bad rows are not shown)" if len(lines) > SHOWN_ISSUES else ""
            last = Issue(
                self.file,
                0,
                0,
                "",
                f"{len(lines)} of {self.rows_read} rows are bad{rest}; correct them, or skip them with --skip-bad-rows",
            )
            raise ConfigError([*issues, last])
        dropped = dict(self.left_out)
        for reason, _ in self.bad.values():
            dropped[reason] = dropped.get(reason, 0) + 1
        return dropped


Reader = Callable[..., RequestTable]


@dataclass(frozen=True)
class TraceFormat:
    """A published trace format.

    Attributes
    ----------
    name, summary, source
        As in ``read_requests(format=...)``; what it holds; who publishes it.
    sniff
        Whether a file looks like it.
    read
        ``(file, skip_bad_rows, seed, **options) -> RequestTable``.
    options
        Names of the options it takes.
    """

    name: str
    summary: str
    source: str
    sniff: Callable[[TraceFile], bool]
    read: Reader
    options: tuple[str, ...]


FORMATS: dict[str, TraceFormat] = {}
"""Registered formats by name, in the order in which they are tried."""


def trace_format(
    name: str, source: str, sniff: Callable[[TraceFile], bool], options: tuple[str, ...] = ()
) -> Callable[[Reader], Reader]:
    """Decorator that registers a reader."""

    def enter(reader: Reader) -> Reader:
        summary = (reader.__doc__ or "").strip().split("\n", 1)[0]
        FORMATS[name] = TraceFormat(name, summary, source, sniff, reader, options)
        return reader

    return enter


def json_rows(file: TraceFile, log: RowLog) -> Iterator[tuple[int, dict[str, Any]]]:
    """Objects of a JSON Lines file with their line numbers; blank lines are skipped, others logged."""
    for line, text in enumerate(io.BytesIO(file.read()), start=1):
        if not text.strip():
            continue
        log.rows_read += 1
        try:
            row = json.loads(text)
        except ValueError as error:
            log.add(line, "not JSON", f"not a JSON object ({error}): {text[:60].decode(errors='replace').strip()!r}")
            continue
        if isinstance(row, dict):
            yield line, row
        else:
            log.add(line, "not JSON", "a line holds one JSON object")


def whole_number(log: RowLog, line: int, row: dict[str, Any], key: str, least: int = 0) -> int | None:
    """``row[key]`` if it is a whole number of at least ``least``; else it is logged and ``None``."""
    value = row.get(key)
    if isinstance(value, int) and not isinstance(value, bool) and value >= least:
        return value
    if key not in row:
        log.add(line, f"{key} missing", f"{key} is missing")
    else:
        log.add(line, f"bad {key}", f"{key} is {value!r}: write a whole number of at least {least}")
    return None


def build_table(
    file: TraceFile,
    log: RowLog,
    *,
    format: str,
    skip_bad_rows: bool,
    arrival: NDArray[np.float64],
    input_tokens: NDArray[Any],
    output_tokens: NDArray[Any],
    extra: dict[str, Any] | None = None,
    prefix_blocks: PrefixBlocks | None = None,
    prefix_block_tokens: int = 0,
    transforms: tuple[str, ...] = (),
    synthetic_fields: tuple[str, ...] = (),
    time_resolution_s: float | None = None,
    seed: int | None = None,
    zero: float | None = None,
) -> RequestTable:
    """A table from the good rows of a trace: put in order of arrival, time zero at ``zero`` or the first one.

    ``extra`` holds the optional columns by name; a ``parent`` column counts rows as they are given here.
    """
    dropped = log.settle(skip_bad_rows)
    if not len(arrival):
        wrong = f"no usable request in {log.rows_read} rows" if log.rows_read else "there is a header and no row"
        raise ConfigError([Issue(str(file.path), 0, 0, "", f"{wrong}: give one row per request")])
    notes = list(transforms)
    columns = {"arrival": arrival, "input_tokens": input_tokens, "output_tokens": output_tokens, **(extra or {})}
    late = int((np.diff(arrival) < 0).sum())
    if late:
        order = np.argsort(arrival, kind="stable")
        columns = {name: np.asarray(values)[order] for name, values in columns.items()}
        if "parent" in columns:
            place = np.append(np.argsort(order), -1)
            columns["parent"] = place[columns["parent"]]
        prefix_blocks = None if prefix_blocks is None else prefix_blocks.take(order)
        notes.append(f"sorted by time ({late} rows came before the one above)")
    if zero is None and columns["arrival"][0]:
        zero = float(columns["arrival"][0])
        notes.append(f"moved time zero to the first arrival ({zero:.6f} s)")
    if zero:
        columns["arrival"] = columns["arrival"] - zero
    return RequestTable(
        **columns,
        name=file.path.name,
        prefix_blocks=prefix_blocks,
        prefix_block_tokens=prefix_block_tokens,
        provenance=TraceProvenance(
            source=str(file.path),
            format=format,
            rows_read=log.rows_read,
            rows_emitted=len(arrival),
            dropped=dropped,
            transforms=tuple(notes),
            synthetic_fields=synthetic_fields,
            time_resolution_s=time_resolution_s,
            seed=seed,
        ),
    )
