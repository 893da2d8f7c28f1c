"""Parts of a cluster network with price ranges, read from ``hardware_profiles/parts/network.yaml``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from simulator.data import find_file
from simulator.errors import IssueCollector
from simulator.hardware.reader import Reader
from simulator.yaml_marks import load_yaml

__all__ = ["Part", "PartsList", "load_parts"]


@dataclass(frozen=True)
class Part:
    """One thing that can be bought.

    Attributes
    ----------
    speed
        Of a port [B/s]; 0 where it does not matter.
    ports
        Of a switch.
    power, price
        Low and high, [W] and [USD] each.
    """

    name: str
    speed: float
    power: tuple[float, float]
    price: tuple[float, float]
    family: str = ""
    ports: int = 0


@dataclass(frozen=True)
class PartsList:
    """All parts; ``source`` says where the prices are from."""

    switches: tuple[Part, ...]
    transceivers: tuple[Part, ...]
    copper: tuple[Part, ...]
    fibre: Part
    nics: tuple[Part, ...]
    source: str

    def switch(self, family: str, speed: float) -> Part | None:
        """The switch of a family with ports of a speed; of any family if that one has none."""
        same = [p for p in self.switches if _equal(p.speed, speed)]
        return next((p for p in same if p.family == family), same[0] if same else None)

    @staticmethod
    def of_speed(parts: tuple[Part, ...], speed: float) -> Part | None:
        """The part for ports of a speed."""
        return next((p for p in parts if _equal(p.speed, speed)), None)


def _equal(a: float, b: float) -> bool:
    return abs(a - b) <= 0.02 * max(a, b)


@cache
def load_parts(name: str = "network") -> PartsList:
    """The shipped list, or the YAML file at a path.

    Raises
    ------
    ConfigError
        If there is no such file, or with everything that is wrong in it.
    """
    path = find_file("hardware_profiles/parts", name, "parts list")
    shown = str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
    issues = IssueCollector(shown)
    reader = Reader(load_yaml(path, shown), issues)
    source = ", ".join(filter(None, (reader.text("source"), reader.text("as_of", ""))))
    groups = {
        key: tuple(_part(section) for section in reader.sections(key, required=True))
        for key in ("switches", "transceivers", "copper", "nics")
    }
    section = reader.section("fibre", required=True)
    fibre = _part(section, sized=False) if section else Part("", 0.0, (0.0, 0.0), (0.0, 0.0))
    reader.finish()
    issues.raise_if_any()
    return PartsList(groups["switches"], groups["transceivers"], groups["copper"], fibre, groups["nics"], source)


def _part(section: Reader, sized: bool = True) -> Part:
    nothing = (0.0, 0.0)
    part = Part(
        section.text("name"),
        section.quantity("speed", "bandwidth") if sized else 0.0,
        section.pair("power", "power") or nothing,
        section.pair("price", "money") or nothing,
        section.text("family", ""),
        section.integer("ports", 0),
    )
    section.finish()
    return part
