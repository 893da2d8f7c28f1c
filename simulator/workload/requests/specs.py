"""From YAML mappings to laws of arrival and length: ``{process: gamma, rate: 5 /s, cv: 1.2}``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, TypeVar

from simulator.errors import ConfigError, unknown_name
from simulator.units import UnitError, parse_quantity
from simulator.workload.requests.arrivals import ARRIVALS, ArrivalSpec
from simulator.workload.requests.documents import DocumentLaw
from simulator.workload.requests.lengths import LENGTHS, Fixed, LengthSpec
from simulator.workload.requests.mixes import Part
from simulator.workload.requests.sessions import SessionLaw

__all__ = ["Report", "parse_arrival", "parse_documents", "parse_length", "parse_mix", "parse_sessions"]

Report = Callable[[str, str], None]
"""``(path in the document, message)``."""

T = TypeVar("T", ArrivalSpec, LengthSpec)


def parse_arrival(value: Any, path: str, report: Report, folder: Path) -> ArrivalSpec | None:
    """A law of arrival from ``{process: ..., ...}``; ``None`` after reporting what is wrong."""
    return _parse(value, path, report, folder, ARRIVALS, "process", "arrival process")


def parse_length(value: Any, path: str, report: Report, folder: Path) -> LengthSpec | None:
    """A law of length from ``{law: ..., ...}``, or a bare number of tokens for a fixed one."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = {"law": Fixed.law, "tokens": value}
    return _parse(value, path, report, folder, LENGTHS, "law", "length law")


_SESSIONS = {
    "turns": "law", "think_time": "time", "think_sigma": "ratio", "max_context": "count", "system_tokens": "count",
    "first_tokens": "law",
}  # fmt: skip
_DOCUMENTS = {
    "count": "count", "tokens": "law", "per_request": "law", "skew": "ratio", "system_tokens": "count",
    "own_tokens": "count",
}  # fmt: skip


def parse_sessions(value: Any, path: str, report: Report, folder: Path) -> SessionLaw | None:
    """Turns of sessions from ``{turns: ..., think_time: ..., ...}``."""
    found = _settings(value, path, report, folder, _SESSIONS, ("turns", "think_time"))
    return None if found is None else SessionLaw(**found)


def parse_documents(value: Any, path: str, report: Report, folder: Path) -> DocumentLaw | None:
    """Documents that prompts share from ``{count: ..., tokens: ..., ...}``."""
    found = _settings(value, path, report, folder, _DOCUMENTS, ("count", "tokens"))
    if found is None:
        return None
    try:
        return DocumentLaw(**found)
    except ConfigError as error:
        report(path, str(error))
        return None


def parse_mix(value: Any, path: str, report: Report) -> tuple[Part, ...]:
    """Tenants from a list of ``{workload: NAME, share: NUMBER, priority: NUMBER}``; shares are made to add up to 1."""
    if not isinstance(value, list) or not value:
        report(path, "write a list of '{workload: NAME, share: NUMBER}'")
        return ()
    parts, total = [], 0.0
    for i, entry in enumerate(value):
        where = f"{path}[{i}]"
        found = _settings(
            entry, where, report, Path(), {"workload": "text", "share": "ratio", "priority": "count"},
            ("workload", "share"),
        )  # fmt: skip
        if found is None:
            continue
        if found["share"] <= 0:
            report(f"{where}.share", f"a share of the requests is above 0, not {found['share']:g}")
            continue
        total += found["share"]
        parts.append(Part(**found))
    return tuple(Part(p.workload, p.share / total, p.priority) for p in parts)


def _settings(
    value: Any, path: str, report: Report, folder: Path, kinds: Mapping[str, str], needed: tuple[str, ...]
) -> dict[str, Any] | None:
    """A mapping with every setting read by its kind; ``None`` after reporting what is wrong."""
    if not isinstance(value, dict):
        report(path, f"write a mapping of {', '.join(kinds)}")
        return None
    found: dict[str, Any] = {}
    complete = True
    for key in (k for k in needed if k not in value):
        report(path, f"needs '{key}'")
        complete = False
    for key, given in value.items():
        where = f"{path}.{key}"
        if key not in kinds:
            report(where, unknown_name("key", str(key), kinds))
            complete = False
            continue
        try:
            found[key] = _setting(kinds[key], given, where, report, folder)
        except (UnitError, ValueError) as error:
            report(where, str(error))
        complete = complete and found.get(key) is not None
    return found if complete else None


def _setting(kind: str, value: Any, path: str, report: Report, folder: Path) -> Any:
    if kind == "law":
        return parse_length(value, path, report, folder)
    if kind == "text":
        return str(value)
    return _number(value, whole=True) if kind == "count" else parse_quantity(value, kind)


def _parse(
    value: Any, path: str, report: Report, folder: Path, known: Mapping[str, type[T]], key: str, kind: str
) -> T | None:
    if not isinstance(value, dict) or key not in value:
        report(path, f"write a mapping with '{key}', one of {', '.join(known)}")
        return None
    name = value[key]
    if name not in known:
        report(f"{path}.{key}", unknown_name(kind, str(name), known))
        return None
    law = known[name]
    wanted = {f.name: f for f in fields(law) if "dimension" in f.metadata}  # type: ignore[arg-type]
    complete = True
    for given in value.keys() - wanted.keys() - {key}:
        report(f"{path}.{given}", unknown_name(f"setting of {name}", str(given), wanted))
        complete = False
    arguments: dict[str, Any] = {}
    for field_name, field in wanted.items():
        if field_name in value:
            try:
                arguments[field_name] = _value(field, value[field_name], f"{path}.{field_name}", report, folder)
            except (UnitError, ValueError) as error:
                report(f"{path}.{field_name}", str(error))
                complete = False
        elif field.default is MISSING:
            report(path, f"{name} needs '{field_name}'")
            complete = False
    if not complete:
        return None
    try:
        return law(**arguments)
    except ConfigError as error:
        report(path, str(error))
        return None


def _value(field: Field[Any], value: Any, path: str, report: Report, folder: Path) -> Any:
    """One setting, by the dimension its field declares."""
    dimension = field.metadata["dimension"]
    if dimension == "text":
        return str(value)
    if dimension == "path":
        return str(folder / str(value))
    if dimension == "count":
        return _number(value, whole=field.type == "int")
    if dimension == "numbers":
        if not isinstance(value, list):
            raise ValueError(f"write a list of numbers, not {value!r}")
        return tuple(float(_number(v, whole=False)) for v in value)
    if dimension == "lengths":
        if not isinstance(value, list):
            raise ValueError("write a list of length laws")
        laws = [parse_length(v, f"{path}[{i}]", report, folder) for i, v in enumerate(value)]
        if None in laws:
            raise ValueError("not all of these are length laws")
        return tuple(laws)
    return parse_quantity(value, dimension)


def _number(value: Any, whole: bool) -> float:
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise ValueError(f"write a {'whole ' if whole else ''}number, not {value!r}")
    return value
