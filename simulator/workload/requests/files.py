"""Named request workloads: ``workloads/requests/*.yaml``, and one door to all sources of requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from simulator import data
from simulator.errors import ConfigError, IssueCollector, unknown_name
from simulator.units import UnitError, parse_quantity
from simulator.workload.requests.arrivals import ArrivalSpec
from simulator.workload.requests.documents import DocumentLaw, generate_with_documents
from simulator.workload.requests.generators import generate_requests
from simulator.workload.requests.lengths import LengthSpec
from simulator.workload.requests.mixes import Part, merged
from simulator.workload.requests.readers import read_requests, recognise
from simulator.workload.requests.sessions import SessionLaw, generate_sessions
from simulator.workload.requests.specs import (
    parse_arrival,
    parse_documents,
    parse_length,
    parse_mix,
    parse_sessions,
)
from simulator.workload.requests.table import RequestTable

__all__ = ["RequestWorkload", "load_requests", "load_workload", "workload_names"]

FOLDER = "workloads/requests"
_KEYS = (
    "name", "description", "source", "assumes", "arrival", "input_tokens", "output_tokens", "count", "duration",
    "trace", "format", "options", "published", "tolerance", "sessions", "documents", "mix", "rate",
)  # fmt: skip


@dataclass(frozen=True)
class RequestWorkload:
    """What a request workload file says: laws to generate from, or a trace to read.

    Attributes
    ----------
    name, description, source, assumes
        What it stands for, where its figures were read, and what had to be assumed.
    arrival, input_tokens, output_tokens
        Laws; ``None`` when a trace is read.
    count, duration
        Default extent: requests, or time [s].
    sessions, documents
        Turns that follow one another, or text that prompts share; ``arrival`` and ``count`` are then those of sessions,
        ``input_tokens`` what a turn or request adds.
    mix, rate
        Tenants with a share each of a common rate [req/s] instead of laws.
    trace, format, options
        The trace file, its format, and options of that format.
    published
        Statistic (a key of :meth:`RequestTable.statistics`) -> published value.
    tolerance
        Statistic -> how far the generated one may be from it, relative; ``default`` for the others.
    """

    name: str
    description: str = ""
    source: str = ""
    assumes: tuple[str, ...] = ()
    arrival: ArrivalSpec | None = None
    input_tokens: LengthSpec | None = None
    output_tokens: LengthSpec | None = None
    count: int | None = None
    duration: float | None = None
    trace: Path | None = None
    format: str = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)
    published: Mapping[str, float] = field(default_factory=dict)
    tolerance: Mapping[str, float] = field(default_factory=dict)
    sessions: SessionLaw | None = None
    documents: DocumentLaw | None = None
    mix: tuple[Part, ...] = ()
    rate: float | None = None


def workload_names() -> list[str]:
    """Names of the shipped request workloads."""
    return data.names(FOLDER)


def load_requests(
    name_or_path: str | Path,
    seed: int = 0,
    rate: float | None = None,
    duration: float | None = None,
    count: int | None = None,
    skip_bad_rows: bool = False,
    concurrency: int | None = None,
) -> RequestTable:
    """Requests from a shipped workload, a workload file, or a trace file.

    Parameters
    ----------
    name_or_path
        A name of :func:`workload_names`, the path of a YAML file like the shipped ones, or of a trace.
    seed
        Of everything that is drawn.
    rate
        Mean arrival rate [req/s]: time is scaled, the lengths and the shape of the arrivals stay.
    duration, count
        End after this time [s] of the scaled arrivals, or this many requests. A generator without either runs
        to the extent its file names; a trace to its end.
    skip_bad_rows
        Go on without the bad rows of a trace, and count them.
    concurrency
        Ignore arrival times, and keep this many requests in flight.

    Raises
    ------
    ConfigError
        If there is no such workload, its file or trace is wrong, or a trace has fewer than ``count`` requests.
    """
    path = Path(name_or_path)
    is_yaml = path.suffix in {".yaml", ".yml"}
    if not is_yaml and path.is_file():
        return _from_trace(
            RequestWorkload(path.name, trace=path), seed, rate, duration, count, skip_bad_rows, concurrency
        )
    if not is_yaml and (path.parent != Path() or path.suffix in {".csv", ".gz", ".jsonl"}):
        raise ConfigError(f"there is no trace file '{name_or_path}'")
    workload = load_workload(name_or_path)
    if workload.trace is not None:
        return _from_trace(workload, seed, rate, duration, count, skip_bad_rows, concurrency)
    if duration is None and count is None:
        duration, count = workload.duration, workload.count
    table = _mixed(workload, seed, rate, duration, count) if workload.mix else None
    table = table or _generated(workload, seed, rate, duration, count)
    return table if concurrency is None else table.closed_loop(concurrency)


def _generated(
    workload: RequestWorkload, seed: int, rate: float | None, duration: float | None, count: int | None
) -> RequestTable:
    """Draw from the laws of a workload."""
    arrival, inputs, outputs = workload.arrival, workload.input_tokens, workload.output_tokens
    if arrival is None or inputs is None or outputs is None:
        raise ConfigError(f"'{workload.name}' has neither a trace nor laws of arrival and length")
    if rate is not None:
        arrival = arrival.with_rate(rate)
    if workload.sessions is not None:
        table = generate_sessions(arrival, workload.sessions, inputs, outputs, duration, count, seed)
        return replace(table, name=workload.name)
    if workload.documents is not None:
        return generate_with_documents(
            arrival, workload.documents, inputs, outputs, duration, count, seed, workload.name
        )
    return generate_requests(arrival, inputs, outputs, duration, count, seed, workload.name)


def _mixed(
    workload: RequestWorkload, seed: int, rate: float | None, duration: float | None, count: int | None
) -> RequestTable:
    """Every tenant's workload at its share of the rate, for as long as ``count`` requests take together."""
    total = rate if rate is not None else workload.rate
    if total is None:
        raise ConfigError(f"'{workload.name}' is a mix of workloads and needs a 'rate'")
    assert duration is not None or count is not None
    until = duration if duration is not None else 1.5 * (count or 1) / total + 60.0
    tables = [
        load_requests(part.workload, seed + number, total * part.share, until)
        for number, part in enumerate(workload.mix)
    ]
    table = merged(tables, workload.mix, workload.name)
    return table if count is None else table.head(count)


