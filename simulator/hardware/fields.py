"""The parts that profiles share: prices, provenance, links, scale-up networks and constants with an origin."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from simulator.constants import Constant, Trust
from simulator.hardware.reader import Reader
from simulator.hardware.types import Link, Price, ScaleUp, Storage
from simulator.units import DIMENSIONS, UnitError, parse_quantity
from simulator.yaml_marks import MarkedNode

__all__ = [
    "HOST_LATENCY", "HOST_LATENCY_RULE", "SCALE_UP_LATENCY", "SCALE_UP_RULE", "Origin", "read_constants",
    "read_estimated", "read_link", "read_name", "read_origin", "read_price", "read_scale_up", "read_storage",
]  # fmt: skip

SCALE_UP_LATENCY = 3.33e-6
"""Default [s]: 64 B between two GPUs over NVLink, arXiv 2505.09343; also the stand-in where nothing is published."""
HOST_LATENCY = 10e-6
"""Default [s]: small-transfer latency in ai-dynamo/aiconfigurator's system files (p2p_latency)."""
SCALE_UP_RULE = "no figure published; as NVLink, 3.33 us (arXiv 2505.09343)"
HOST_LATENCY_RULE = "no figure published; 10 us, the small-transfer latency of aiconfigurator's system files"

RECALLED = "not read in a source: recalled by the author of the profile"

_Topology = Literal["switch", "mesh", "cube-mesh", "torus", "bridge", "none"]
TOPOLOGIES: tuple[_Topology, ...] = ("switch", "mesh", "cube-mesh", "torus", "bridge", "none")
_StorageKind = Literal["nvme", "parallel-fs", "object-store"]
_STORAGE_KINDS: tuple[_StorageKind, ...] = ("nvme", "parallel-fs", "object-store")


@dataclass(frozen=True)
class Origin:
    """Where the constants of a section come from; deeper sections may override any of the three."""

    sigma: float = math.nan
    trust: Trust | None = None
    source: str = ""


def read_name(reader: Reader, stem: str) -> str:
    """The profile's name, which must be that of its file so that it can be found."""
    name = reader.text("name")
    if name and name != stem:
        reader.error(f"is '{name}' but the file is called '{stem}': they must agree", "name")
    return name


def read_estimated(reader: Reader) -> dict[str, str]:
    """``estimated``: a list of fields, or field → reason."""
    node = reader.take("estimated")
    if node is None:
        return {}
    if node.kind == "mapping":
        return {key: child.text for key, child in node.value.items()}
    if node.kind == "sequence" and all(n.kind == "scalar" for n in node.value):
        return {n.text: RECALLED for n in node.value}
    reader.error("must be a list of fields, or a mapping of fields to reasons", "estimated")
    return {}


def read_price(reader: Reader) -> Price:
    """``price``: dated ranges per device (purchase) and per device-hour (rental)."""
    section = reader.section("price")
    if section is None:
        return Price()
    price = Price(
        section.pair("purchase", "money"),
        section.pair("rental", "money_rate"),
        section.text("as_of"),
        section.text("source"),
    )
    section.finish()
    return price


def read_link(
    section: Reader, latency: float | None, estimated: dict[str, str], reason: str = "", name: str = ""
) -> Link:
    """A link: name, ``bandwidth`` of the wire, optionally ``achievable`` bandwidth (or ``efficiency``) and latency.

    ``latency`` stands in for one that the profile leaves out, with the ``reason``; ``None`` makes it required.
    """
    field = section.path
    name = name or section.text("name")
    bandwidth = section.quantity("bandwidth", "bandwidth")
    achievable = section.optional("achievable", "bandwidth")
    efficiency = section.quantity("efficiency", "ratio", 1.0)
    if achievable is not None:
        if "efficiency" in section:
            section.error("give 'achievable' or 'efficiency', not both", "achievable")
        efficiency = achievable / bandwidth if bandwidth else 1.0
    if efficiency > 1:
        section.error("the achievable bandwidth is above the bandwidth of the wire", "achievable")
    ring_hop = section.quantity("ring_hop", "time", 0.0)
    tree_share = section.quantity("tree_share", "ratio", 1.0)
    if latency is None or "latency" in section:
        return Link(name, bandwidth, section.quantity("latency", "time"), efficiency, ring_hop, tree_share)
    section.take("latency")
    estimated[f"{field}.latency"] = reason
    return Link(name, bandwidth, latency, efficiency, ring_hop, tree_share)


