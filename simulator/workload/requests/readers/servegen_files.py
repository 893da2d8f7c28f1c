"""The files of a ServeGen archive: ``chunk-N-trace.csv`` and ``chunk-N-dataset.json`` of each client."""

from __future__ import annotations

import json
import math
import re
import tarfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.errors import ConfigError
from simulator.workload.requests.readers.base import RowLog

__all__ = ["Client", "LengthTable", "Window", "load_clients"]

_MEMBER = re.compile(r"chunk-(\d+)-(trace\.csv|dataset\.json)$")
_WINDOW_S = 600.0
_MODALITIES = ("image", "audio", "video")


@dataclass(frozen=True)
class Window:
    """Ten minutes of a client: rate [req/s], and family and shape of its gaps."""

    start: float
    end: float
    rate: float
    family: str
    shape: float


@dataclass(frozen=True)
class Discrete:
    """A finite law: values and cumulative probabilities."""

    values: NDArray[np.float64]
    cumulative: NDArray[np.float64]

    def sample(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        """Values drawn by inversion."""
        place = np.searchsorted(self.cumulative, rng.random(count), side="right")
        return self.values[place].astype(np.int64)


@dataclass(frozen=True)
class LengthTable:
    """The length of requests from ``start`` [s] on: a base plus, per modality, items × tokens per item."""

    start: float
    base: Discrete
    items: tuple[tuple[Discrete, Discrete], ...] = ()

    def sample(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        """``count`` lengths [tokens]."""
        total = self.base.sample(rng, count)
        for number, tokens in self.items:
            total += number.sample(rng, count) * tokens.sample(rng, count)
        return total


@dataclass
class Client:
    """One client: its windows in order, its length tables in order (empty where none were published)."""

    number: int
    windows: list[Window] = field(default_factory=list)
    inputs: list[LengthTable] = field(default_factory=list)
    outputs: list[LengthTable] = field(default_factory=list)
    multimodal: bool = False

    def expected(self, start: float, end: float) -> float:
        """Expected requests in [start, end) [s]."""
        return sum(w.rate * max(min(w.end, end) - max(w.start, start), 0.0) for w in self.windows)


def load_clients(path: Path, start: float, end: float, log: RowLog) -> list[Client]:
    """Clients with at least one window in [start, end); their rows are logged, bad ones left out."""
    clients: dict[int, Client] = {}
    datasets: dict[int, bytes] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                match = _MEMBER.search(member.name)
                content = archive.extractfile(member) if match else None
                if match is None or content is None:
                    continue
                number = int(match[1])
                if match[2] == "dataset.json":
                    datasets[number] = content.read()
                    continue
                windows = list(_windows(content.read().decode(), member.name, start, end, log))
                if windows:
                    clients[number] = Client(number, windows)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{path} cannot be read: {error}; is the download complete?") from None
    for number, client in clients.items():
        if number in datasets and client.expected(start, end) > 0:
            _add_tables(client, datasets[number], start, end, f"{path}: chunk-{number}-dataset.json")
    return [clients[n] for n in sorted(clients)]


def _windows(text: str, name: str, start: float, end: float, log: RowLog) -> list[Window]:
    """Rows ``start, rate, CV, family, shape, scale`` (no header) that overlap [start, end)."""
    result: list[Window] = []
    for line, row in enumerate(text.splitlines(), start=1):
        cells = row.split(",")
        log.rows_read += 1
        key = -log.rows_read  # lines of different members must not hide one another
        try:
            begin, rate, _, family, shape = float(cells[0]), float(cells[1]), cells[2], cells[3], float(cells[4])
        except (ValueError, IndexError):
            log.add(key, "bad window", f"{name}:{line}: not 'start,rate,cv,family,shape,scale': {row[:60]!r}")
            continue
        quiet = rate == 0
        known = family in ("Gamma", "Weibull") and shape > 0
        if not (0 <= rate < math.inf) or not (quiet or known):
            log.add(key, "bad window", f"{name}:{line}: rate {rate}, family '{family}', shape {shape} are no gap law")
        elif begin < end and begin + _WINDOW_S > start:
            result.append(Window(begin, begin + _WINDOW_S, rate, family, shape))
    return sorted(result, key=lambda w: w.start)


def _add_tables(client: Client, content: bytes, start: float, end: float, where: str) -> None:
    """Length tables in force in [start, end): from the last one that begins before it, or else the first."""
    data: dict[str, dict[str, Any]] = json.loads(content)
    begins = sorted((float(key), key) for key in data)
    first = max((b for b, _ in begins if b <= start), default=begins[0][0] if begins else 0.0)
    for begin, key in begins:
        if begin < first or (begin >= end and begin > first):
            continue
        fields = {name: _discrete(text, f"{where}: {key}.{name}") for name, text in data[key].items()}
        base = fields.get("input_tokens") or fields.get("text_tokens")
        output = fields.get("output_tokens")
        if base is None or output is None:
            continue
        items = tuple(
            (number, tokens)
            for m in _MODALITIES
            if (number := fields.get(f"{m}_count")) is not None and (tokens := fields.get(f"{m}_tokens")) is not None
        )
        client.multimodal |= bool(items)
        client.inputs.append(LengthTable(begin, base, items))
        client.outputs.append(LengthTable(begin, output))


def _discrete(text: str, where: str) -> Discrete | None:
    """``"{value: probability, ...}"`` as a law; ``None`` where it has no mass.

    The tables have up to 10,000 entries; turning them into one list of numbers is 20 times faster than a parser
    of Python literals.
    """
    numbers = text.strip().strip("{}").replace(":", ",").split(",")
    try:
        pairs = np.array(numbers, dtype=np.float64).reshape(-1, 2) if numbers != [""] else np.empty((0, 2))
    except ValueError:
        raise ConfigError(f"{where}: not a table {{value: probability}}") from None
    pairs = pairs[pairs[:, 1] > 0]
    if not len(pairs):
        return None
    cumulative = np.cumsum(pairs[:, 1]) / pairs[:, 1].sum()
    cumulative[-1] = 1.0
    return Discrete(pairs[:, 0], cumulative)
