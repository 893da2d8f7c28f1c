"""Reads ``hardware_profiles/networks/*.yaml``: links, and measured collectives over them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

from simulator.hardware.fields import (
    HOST_LATENCY,
    HOST_LATENCY_RULE,
    SCALE_UP_LATENCY,
    SCALE_UP_RULE,
    Origin,
    read_constants,
    read_estimated,
    read_link,
    read_name,
)
from simulator.hardware.reader import Reader
from simulator.hardware.types import Curve, Link, NetworkProfile

__all__ = ["read_network"]

_Scope = Literal["scale_up", "scale_out", "host", "library"]
_SCOPES: tuple[_Scope, ...] = ("scale_up", "scale_out", "host", "library")
_LATENCY_RULES: dict[str, tuple[float, str]] = {
    "scale_up": (SCALE_UP_LATENCY, SCALE_UP_RULE),
    "host": (HOST_LATENCY, HOST_LATENCY_RULE),
}
_TIME_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


def read_network(reader: Reader, stem: str, load_link: Callable[[str], Link]) -> NetworkProfile:
    """One network profile; ``load_link`` resolves ``link: NAME`` of profiles measured over another profile's link."""
    name = read_name(reader, stem)
    estimated = read_estimated(reader)
    scope = reader.choice("scope", _SCOPES)
    node = reader.node.child("link")
    link = Link("", 0.0, 0.0)
    if node is not None and node.kind == "scalar":
        link = reader.reference("link", load_link, link)
    elif (section := reader.section("link", required=scope != "library")) is not None:
        latency, rule = _LATENCY_RULES.get(scope, (None, ""))
        link = read_link(section, latency, estimated, rule, name)
        section.finish()
    constants = reader.section("constants")
    profile = NetworkProfile(
        name=name,
        scope=scope,
        link=link,
        accelerator=reader.text("accelerator", ""),
        constants=read_constants(constants, name, Origin()) if constants else {},
        sources=reader.texts("sources"),
        curves=_curves(reader),
        notes=reader.text("notes", ""),
        estimated=estimated,
    )
    if not profile.sources:
        reader.error("'sources' is missing: say where the figures come from", "sources")
    reader.finish()
    return profile


def _curves(reader: Reader) -> dict[str, dict[int, Curve]]:
    """``curves``: operation → {bytes or tokens: [...], unit: us, RANKS: [...], ...}."""
    section = reader.section("curves")
    if section is None:
        return {}
    curves: dict[str, dict[int, Curve]] = {}
    for operation in section.keys():  # noqa: SIM118
        below = section.section(operation)
        if below is not None:
            curves[operation] = _curve_family(below)
    section.finish()
    return curves


def _curve_family(reader: Reader) -> dict[int, Curve]:
    in_tokens = "tokens" in reader
    axis = "tokens" if in_tokens else "bytes"
    node = reader.take(axis, required=True)
    points = list(node) if node is not None else []
    x = tuple(reader.parse(p, axis, "ratio" if in_tokens else "data") for p in points)
    if any(b <= a for a, b in pairwise(x)):
        reader.error("must increase", axis)
    unit = reader.choice("unit", tuple(_TIME_UNITS))
    family: dict[int, Curve] = {}
    for key in reader.keys():  # noqa: SIM118
        if not key.isdigit():
            continue
        values = [n.value for n in reader.take(key) or ()]
        if len(values) != len(x) or not all(isinstance(v, int | float) and v > 0 for v in values):
            reader.error(f"must be {len(x)} positive times in {unit}, one for each of '{axis}'", key)
            continue
        family[int(key)] = Curve(x, tuple(v * _TIME_UNITS[unit] for v in values))
    reader.finish(also=["bytes", "tokens"])
    return family