def read_scale_up(reader: Reader, estimated: dict[str, str]) -> ScaleUp | None:
    """``scale_up``: bandwidth is the total of one accelerator in one direction."""
    section = reader.section("scale_up")
    if section is None:
        return None
    link = read_link(section, SCALE_UP_LATENCY, estimated, SCALE_UP_RULE)
    scale_up = ScaleUp(
        link,
        section.integer("domain", least=1),
        section.choice("topology", TOPOLOGIES),
        section.flag("in_network_reduction"),
    )
    section.finish()
    if scale_up.topology == "none":
        estimated.pop(f"{section.path}.latency", None)
    return scale_up


def read_storage(section: Reader) -> Storage:
    """A shared storage tier: bandwidths are the aggregate of all its servers."""
    storage = Storage(
        section.text("name"),
        section.choice("kind", _STORAGE_KINDS),
        section.quantity("read", "bandwidth"),
        section.quantity("write", "bandwidth"),
        section.quantity("capacity", "data", 0.0),
        section.quantity("latency", "time", 0.0),
        section.texts("sources"),
    )
    section.finish()
    return storage


def read_origin(reader: Reader, outer: Origin) -> Origin:
    """``sigma``, ``trust`` and ``source`` of a section, each inherited when left out."""
    sigma = reader.optional("sigma", "ratio")
    trust = outer.trust
    if "trust" in reader:
        trust = reader.choice("trust", tuple(Trust))
    return Origin(outer.sigma if sigma is None else sigma, trust, reader.text("source", outer.source))


def read_constants(
    reader: Reader, prefix: str, origin: Origin, leaves: Mapping[str, str] | None = None, key: str = ""
) -> dict[str, Constant]:
    """Constants of a (nested) section by local dotted key; ids are ``prefix.key``.

    With ``leaves`` (name → dimension, or ``number:UNIT``) only those are known; without it every leaf
    is a quantity whose unit says its dimension. ``launch_sigma`` beside ``sigma`` is that of ``launch`` alone.
    """
    found: dict[str, Constant] = {}
    origin = read_origin(reader, origin)
    launch_sigma = reader.optional("launch_sigma", "ratio")
    names = [k for k in reader.keys() if k not in ("sigma", "launch_sigma", "trust", "source")]  # noqa: SIM118
    for name in names:
        node = reader.node.value[name]
        local = f"{key}.{name}" if key else name
        if node.kind == "mapping":
            below = reader.section(name)
            if below is not None:
                found |= read_constants(below, prefix, origin, leaves, local)
            continue
        if leaves is not None and name not in leaves:
            continue
        reader.take(name)
        value, unit = _measure(reader, name, node, None if leaves is None else leaves[name])
        if math.isnan(origin.sigma) or origin.trust is None or not origin.source:
            reader.error("a constant needs 'sigma', 'trust' and 'source', here or in a section around it", name)
            continue
        sigma = launch_sigma if name == "launch" and launch_sigma is not None else origin.sigma
        found[local] = Constant(f"{prefix}.{local}", value, unit, sigma, origin.trust, origin.source)
    reader.finish(also=leaves or ())
    return found


_PER_BYTE = re.compile(r"\s*([\d.]+(?:[eE][+-]?\d+)?)\s*([munpf]?s)/(B|sqrt\(B\))\s*")
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "ps": 1e-12, "fs": 1e-15}
_INFERRED = ("ratio", "time", "bandwidth", "data", "compute_rate", "power", "money")


def _measure(reader: Reader, name: str, node: MarkedNode, dimension: str | None) -> tuple[float, str]:
    """Value and SI unit of a leaf."""
    if dimension is not None and dimension.startswith("number"):
        value = reader.parse(node, name, "ratio")
        return value, dimension.partition(":")[2]
    if dimension is not None:
        return reader.parse(node, name, dimension), DIMENSIONS[dimension].base
    if match := _PER_BYTE.fullmatch(node.text):
        return float(match[1]) * _SECONDS[match[2]], f"s/{match[3]}"
    for inferred in _INFERRED:
        try:
            return parse_quantity(node.value, inferred), DIMENSIONS[inferred].base
        except UnitError:
            continue
    reader.error(
        f"'{node.text}' is not a quantity: write a time, bandwidth or number like '5 us', '2 ps/B' or '0.9'", name
    )
    return math.nan, ""
