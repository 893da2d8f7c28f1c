"""Numbers with an origin: every constant of a cost model has an id, a source and an uncertainty.

Costs are evaluated from a :class:`ConstantSet`. Asking for a value records that it was used, so a result
can list what it rests on, and re-evaluating with one constant moved by one sigma gives its share of the
interval. Two results that use the same constant id move together, so shared errors cancel in a comparison.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

__all__ = ["Constant", "ConstantSet", "Learnt", "Trust", "both"]


class Trust(StrEnum):
    """Where a constant comes from, most trusted first."""

    MEASURED = "measured"
    FITTED = "fitted"
    BORROWED = "borrowed"
    DATASHEET = "datasheet"
    ASSUMED = "assumed"


@dataclass(frozen=True)
class Constant:
    """A number of a cost model.

    Attributes
    ----------
    id
        Dotted, unique: ``h100-sxm.gemm.bf16.compute``.
    value
        In SI base units.
    unit
        The SI unit, ``""`` for a fraction.
    sigma
        Relative standard deviation: 0.07 means one standard deviation is 7 % of the value.
    trust, source
        How far and why to believe it.
    correlated
        (id, correlation) of constants whose errors move with this one's: what was learnt from whole runs is known
        better in sum than constant by constant.
    """

    id: str
    value: float
    unit: str
    sigma: float
    trust: Trust
    source: str
    correlated: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Learnt:
    """What somebody's own runs say about a constant: a factor on its value, and how sure they are of it."""

    factor: float
    sigma: float
    source: str
    correlated: tuple[tuple[str, float], ...] = ()

    def of(self, constant: Constant) -> Constant:
        """The constant as it was learnt."""
        source = f"{constant.source}; {self.source}"
        value = constant.value * self.factor
        return replace(constant, value=value, sigma=self.sigma, source=source, correlated=self.correlated)


@dataclass
class ConstantSet(Mapping[str, float]):
    """A vector of constants that costs are evaluated from.

    ``constants["id"]`` is the value in force. :meth:`moved` returns a copy with some constants scaled. Constants in
    ``learnt`` are replaced by what was learnt about them as they are added.
    """

    entries: dict[str, Constant] = field(default_factory=dict)
    scale: dict[str, float] = field(default_factory=dict)
    learnt: Mapping[str, Learnt] = field(default_factory=dict)

    def add(self, constant: Constant) -> None:
        """Add a constant; the same id twice must be the same constant."""
        if constant.id in self.learnt:
            constant = self.learnt[constant.id].of(constant)
        known = self.entries.setdefault(constant.id, constant)
        if known != constant:
            raise ValueError(f"two different constants are called '{constant.id}'")

    def __getitem__(self, key: str) -> float:
        return self.entries[key].value * self.scale.get(key, 1.0)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def moved(self, scale: Mapping[str, float]) -> ConstantSet:
        """The same constants with those in ``scale`` multiplied by the given factors."""
        return ConstantSet(self.entries, both(self.scale, scale), self.learnt)


def both(first: Mapping[str, float], second: Mapping[str, float] | None) -> dict[str, float]:
    """Factors on constants, one on top of the other: a constant in both moves by their product."""
    found = dict(first)
    for name, factor in (second or {}).items():
        found[name] = found.get(name, 1.0) * factor
    return found
