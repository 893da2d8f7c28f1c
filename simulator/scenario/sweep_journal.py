"""The journal of a sweep: one line per finished point, so that a killed sweep goes on where it was.

An answer is found again by a key over everything it rests on: the scenario, the point, the depth, files that are
named, and the simulator's own code and data. A change of any of them computes anew; nothing stale is ever reused.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from simulator.data import data_root
from simulator.errors import ConfigError
from simulator.scenario.axes import alternatives

__all__ = ["JOURNAL", "Journal", "fingerprint", "point_key"]

JOURNAL = "points.jsonl"
_LOCK = ".lock"


@cache
def _own_state() -> str:
    """Hash of the simulator's code and shipped data."""
    digest = hashlib.sha256()
    package = Path(__file__).resolve().parents[1]
    folders = [package, *(data_root() / name for name in ("hardware_profiles", "workloads"))]
    for folder in folders:
        for path in sorted(p for p in folder.rglob("*") if p.suffix in (".py", ".csv", ".yaml", ".json")):
            digest.update(str(path.relative_to(folder)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def fingerprint(document: Mapping[str, Any], changes: tuple[str, ...], depth: str, base: Path | None) -> str:
    """What all points of a sweep rest on."""
    changed = [alternatives(text.partition("=")[2]) for text in changes]
    facts = [_own_state(), json.dumps(document, sort_keys=True), changes, depth, _files([document, changed], base)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def point_key(common: str, point: Mapping[str, Any], base: Path | None) -> str:
    """The key of one point: that of the sweep, its values, and the contents of files they name."""
    facts = [common, json.dumps(point, sort_keys=True), _files(point, base)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _files(value: Any, base: Path | None) -> list[str]:
    """Hashes of the files that texts in ``value`` name."""
    found = []
    for text in _texts(value):
        if ("/" in text or "." in text) and len(text) < 1000 and "\n" not in text:
            for path in (Path(text), *([base / text] if base is not None else [])):
                if path.is_file():
                    found.append(_hash_of(str(path.resolve()), path.stat().st_mtime_ns))
                    break
    return found


@cache
def _hash_of(path: str, changed: int) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


class Journal:
    """Answers by key, appended line by line; a line that a kill cut short is dropped.

    Used as a context: only one sweep at a time may write in a folder.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.answers: dict[str, dict[str, Any]] = {}
        self._file: Any = None
        self._lock: Any = None

    def __enter__(self) -> Journal:
        if self.folder is None:
            return self
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            self._read(self.folder / JOURNAL)
            self._file = (self.folder / JOURNAL).open("ab", buffering=0)
        except OSError as error:
            raise ConfigError(f"'{self.folder}' cannot be written: {error.strerror or error}") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in (self._file, self._lock):
            if file is not None:
                file.close()

    def add(self, key: str, answer: dict[str, Any]) -> dict[str, Any]:
        """Keep an answer, as it will be read again."""
        line = json.dumps({"key": key, **answer}, default=float)
        if self._file is not None:
            self._file.write(line.encode() + b"\n")
        self.answers[key] = json.loads(line)
        return self.answers[key]

    def _take_lock(self) -> None:
        assert self.folder is not None
        try:
            import fcntl
        except ImportError:  # no such locks on this system
            return
        self._lock = (self.folder / _LOCK).open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"another sweep is writing in '{self.folder}'") from None

    def _read(self, path: Path) -> None:
        if not path.is_file():
            return
        whole = 0
        with path.open("rb") as file:
            for line in file:
                try:
                    entry = json.loads(line) if line.endswith(b"\n") else None
                except ValueError:
                    entry = None
                if entry is None:
                    break
                self.answers[entry["key"]] = entry
                whole += len(line)
        if whole < path.stat().st_size:
            os.truncate(path, whole)
