"""The register of strategies: one record for every concrete pass, schedule, policy and planner.

A strategy is one class with the :func:`register` decorator in ``strategies/<family>/``. Nothing else needs
to be edited: the scenario schema, ``fmsim list strategies`` and ``docs/strategies.md`` are made from here.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal, TypeVar

from simulator.errors import ConfigError, unknown_name

__all__ = ["Claim", "StrategyRecord", "find", "load_all", "lookup", "record_of", "register", "strategies"]

Kind = Literal["pass", "schedule", "policy", "planner"]
Area = Literal["training", "serving", "cluster"]
Validation = Literal["published", "ratio", "closed_form", "mechanism", "none"]

T = TypeVar("T", bound=type)


@dataclass(frozen=True)
class Claim:
    """A figure read in its source, with the set-up it was measured on."""

    text: str
    source: str


@dataclass(frozen=True)
class StrategyRecord:
    """What the register knows of one strategy.

    Attributes
    ----------
    name
        As written in a scenario.
    kind, area, family
        ``family`` is the folder and, for policies, the seam: ``pipeline``, ``batching``, ``router`` ...
    cites
        Papers or documents the mechanism follows.
    catalogue
        Names of the catalogue rows it serves.
    claims
        Published figures it is checked against.
    validated_by
        The strongest check there is of it.
    summary
        One line: the first line of the class docstring.
    """

    name: str
    kind: Kind
    area: Area
    family: str
    cites: tuple[str, ...]
    catalogue: tuple[str, ...]
    claims: tuple[Claim, ...]
    validated_by: Validation
    summary: str

    def to_dict(self) -> dict[str, Any]:
        """The record as plain data, for JSON."""
        return asdict(self)


_RECORDS: dict[tuple[str, str], tuple[StrategyRecord, type]] = {}


def register(
    name: str,
    *,
    kind: Kind,
    area: Area,
    family: str,
    cites: tuple[str, ...] = (),
    catalogue: tuple[str, ...] = (),
    claims: tuple[Claim, ...] = (),
    validated_by: Validation = "none",
) -> Callable[[T], T]:
    """Class decorator that enters a strategy into the register under ``(family, name)``.

    Raises
    ------
    TypeError
        Of the decorator, if the class leaves open what a base of it declares abstract: it could never be made.
    """

    def enter(cls: T) -> T:
        if left := sorted(getattr(cls, "__abstractmethods__", ())):
            lacks = f"{cls.__qualname__} lacks {', '.join(left)}"
            raise TypeError(f"strategy '{name}' of family '{family}' is incomplete: {lacks}")
        key = (family, name)
        if key in _RECORDS and _RECORDS[key][1].__qualname__ != cls.__qualname__:
            raise ValueError(f"strategy '{name}' of family '{family}' is registered twice")
        summary = (cls.__doc__ or "").strip().split("\n", 1)[0]
        record = StrategyRecord(name, kind, area, family, cites, catalogue, claims, validated_by, summary)
        _RECORDS[key] = (record, cls)
        cls.name = name  # type: ignore[attr-defined]
        return cls

    return enter


@cache
def load_all() -> None:
    """Import every module below ``simulator.strategies`` so that its classes register themselves."""
    package = importlib.import_module("simulator.strategies")
    for module in pkgutil.walk_packages(package.__path__, "simulator.strategies."):
        importlib.import_module(module.name)


@cache
def _load_family(family: str) -> None:
    """Import the modules of the folder that has the family's name, where there is one."""
    folder = f"simulator.strategies.{family}"
    if importlib.util.find_spec(folder) is not None:
        for module in pkgutil.iter_modules(importlib.import_module(folder).__path__, f"{folder}."):
            importlib.import_module(module.name)


def strategies(area: str | None = None, family: str | None = None) -> list[StrategyRecord]:
    """All records, by area, family and name; optionally of one area or family."""
    load_all()
    records = (record for record, _ in _RECORDS.values())
    wanted = (r for r in records if area in (None, r.area) and family in (None, r.family))
    return sorted(wanted, key=lambda r: (r.area, r.family, r.name))


def registered(family: str, name: str) -> StrategyRecord | None:
    """The record of ``name`` in ``family``; None where there is none."""
    # A family is mostly a folder: a run that names four strategies need not import two hundred.
    if (family, name) not in _RECORDS and family.isidentifier():
        _load_family(family)
    if (family, name) not in _RECORDS:
        load_all()
    return _RECORDS[family, name][0] if (family, name) in _RECORDS else None


def lookup(family: str, name: str) -> type:
    """The class registered as ``name`` in ``family``.

    Raises
    ------
    ConfigError
        If there is none; the message names the near ones.
    """
    if registered(family, name) is None:
        names = [r.name for r in strategies(family=family)]
        raise ConfigError(unknown_name(f"{family.replace('_', ' ')} strategy", name, names))
    return _RECORDS[family, name][1]


def find(name: str) -> list[StrategyRecord]:
    """Records with this name in any family."""
    return [r for r in strategies() if r.name == name]


def record_of(cls: type) -> StrategyRecord:
    """The record of a registered class."""
    return next(record for record, known in _RECORDS.values() if known is cls)
