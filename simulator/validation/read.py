"""Recognises measurement files by their keys or header and hands them to their reader."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from simulator.errors import ConfigError
from simulator.validation.cases import Reading
from simulator.validation.read_steps import is_step_trace, read_steps

__all__ = ["measurement_files", "read_file"]

SUFFIXES = (".yaml", ".yml", ".csv", ".csv.gz", ".parquet")


def measurement_files(paths: Sequence[str | Path]) -> list[Path]:
    """The files themselves, and every file of a known format below the folders.

    Raises
    ------
    ConfigError
        If a path does not exist.
    """
    found: list[Path] = []
    for given in map(Path, paths):
        if given.is_dir():
            below = sorted(p for p in given.rglob("*") if p.is_file() and p.name.endswith(SUFFIXES))
            found += [p for p in below if _recognised(p)]
        elif given.is_file():
            found.append(given)
        else:
            raise ConfigError(f"there is no file or folder '{given}'")
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

    data = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    if isinstance(data, Mapping) and "runs" in data:
        from simulator.validation.read_training import read_training_file

        return read_training_file(data, path.name)
    if isinstance(data, Mapping) and "entries" in data and "models" in data:
        from simulator.validation.read_serving import read_serving_file

        return read_serving_file(data, path.name)
    raise ConfigError(f"{path.name}: neither 'runs' (training) nor 'entries' with 'models' (serving) at top level")


def table(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV, packed or not."""
    raw = gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes()
    return list(csv.DictReader(io.StringIO(raw.decode("utf-8"))))


def _header(path: Path) -> frozenset[str]:
    packed = path.name.endswith(".gz")
    with gzip.open(path, "rt", encoding="utf-8") if packed else path.open(encoding="utf-8") as file:
        return frozenset(next(csv.reader(file), ()))


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
        start = path.read_text(encoding="utf-8")
        return "\nruns:" in start or "\nentries:" in start
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
    raise ConfigError(f"{path.name}: no known format has the columns {', '.join(sorted(header))}")
