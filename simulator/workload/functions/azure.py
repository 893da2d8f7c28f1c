"""Function traces of Azure (https://github.com/Azure/AzurePublicDataset, CC BY 4.0): schemas of 2019 and 2021.

2019 (Shahrad et al., USENIX ATC 2020): one file per day with 1,440 counts per function, one with percentiles of the
durations (milliseconds, cold starts not included) and one with the memory of every application. Calls are spread evenly
at random within their minute, durations drawn from the percentiles by linear interpolation.
2021 (Zhang et al., SOSP 2021): one row per call with its end and its duration in seconds.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simulator.errors import ConfigError, Issue, IssueCollector
from simulator.workload.functions.table import FunctionTable, by_arrival

__all__ = ["DURATIONS", "INVOCATIONS", "MEMORY", "read_calls", "write_azure_2019"]

INVOCATIONS, DURATIONS, MEMORY = (
    "invocations_per_function_md.anon.d{:02}.csv", "function_durations_percentiles.anon.d{:02}.csv",
    "app_memory_percentiles.anon.d{:02}.csv",
)  # fmt: skip
MINUTES = 1440
PERCENTILES = (0, 1, 25, 50, 75, 99, 100)
MEGABYTE = 2.0**20
DAY = 86400.0
MOST_ISSUES = 20
DEFAULT_DURATION = 1.0
"""Of a function without a row of durations [s]: those of rare functions are missing; assumed."""


def read_calls(path: str | Path, seed: int = 0, days: int | None = None) -> FunctionTable:
    """Calls of a trace: a folder or day file of 2019, or a file of 2021.

    Parameters
    ----------
    seed
        Of places within minutes and of durations (2019).
    days
        Of a folder of 2019, the first so many; all by default.

    Raises
    ------
    ConfigError
        If there is no such file, it has neither schema, or rows are bad: the first 20 are named by file and line.
    """
    given = Path(path)
    if given.is_dir():
        files = sorted(p for p in given.iterdir() if p.name.startswith("invocations_per_function_md.anon.d"))
        if not files:
            raise ConfigError(f"'{path}' holds no file {INVOCATIONS.format(1)} of the Azure Functions trace of 2019")
        return _read_2019(files[:days], seed)
    if not given.is_file():
        raise ConfigError(f"there is no function trace '{path}'")
    header = next(_rows(given), (1, []))[1]
    if {"app", "func", "end_timestamp", "duration"} <= set(header):
        return _read_2021(given)
    if {"HashFunction", "Trigger", "1", str(MINUTES)} <= set(header):
        return _read_2019([given], seed)
    raise ConfigError(
        f"'{path}' is no function trace: it needs the columns app, func, end_timestamp, duration (Azure 2021) or "
        f"HashOwner, HashApp, HashFunction, Trigger, 1 ... {MINUTES} (Azure 2019), and has {', '.join(header[:6])}"
    )


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Lines with their numbers, packed or not; the header first."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        yield from enumerate(csv.reader(file), start=1)


class _Bad:
    """Collects bad rows of a file."""

    def __init__(self) -> None:
        self.issues, self.count = IssueCollector(), 0

    def add(self, path: Path, line: int, message: str) -> None:
        self.count += 1
        if self.count <= MOST_ISSUES:
            self.issues.extend([Issue(path.name, line, 1, "", message)])

    def raise_if_any(self) -> None:
        if self.count > MOST_ISSUES:
            self.issues.add(f"and {self.count - MOST_ISSUES} more bad rows")
        self.issues.raise_if_any()


def _read_2021(path: Path) -> FunctionTable:
    rows, bad = _rows(path), _Bad()
    header = next(rows)[1]
    at = {name: header.index(name) for name in ("app", "func", "end_timestamp", "duration")}
    numbers: dict[tuple[str, str], int] = {}
    function, ends, durations = list[int](), list[float](), list[float]()
    for line, row in rows:
        if not row:
            continue
        try:
            end, seconds = float(row[at["end_timestamp"]]), float(row[at["duration"]])
        except (ValueError, IndexError):
            bad.add(path, line, "needs numbers in end_timestamp and duration")
            continue
        if not (seconds >= 0 and np.isfinite(end)):
            bad.add(path, line, f"a duration of {seconds:g} s or an end of {end:g} s is impossible")
            continue
        key = row[at["app"]], row[at["func"]]
        function.append(numbers.setdefault(key, len(numbers)))
        ends.append(end)
        durations.append(seconds)
    bad.raise_if_any()
    arrival = np.asarray(ends) - np.asarray(durations)
    arrival -= arrival.min(initial=np.inf) if len(arrival) else 0.0
    return by_arrival(
        arrival, np.asarray(function, np.int64), np.asarray(durations), [f"{a[:8]}/{f[:8]}" for a, f in numbers],
        [a[:8] for a, _ in numbers], np.zeros(len(numbers)), path.name,
    )  # fmt: skip


Key = tuple[str, str, str]


def _read_2019(files: list[Path], seed: int) -> FunctionTable:
    random, bad = np.random.Generator(np.random.PCG64(seed)), _Bad()
    numbers: dict[Key, int] = {}
    parts: list[tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]] = []
    memory: dict[tuple[str, str], float] = {}
    for day, path in enumerate(files):
        durations = _percentiles(_beside(path, "function_durations_percentiles.anon."), bad)
        memory = {**_memory(_beside(path, "app_memory_percentiles.anon."), bad), **memory}
        for key, counts in _counts(path, bad):
            number, total = numbers.setdefault(key, len(numbers)), int(counts.sum())
            minutes = np.repeat(np.arange(MINUTES), counts)
            arrival = day * DAY + 60.0 * (minutes + random.random(total))
            law = durations.get(key)
            drawn = np.full(total, DEFAULT_DURATION)
            if law is not None:
                drawn = np.interp(random.random(total), np.array(PERCENTILES) / 100.0, law)
            parts.append((arrival, np.full(total, number, np.int64), drawn))
    bad.raise_if_any()
    if not parts:
        raise ConfigError(f"{files[0].name} has no calls")
    owners, names = [k[0][:8] for k in numbers], [f"{k[1][:8]}/{k[2][:8]}" for k in numbers]
    sizes = np.array([memory.get((k[0], k[1]), 0.0) for k in numbers])
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return by_arrival(columns[0], columns[1].astype(np.int64), columns[2], names, owners, sizes, files[0].name)


def _beside(path: Path, start: str) -> Path | None:
    """The file of the same day with other facts."""
    day = path.name.split(".anon.")[-1]
    found = path.with_name(start + day)
    return found if found.is_file() else None


def _counts(path: Path, bad: _Bad) -> Iterator[tuple[Key, NDArray[np.int64]]]:
    rows = _rows(path)
    header = next(rows)[1]
    first = header.index("1")
    for line, row in rows:
        try:
            counts = np.array(row[first : first + MINUTES], np.int64)
        except ValueError:
            bad.add(path, line, "needs whole numbers of calls in every minute")
            continue
        if len(counts) != MINUTES or (counts < 0).any():
            bad.add(path, line, f"needs {MINUTES} counts from 0 on, has {len(counts)}")
        elif counts.any():
            yield (row[0], row[1], row[2]), counts


def _percentiles(path: Path | None, bad: _Bad) -> dict[Key, NDArray[np.float64]]:
    """Percentiles of the durations [s] by function."""
    found: dict[Key, NDArray[np.float64]] = {}
    if path is None:
        return found
    rows = _rows(path)
    header = next(rows)[1]
    at = [header.index(f"percentile_Average_{p}") for p in PERCENTILES]
    for line, row in rows:
        try:
            law = np.array([float(row[i]) for i in at]) * 1e-3
        except (ValueError, IndexError):
            bad.add(path, line, "needs numbers in every percentile")
            continue
        found[row[0], row[1], row[2]] = np.maximum.accumulate(np.maximum(law, 0.0))
    return found


def _memory(path: Path | None, bad: _Bad) -> dict[tuple[str, str], float]:
    """Mean memory [B] by application."""
    found: dict[tuple[str, str], float] = {}
    if path is None:
        return found
    rows = _rows(path)
    at = next(rows)[1].index("AverageAllocatedMb")
    for line, row in rows:
        try:
            found[row[0], row[1]] = float(row[at]) * MEGABYTE
        except (ValueError, IndexError):
            bad.add(path, line, "needs a number in AverageAllocatedMb")
    return found


def write_azure_2019(table: FunctionTable, folder: str | Path) -> list[Path]:
    """Write calls in the schema of 2019, a set of files per day; reading them back keeps every count by minute.

    Durations keep the percentiles of the schema only, and owner and application of a function are both its owner.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for day in range(int(table.span // DAY) + 1):
        here = (table.arrival >= day * DAY) & (table.arrival < (day + 1) * DAY)
        minute = ((table.arrival[here] - day * DAY) // 60).astype(np.int64)
        rows, laws = list[list[object]](), list[list[object]]()
        for number in np.unique(table.function[here]):
            mine = table.function[here] == number
            key = [table.owners[number], table.owners[number], table.names[number]]
            rows.append([*key, "others", *np.bincount(minute[mine], minlength=MINUTES).tolist()])
            ms = table.duration[here][mine] * 1e3
            ends = [float(ms.mean()), len(ms), float(ms.min()), float(ms.max())]
            laws.append([*key, *ends, *(float(np.percentile(ms, p)) for p in PERCENTILES)])
        head = ["HashOwner", "HashApp", "HashFunction"]
        minutes = [str(m) for m in range(1, MINUTES + 1)]
        shares = [f"percentile_Average_{p}" for p in PERCENTILES]
        for name, header, lines in (
            (INVOCATIONS, [*head, "Trigger", *minutes], rows),
            (DURATIONS, [*head, "Average", "Count", "Minimum", "Maximum", *shares], laws),
        ):
            path = target / name.format(day + 1)
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerows([header, *lines])
            written.append(path)
    return written