def _from_trace(
    workload: RequestWorkload,
    seed: int,
    rate: float | None,
    duration: float | None,
    count: int | None,
    skip_bad_rows: bool,
    concurrency: int | None,
) -> RequestTable:
    """Read, then scale, then cut: a duration is of the scaled time."""
    assert workload.trace is not None
    if duration is None and count is None:
        duration, count = workload.duration, workload.count
    found = recognise(workload.trace, workload.format)
    options = dict(workload.options)
    # A format that draws its requests draws them at the wanted rate and as long as wanted.
    if duration is not None and "duration" in found.options:
        options["duration"] = duration
    if rate is not None and "rate" in found.options:
        options["rate"] = rate
    table = read_requests(workload.trace, found.name, skip_bad_rows, seed, **options)
    if rate is not None and "rate" not in found.options:
        table = table.with_rate(rate)
    if duration is not None:
        table = table.window(0.0, duration)
    if count is not None:
        if count > len(table):
            raise ConfigError(
                f"{count} requests are wanted, but {workload.trace} has {len(table)}: "
                "lower the count, or generate requests like its own from a workload file"
            )
        table = table.head(count)
    return table if concurrency is None else table.closed_loop(concurrency)


def load_workload(name_or_path: str | Path) -> RequestWorkload:
    """Read a workload file; every mistake in it is reported at once with its line.

    Raises
    ------
    ConfigError
        If there is no such file or it is wrong.
    """
    path = data.find_file(FOLDER, str(name_or_path), "request workload")
    issues = IssueCollector(str(path))
    document, marks = _read_yaml(path, issues)
    issues.raise_if_any()

    def report(where: str, message: str) -> None:
        known = where
        while known and known not in marks:
            known = known.rpartition(".")[0]
        line, column = marks.get(known, (1, 1))
        issues.add(message, where, line, column)

    workload = _workload(path, document, report)
    issues.raise_if_any()
    return workload


