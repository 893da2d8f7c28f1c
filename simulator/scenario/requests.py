"""The requests of a deployment: a trace, a named workload, or laws written in the scenario."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.errors import ConfigError, Issue, IssueCollector
from simulator.scenario.fields import is_path
from simulator.scenario.spec_requests import DocumentsSpec, RequestsSpec, SessionsSpec

if TYPE_CHECKING:
    from simulator.workload.requests.arrivals import ArrivalSpec
    from simulator.workload.requests.documents import DocumentLaw
    from simulator.workload.requests.lengths import LengthSpec
    from simulator.workload.requests.table import RequestTable

__all__ = ["read_requests_of"]

_KEPT: dict[tuple[str, int, str, bool], RequestTable] = {}
"""Tables that were drawn last: the points of a sweep mostly ask for the same requests."""

_MOST_KEPT = 8
_LONGEST_KEPT = 1_000_000
"""Requests of a table that is remembered: 16 MB."""


def read_requests_of(
    spec: RequestsSpec, seed: int, base: Path | None, skip_bad_rows: bool
) -> tuple[RequestTable, list[str]]:
    """The request table, and notes on rows that were left out.

    Raises
    ------
    ConfigError
        If not exactly one source is given, a law is incomplete, or the trace has bad rows; paths are relative to
        ``requests``.
    """
    named = [key for key in ("trace", "workload") if getattr(spec, key) is not None]
    laws = [key for key in ("arrival", "input_tokens", "output_tokens") if getattr(spec, key) is not None]
    if len(named) + bool(laws) != 1:
        have = ", ".join([*named, *laws]) or "none"
        raise ConfigError(
            f"needs one source of requests, have {have}: 'trace' (a file or a shipped name), 'workload', or the laws "
            "'rate', 'input_tokens' and 'output_tokens'"
        )
    key = (spec.model_dump_json(), seed, str(base), skip_bad_rows)
    table = _KEPT.get(key)
    if table is None:
        table = _from_laws(spec, seed, base) if laws else _from_name(spec, named[0], seed, base, skip_bad_rows)
        # A file may change between two readings.
        if len(table) <= _LONGEST_KEPT and not any(map(is_path, _texts(spec.model_dump()))):
            _keep(key, table)
    dropped = {reason: rows for reason, rows in table.provenance.dropped.items() if rows} if table.provenance else {}
    notes = [f"{rows} requests left out: {reason}" for reason, rows in dropped.items()]
    return table, notes


def _keep(key: tuple[str, int, str, bool], table: RequestTable) -> None:
    """Remember a table, which nobody may write in from now on."""
    for column in vars(table).values():
        if isinstance(column, np.ndarray):
            column.flags.writeable = False
    if len(_KEPT) >= _MOST_KEPT:
        del _KEPT[next(iter(_KEPT))]
    _KEPT[key] = table


def _texts(value: Any) -> Iterator[str]:
    """Every text below."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(item)


def _from_name(spec: RequestsSpec, key: str, seed: int, base: Path | None, skip_bad_rows: bool) -> RequestTable:
    from simulator.workload.requests.files import load_requests

    name = str(getattr(spec, key))
    if base is not None and is_path(name) and (base / name).is_file():
        name = str(base / name)
    try:
        return load_requests(
            name, seed=seed, rate=spec.rate, duration=spec.duration, count=spec.count,
            skip_bad_rows=skip_bad_rows or spec.skip_bad_rows, concurrency=spec.concurrency,
        )  # fmt: skip
    except ConfigError as error:
        raise ConfigError(i if i.file else Issue("", 0, 0, i.path or key, i.message) for i in error.issues) from None


