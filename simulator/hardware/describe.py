"""Every figure of a profile as a row with its origin, for ``fmsim show``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from simulator.constants import Constant
from simulator.hardware.types import Accelerator, Cluster, Link, NetworkProfile, Node, Price, ScaleUp, Storage
from simulator.units import DIMENSIONS, format_quantity

__all__ = ["FactRow", "describe"]

_DIMENSION_OF_UNIT = {d.base: d.name for d in DIMENSIONS.values() if d.base}


class FactRow(NamedTuple):
    """One figure: dotted field, value with unit, where it comes from, and whether it is an estimate."""

    field: str
    value: str
    source: str
    estimated: bool


def describe(profile: Accelerator | Node | NetworkProfile | Cluster) -> list[FactRow]:
    """All figures of a profile, in the order of its file.

    An estimated figure shows the rule or reason instead of a source; a constant of a cost curve shows its own
    source, trust and sigma; prices show their date.
    """
    if isinstance(profile, Accelerator):
        figures = _accelerator(profile)
    elif isinstance(profile, Node):
        figures = _node(profile)
    elif isinstance(profile, NetworkProfile):
        figures = _network(profile)
    else:
        figures = _cluster(profile)
    default = "; ".join(profile.sources)
    return [_row(field, value, source or default, profile.estimated) for field, value, source in figures]


_Figures = Iterator[tuple[str, str, str]]


def _row(field: str, value: str, source: str, estimated: Mapping[str, str]) -> FactRow:
    parts = field.split(".")
    for length in range(len(parts), 0, -1):
        if (reason := estimated.get(".".join(parts[:length]))) is not None:
            return FactRow(field, value, f"estimated: {reason}", True)
    return FactRow(field, value, source, False)


def _accelerator(a: Accelerator) -> _Figures:
    yield "vendor", a.vendor, ""
    yield "architecture", a.architecture, ""
    yield "year", str(a.year), ""
    for dtype, peak in a.peak_flops.items():
        yield f"peak_flops.{dtype}", format_quantity(peak, "compute_rate", 5), ""
    if a.sm_count:
        yield "sm_count", str(a.sm_count), ""
    if a.boost_clock:
        yield "boost_clock", format_quantity(a.boost_clock, "frequency", 4), ""
    yield "memory.type", a.memory_type or "-", ""
    yield "memory.capacity", f"{a.memory_capacity / 1e9:g} GB", ""
    yield "memory.usable", format_quantity(a.memory_usable, "data", 4), ""
    yield "memory.bandwidth", f"{a.memory_bandwidth / 1e9:g} GB/s", ""
    if a.l2_capacity:
        yield "memory.l2", f"{a.l2_capacity / 1e6:g} MB", ""
    yield from _scale_up("scale_up", a.scale_up)
    yield from _link("host_link", a.host_link)
    yield "power.idle", format_quantity(a.power.idle, "power"), ""
    yield "power.peak", format_quantity(a.power.peak, "power", 4), ""
    for key in ("active", "compute", "memory"):
        yield f"power.{key}", format_quantity(getattr(a.power, key), "power"), ""
    yield from _price(a.price)
    yield from _constants("efficiency", a.efficiency)
    if a.kernel_table:
        yield "kernel_table", Path(a.kernel_table).name, "kernels measured on this device"


def _node(n: Node) -> _Figures:
    yield "accelerator", n.accelerator.name, ""
    yield "accelerators", str(n.accelerators), ""
    yield from _scale_up("scale_up", n.scale_up, _see(n.accelerator) if n.scale_up == n.accelerator.scale_up else "")
    if n.nics:
        yield "nic", f"{n.nics} x {n.nic.name} of {n.nic.bandwidth * 8 / 1e9:g} Gb/s", ""
    yield "host_memory", f"{n.host_memory / 1e9:g} GB", ""
    yield "host_memory_bandwidth", format_quantity(n.host_memory_bandwidth, "bandwidth"), ""
    if n.cpu_flops:
        yield "cpu_flops", format_quantity(n.cpu_flops, "compute_rate"), ""
    if n.host_speed != 1.0:
        yield "host_speed", f"{n.host_speed:g}", ""
    yield "accelerators_per_host_link", str(n.accelerators_per_host_link), ""
    if n.nvme is not None:
        yield from _storage("nvme", n.nvme)
    yield "power_overhead", format_quantity(n.power_overhead, "power", 4), ""
    yield "power_peak", format_quantity(n.power_peak, "power", 4), ""
    yield from _price(n.price)
    for key, one in n.accelerator.learnt.items():
        yield f"learnt.{key}", f"x {one.factor:.4g}, sigma {one.sigma:.1%}", one.source


def _network(n: NetworkProfile) -> _Figures:
    yield "scope", n.scope, ""
    if n.accelerator:
        yield "accelerator", n.accelerator, ""
    if n.link.name:
        yield from _link("link", n.link, "" if n.link.name == n.name else _see(n.link))
    yield from _constants("constants", n.constants)
    for operation, family in n.curves.items():
        for ranks, curve in family.items():
            low, high = (format_quantity(t, "time") for t in (curve.seconds[0], curve.seconds[-1]))
            yield f"curves.{operation}.{ranks}", f"{len(curve.x)} points, {low} to {high}", ""


def _cluster(c: Cluster) -> _Figures:
    for i, group in enumerate(c.groups):
        yield f"groups[{i}]", f"{group.count} x {group.node.name}", ""
    yield "accelerators", str(c.accelerator_count), ""
    yield "fabric.topology", c.fabric.topology, ""
    yield "fabric.oversubscription", f"{c.fabric.oversubscription:g}", ""
    for key, value in c.fabric.options:
        yield f"fabric.options.{key}", str(value), ""
    yield from _link("fabric.link", c.fabric.link, _see(c.fabric.link))
    for storage in c.storage:
        yield from _storage(f"storage.{storage.name}", storage)


def _see(profile: Accelerator | Link) -> str:
    return f"see the profile {profile.name}"


def _link(field: str, link: Link, source: str = "") -> _Figures:
    yield f"{field}.name", link.name, source
    yield f"{field}.bandwidth", f"{link.bandwidth / 1e9:g} GB/s per direction", source
    if link.efficiency < 1:
        yield f"{field}.achievable", f"{link.achievable / 1e9:.4g} GB/s per direction", source
    yield f"{field}.latency", format_quantity(link.latency, "time"), source
    if link.ring_hop:
        yield f"{field}.ring_hop", format_quantity(link.ring_hop, "time"), source
    if link.tree_share < 1:
        yield f"{field}.tree_share", f"{link.tree_share:g}", source


def _scale_up(field: str, scale_up: ScaleUp, source: str = "") -> _Figures:
    if scale_up.topology == "none":
        yield field, "none", source
        return
    yield from _link(field, scale_up.link, source)
    yield f"{field}.domain", str(scale_up.domain), source
    yield f"{field}.topology", scale_up.topology, source
    yield f"{field}.in_network_reduction", str(scale_up.in_network_reduction).lower(), source


def _storage(field: str, storage: Storage) -> _Figures:
    source = "; ".join(storage.sources)
    if storage.capacity:
        yield f"{field}.capacity", f"{storage.capacity / 1e12:g} TB", source
    yield f"{field}.read", format_quantity(storage.read, "bandwidth"), source
    yield f"{field}.write", format_quantity(storage.write, "bandwidth"), source
    if storage.endurance:
        yield f"{field}.endurance", f"{storage.endurance / 1e15:g} PB written", source


def _price(price: Price) -> _Figures:
    source = f"{price.source} ({price.as_of})" if price.source else ""
    if price.purchase is not None:
        yield "price.purchase", f"{price.purchase[0]:,.0f} to {price.purchase[1]:,.0f} USD", source
    if price.rental is not None:
        low, high = (p * 3600 for p in price.rental)
        yield "price.rental", f"{low:.2f} to {high:.2f} USD/h", source


def _constants(field: str, constants: Mapping[str, Constant]) -> _Figures:
    for key, c in constants.items():
        dimension = _DIMENSION_OF_UNIT.get(c.unit)
        value = format_quantity(c.value, dimension, 4) if dimension else f"{c.value:.4g} {c.unit}".rstrip()
        yield f"{field}.{key}", value, f"{c.trust}, sigma {c.sigma:.1%}: {c.source}"