def _workload(path: Path, document: dict[str, Any], report: Any) -> RequestWorkload:
    for key in document.keys() - set(_KEYS):
        report(str(key), unknown_name("key", str(key), _KEYS))
    laws: dict[str, Any] = {}
    if "trace" in document:
        for key in ("arrival", "input_tokens", "output_tokens"):
            if key in document:
                report(key, "a workload has either a trace or laws: remove one of them")
    elif "mix" in document:
        laws["mix"] = parse_mix(document["mix"], "mix", report)
    else:
        for key, parse in (("arrival", parse_arrival), ("input_tokens", parse_length), ("output_tokens", parse_length)):
            laws[key] = parse(document.get(key), key, report, path.parent)
        for key, read in (("sessions", parse_sessions), ("documents", parse_documents)):
            if key in document:
                laws[key] = read(document[key], key, report, path.parent)
        if "sessions" in document and "documents" in document:
            report("documents", "a workload has either sessions or documents: remove one of them")
    if "rate" in document:
        try:
            laws["rate"] = parse_quantity(document["rate"], "rate")
        except UnitError as error:
            report("rate", str(error))
    duration = None
    if "duration" in document:
        try:
            duration = parse_quantity(document["duration"], "time")
        except UnitError as error:
            report("duration", str(error))
    count = document.get("count")
    if count is not None and (type(count) is not int or count < 1):
        report("count", f"a count of requests is a whole number of at least 1, not {count!r}")
    if "trace" not in document and count is None and duration is None:
        report("", "a generated workload needs a default extent: write 'count' or 'duration'")
    trace = document.get("trace")
    assumes = document.get("assumes", [])
    return RequestWorkload(
        name=str(document.get("name", path.stem)),
        description=str(document.get("description", "")),
        source=str(document.get("source", "")),
        assumes=tuple(map(str, assumes if isinstance(assumes, list) else [assumes])),
        **laws,
        count=count,
        duration=duration,
        trace=None if trace is None else path.parent / str(trace),
        format=str(document.get("format", "auto")),
        options=document.get("options", {}),
        published=_ratios(document.get("published", {}), "published", report),
        tolerance=_ratios(document.get("tolerance", {}), "tolerance", report),
    )


def _ratios(value: Any, path: str, report: Any) -> dict[str, float]:
    """A mapping of plain numbers or percentages."""
    if not isinstance(value, dict):
        report(path, "write a mapping from statistic to number")
        return {}
    result = {}
    for key, number in value.items():
        try:
            result[str(key)] = parse_quantity(number, "ratio")
        except UnitError as error:
            report(f"{path}.{key}", str(error))
    return result


def _read_yaml(path: Path, issues: IssueCollector) -> tuple[dict[str, Any], dict[str, tuple[int, int]]]:
    """The document, and dotted path -> (line, column)."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(path.read_text(encoding="utf-8"))
    marks: dict[str, tuple[int, int]] = {}

    def walk(node: yaml.Node, where: str) -> None:
        marks[where] = (node.start_mark.line + 1, node.start_mark.column + 1)
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                child = f"{where}.{key.value}" if where else str(key.value)
                if child in marks:
                    issues.add("this key is written twice: remove one", child, key.start_mark.line + 1)
                walk(value, child)
        elif isinstance(node, yaml.SequenceNode):
            for i, value in enumerate(node.value):
                walk(value, f"{where}[{i}]")

    try:
        node = loader.get_single_node()
        if isinstance(node, yaml.MappingNode):
            walk(node, "")
            return loader.construct_document(node), marks
        issues.add("a request workload file is a mapping of keys", line=1, column=1)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        issues.add(f"not YAML: {getattr(error, 'problem', error)}", "", *place)
    return {}, marks