def _from_laws(spec: RequestsSpec, seed: int, base: Path | None) -> RequestTable:
    from simulator.workload.requests.arrivals import ClosedLoop, Poisson
    from simulator.workload.requests.documents import generate_with_documents
    from simulator.workload.requests.generators import generate_requests
    from simulator.workload.requests.specs import parse_arrival, parse_length

    issues = IssueCollector()
    folder = base or Path()

    def report(path: str, message: str) -> None:
        issues.add(message, path)

    arrival: ArrivalSpec | None = None
    if spec.concurrency is not None:
        arrival = ClosedLoop(spec.concurrency)
    elif spec.arrival is not None:
        arrival = parse_arrival(_with_rate(spec), "arrival", report, folder)
    elif spec.rate is not None:
        arrival = Poisson(spec.rate)
    else:
        report("", "needs 'rate' (Poisson arrivals), 'arrival' (another law) or 'concurrency' (closed loop)")
    lengths = {}
    for key in ("input_tokens", "output_tokens"):
        value = getattr(spec, key)
        if value is None:
            report("", f"'{key}' is missing: a number of tokens or a law of length")
        else:
            lengths[key] = parse_length(value, key, report, folder)
    if spec.count is None and spec.duration is None:
        report("", "needs an end: 'count' of requests or 'duration'")
    issues.raise_if_any()
    inputs, outputs = lengths["input_tokens"], lengths["output_tokens"]
    assert arrival is not None and inputs is not None and outputs is not None  # else an issue was raised
    if spec.sessions is not None and spec.documents is not None:
        raise ConfigError([Issue("", 0, 0, "documents", "cannot be combined with 'sessions', leave one out")])
    if spec.sessions is not None:
        return _sessions(spec.sessions, arrival, inputs, outputs, spec, seed, folder)
    if spec.documents is not None:
        law = _documents(spec.documents, folder)
        return generate_with_documents(arrival, law, inputs, outputs, spec.duration, spec.count, seed)
    return generate_requests(arrival, inputs, outputs, spec.duration, spec.count, seed)


def _sessions(
    sessions: SessionsSpec, arrival: ArrivalSpec, inputs: LengthSpec, outputs: LengthSpec, spec: RequestsSpec,
    seed: int, folder: Path,
) -> RequestTable:  # fmt: skip
    """Turns that follow one another; the laws are those of sessions and of what a turn adds."""
    from simulator.workload.requests.sessions import SessionLaw, generate_sessions
    from simulator.workload.requests.specs import parse_length

    issues = IssueCollector()
    turns, first = (
        None if value is None else parse_length(value, f"sessions.{key}", lambda path, m: issues.add(m, path), folder)
        for key, value in (("turns", sessions.turns), ("first_tokens", sessions.first_tokens))
    )
    issues.raise_if_any()
    assert turns is not None
    law = SessionLaw(
        turns, sessions.think_time, sessions.think_sigma, sessions.max_context, sessions.system_tokens, first
    )  # fmt: skip
    return generate_sessions(arrival, law, inputs, outputs, spec.duration, spec.count, seed)


def _documents(documents: DocumentsSpec, folder: Path) -> DocumentLaw:
    """What prompts begin with."""
    from simulator.workload.requests.documents import DocumentLaw
    from simulator.workload.requests.specs import parse_length

    issues = IssueCollector()
    laws = {
        key: parse_length(getattr(documents, key), f"documents.{key}", lambda path, m: issues.add(m, path), folder)
        for key in ("tokens", "per_request")
    }
    issues.raise_if_any()
    tokens, per_request = laws["tokens"], laws["per_request"]
    assert tokens is not None and per_request is not None
    return DocumentLaw(
        documents.count, tokens, per_request, documents.skew, documents.system_tokens, documents.own_tokens
    )


def _with_rate(spec: RequestsSpec) -> Any:
    """The law of arrival as a mapping, with ``rate`` filled in where the scenario gives it beside the law."""
    law: dict[str, Any] = {"process": spec.arrival} if isinstance(spec.arrival, str) else dict(spec.arrival or {})
    if spec.rate is not None and "rate" not in law:
        law["rate"] = f"{spec.rate!r} /s"
    return law
