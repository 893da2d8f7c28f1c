"""Recognises measurement files by their keys or header and hands them to their reader."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from simulator.errors import ConfigError, Issue
from simulator.validation.cases import Reading
from simulator.validation.read_steps import is_step_trace, read_steps
from simulator.validation.records import tidy

__all__ = ["measurement_files", "read_file"]

SUFFIXES = (".yaml", ".yml", ".csv", ".csv.gz", ".parquet")


def measurement_files(paths: Sequence[str | Path]) -> list[Path]:
    """The files themselves, and every file of a known format below the folders.

    Raises
    ------
    ConfigError
        If a path does not exist.
    """
    found, missing = list[Path](), list[Issue]()
    for given in map(Path, paths):
        if given.is_dir():
            below = sorted(p for p in given.rglob("*") if p.is_file() and p.name.endswith(SUFFIXES))
            found += [p for p in below if _recognised(p)]
        elif given.is_file():
            found.append(given)
        else:
            missing.append(Issue("", 0, 0, "", f"there is no file or folder '{given}'"))
    if missing:
        raise ConfigError(missing)
    return list(dict.fromkeys(found))


def read_file(path: Path) -> Reading:
    """Cases of one file.

    Raises
    ------
    ConfigError
        If its format is not known.
    """
    if path.suffix in (".yaml", ".yml"):
        return _read_yaml(path)
    if path.name.endswith((".csv", ".csv.gz")):
        return _read_csv(path)
    if path.suffix == ".parquet" and is_step_trace(path):
        return read_steps(path)
    raise ConfigError(
        f"{path.name}: expected a YAML or CSV file of measurements, or a trace of training steps; "
        "see docs/validation.md for the formats"
    )


def _read_yaml(path: Path) -> Reading:
    import yaml

    try:
        data = yaml.load(_text(path), Loader=yaml.CSafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        raise ConfigError([Issue(str(path), line, column, "", f"no YAML: {error.problem}")]) from None
    except yaml.YAMLError as error:
        raise ConfigError([Issue(str(path), 0, 0, "", f"no YAML: {error}")]) from None
    if isinstance(data, Mapping) and "runs" in data:
        from simulator.validation.read_training import read_training_file

        _check_shapes(data, path, list, set(data) - {"meta", "flops_formulas"})
        return read_training_file(data, path.name)
    if isinstance(data, Mapping) and "entries" in data and "models" in data:
        from simulator.validation.read_serving import read_serving_file

        _check_shapes(data, path, list, {"entries"})
        _check_shapes(data, path, dict, {"models"})
        return read_serving_file(data, path.name)
    raise ConfigError(f"{path.name}: neither 'runs' (training) nor 'entries' with 'models' (serving) at top level")


def _check_shapes(
    data: Mapping[str, Any], path: Path, shape: type[list[Any]] | type[dict[str, Any]], keys: set[str]
) -> None:
    """Sections must be lists of records, models a mapping; empty ones may be nothing."""
    words = "a list of records" if shape is list else "a mapping of names to dimensions"
    wrong = [k for k in sorted(keys) if data[k] is not None and not isinstance(data[k], shape)]
    if wrong:
        raise ConfigError([Issue(str(path), 0, 0, k, f"must be {words}") for k in wrong])


def _text(path: Path) -> str:
    """Text of a file, packed or not, whatever its name says and with or without a mark of its byte order.

    Raises
    ------
    ConfigError
        If it is no text, or broken.
    """
    try:
        raw = path.read_bytes()
        return (gzip.decompress(raw) if raw.startswith(GZIP) else raw).decode("utf-8-sig")
    except (UnicodeDecodeError, EOFError, OSError, zlib.error) as error:
        raise ConfigError([Issue(str(path), 0, 0, "", f"cannot be read as text: {error}")]) from None


GZIP = b"\x1f\x8b"
"""First bytes of a packed file."""


def table(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV, packed or not, with tidy cells.

    Raises
    ------
    ConfigError
        If it is no text.
    """
    return [tidy(row) for row in csv.DictReader(io.StringIO(_text(path), newline=""))]


def _header(path: Path) -> frozenset[str]:
    with path.open("rb") as file:
        packed = file.read(len(GZIP)) == GZIP
    try:
        with gzip.open(path, "rb") if packed else path.open("rb") as lines:
            first = lines.readline(LONGEST_HEADER).decode("utf-8-sig")
    except (UnicodeDecodeError, EOFError, OSError, zlib.error):
        return frozenset()
    return frozenset(name.strip() for name in chain.from_iterable(csv.reader([first.rstrip("\r\n")])))


LONGEST_HEADER = 1 << 16
"""No header is longer [B]."""


def _table_readers() -> list[tuple[frozenset[str], Any]]:
    from simulator.validation import read_inferencex, read_tables, read_traces, read_vidur

    def training(make: Any) -> Any:
        return lambda path: read_tables.read_table(table(path), make, path.name)

    readers: list[tuple[frozenset[str], Any]] = [(columns, training(make)) for columns, make in read_tables.TABLES]
    readers.append((read_inferencex.COLUMNS, lambda path: read_inferencex.read_runs(table(path), path.name)))
    readers.append((read_vidur.COLUMNS, lambda path: read_vidur.read_summary(table(path), path)))
    readers += [(columns, lambda path, read=read: read(table(path), path)) for columns, read in read_traces.READERS]
    return readers


def _recognised(path: Path) -> bool:
    if path.suffix in (".yaml", ".yml"):
        try:
            return bool(re.search(r"^(runs|entries):", _text(path), re.MULTILINE))
        except ConfigError:
            return False
    if path.suffix == ".parquet":
        return is_step_trace(path)
    header = _header(path)
    return any(columns <= header for columns, _ in _table_readers())


def _read_csv(path: Path) -> Reading:
    header = _header(path)
    for columns, read in _table_readers():
        if columns <= header:
            reading: Reading = read(path)
            return reading
    if not header:
        raise ConfigError([Issue(str(path), 0, 0, "", "has no header" if _text(path).strip() else "is empty")])
    nearest = max((columns for columns, _ in _table_readers()), key=lambda columns: len(columns & header))
    lacking = f"; {', '.join(sorted(nearest - header))} missing for the nearest" if nearest & header else ""
    raise ConfigError(f"{path.name}: no known format has the columns {', '.join(sorted(header))}{lacking}")
