"""Saving a result as a folder and loading it again, bit for bit; an interrupted save leaves nothing.

A run folder holds ``scenario.yaml`` (resolved), ``provenance.json``, one file per table (CSV, or Parquet for big
tables on request) and ``tables.json`` with the type of every column.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from simulator.errors import ConfigError
from simulator.results.sketch import QuantileSketch
from simulator.results.tables import TABLES, Columns, Result, _plain

__all__ = ["file_hashes", "load_result", "save_result"]

_MARK = "tables.json"
_BIG = 200_000
"""Rows above which Parquet pays: a CSV of a million requests takes seconds to write and to read."""


def file_hashes(files: Mapping[str, str]) -> dict[str, str]:
    """SHA-256 of the content of each file, by name of use."""
    return {name: hashlib.sha256(Path(path).read_bytes()).hexdigest() for name, path in sorted(files.items())}


def save_result(result: Result, folder: str | Path, *, parquet: bool = False, replace: bool = True) -> Path:
    """Write a result as a folder.

    Everything is written beside it first and renamed at the end, so that a reader (or Ctrl-C) sees the whole run or
    nothing. The same result gives the same bytes.

    Parameters
    ----------
    folder
        Where; an earlier run there is replaced, any other folder is not.
    parquet
        Write tables of more than 200,000 rows as Parquet (needs pyarrow) instead of CSV.

    Raises
    ------
    ConfigError
        If the folder exists and is not a saved run, cannot be written, or pyarrow is missing.
    """
    target = Path(folder)
    if target.exists() and not (target / _MARK).is_file() and not (target.is_dir() and not any(target.iterdir())):
        raise ConfigError(f"'{target}' exists and is not a saved run: choose another folder")
    if target.exists() and not replace and any(target.iterdir()):
        raise ConfigError(f"'{target}' holds a run already: choose another folder")
    if parquet:
        _need_pyarrow()
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    try:
        partial.mkdir(parents=True)
        _write(result, partial, parquet)
        if target.exists():
            target.rename(old)
        partial.rename(target)
    except OSError as error:
        raise ConfigError(f"'{target}' cannot be written: {error.strerror or error}") from None
    finally:
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return target


def _need_pyarrow() -> None:
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise ConfigError("Parquet needs pyarrow: pip install 'fmsim[parquet]', or save as CSV") from None


def _write(result: Result, folder: Path, parquet: bool) -> None:
    import yaml

    types: dict[str, dict[str, str]] = {}
    for name in TABLES:
        columns = result.tables.get(name)
        if not columns:
            continue
        plain = {key: _plain(values) for key, values in columns.items()}
        types[name] = {key: _type_of(values) for key, values in plain.items()}
        if parquet and len(next(iter(plain.values()))) > _BIG:
            import pyarrow as pa
            import pyarrow.parquet as pq

            pq.write_table(pa.table(plain), folder / f"{name}.parquet")
        else:
            _write_csv(folder / f"{name}.csv", plain, types[name])
    _write_json(folder / _MARK, types)
    _write_json(folder / "provenance.json", {**result.provenance, "warnings": list(result.warnings)})
    if result.sketches:
        _write_json(folder / "sketches.json", {k: s.to_dict() for k, s in sorted(result.sketches.items())})
    text = yaml.safe_dump(_to_plain(result.document), sort_keys=False, allow_unicode=True, width=120)
    (folder / "scenario.yaml").write_text(text, encoding="utf-8")


def _to_plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _to_plain(v) for k, v in value.items()}
    return [_to_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=True) + "\n", encoding="utf-8")


def _type_of(values: Sequence[Any]) -> str:
    kinds = {type(v) for v in values}
    if kinds <= {bool}:
        return "bool"
    if kinds <= {int}:
        return "int"
    return "float" if kinds <= {int, float, bool} else "str"


def _write_csv(path: Path, columns: Mapping[str, list[Any]], types: Mapping[str, str]) -> None:
    # repr of a float is the shortest text that reads back to the same bits.
    texts = [list(map(repr, map(float, v))) if types[k] == "float" else v for k, v in columns.items()]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*texts, strict=True))


def load_result(folder: str | Path) -> Result:
    """Read a saved run.

    Raises
    ------
    ConfigError
        If there is no saved run at ``folder``, or a file of it is missing or damaged.
    """
    path = Path(folder)
    if not (path / _MARK).is_file():
        raise ConfigError(f"'{path}' is not a saved run (it has no {_MARK}); 'fmsim run SCENARIO -o {path}' makes one")
    try:
        return _read(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"the saved run '{path}' is damaged: {error}") from None


def _read(path: Path) -> Result:
    from simulator.yaml_marks import load_yaml

    types = json.loads((path / _MARK).read_text(encoding="utf-8"))
    provenance = json.loads((path / "provenance.json").read_text(encoding="utf-8"))
    warnings = tuple(provenance.pop("warnings", ()))
    sketches = {}
    if (path / "sketches.json").is_file():
        stored = json.loads((path / "sketches.json").read_text(encoding="utf-8"))
        sketches = {k: QuantileSketch.from_dict(v) for k, v in stored.items()}
    tables = {name: _read_table(path, name, columns) for name, columns in types.items()}
    scenario = path / "scenario.yaml"
    document = load_yaml(scenario).to_plain() if scenario.stat().st_size else {}
    return Result(tables, document, provenance, warnings, sketches)


def _read_table(path: Path, name: str, types: Mapping[str, str]) -> Columns:
    packed = path / f"{name}.parquet"
    if packed.is_file():
        _need_pyarrow()
        import pyarrow.parquet as pq

        columns: dict[str, list[Any]] = pq.read_table(packed).to_pydict()
        return columns
    with (path / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        reader = csv.reader(file)
        header = next(reader)
        rows = list(reader)
    if header != list(types):
        raise ValueError(f"columns of {name}.csv differ from {_MARK}")
    read: dict[str, Any] = {"float": float, "int": int, "str": str, "bool": lambda text: text == "True"}
    texts = list(zip(*rows, strict=True)) or [()] * len(header)
    return {key: list(map(read[types[key]], values)) for key, values in zip(header, texts, strict=True)}
