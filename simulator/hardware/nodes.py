"""Reads ``hardware_profiles/nodes/*.yaml`` and ``hardware_profiles/clusters/*.yaml``."""

from __future__ import annotations

from collections.abc import Callable

from simulator.hardware.fields import read_estimated, read_name, read_price, read_scale_up, read_storage
from simulator.hardware.overlays import NOTHING, read_overlay
from simulator.hardware.reader import Reader
from simulator.hardware.types import (
    Accelerator,
    Cluster,
    Fabric,
    Link,
    Node,
    NodeGroup,
    Site,
    Storage,
)

__all__ = ["read_cluster", "read_node"]

OVERHEAD_SHARE = 0.5
OVERHEAD_RULE = "half of the accelerators' peak power, as on DGX H100 (8.4 kW measured, of which 5.6; arXiv 2412.08602)"
PEAK_RULE = "accelerators at peak plus power_overhead"
NVME_WRITE_SHARE = 28 / 50
NVME_READ_PER_BYTE = 50e9 / 30.7e12
NVME_READ_RULE = "as 8 NVMe gen 4 drives of 3.84 TB in RAID 0 (50 GB/s of 30.7 TB), by capacity"
NVME_WRITE_RULE = "28/50 of the read bandwidth, as 8 NVMe gen 4 drives in RAID 0"

_NO_LINK, _NO_ACCELERATOR = NOTHING.nic, NOTHING.accelerator


def read_node(
    reader: Reader, stem: str, load_accelerator: Callable[[str], Accelerator], load_link: Callable[[str], Link],
    load_node: Callable[[str], Node],
) -> Node:  # fmt: skip
    """One server; errors are recorded in ``reader.issues``."""
    if "based_on" in reader:
        return read_overlay(reader, stem, load_node)
    estimated = read_estimated(reader)
    name = read_name(reader, stem)
    accelerator = reader.reference("accelerator", load_accelerator, _NO_ACCELERATOR)
    count = reader.integer("accelerators", least=1)
    nic, nics = _nic(reader, load_link)
    overhead, peak = _power(reader, accelerator.power.peak * count, estimated)
    node = Node(
        name=name,
        accelerator=accelerator,
        accelerators=count,
        scale_up=read_scale_up(reader, estimated) or accelerator.scale_up,
        nic=nic,
        nics=nics,
        host_memory=reader.quantity("host_memory", "data"),
        host_memory_bandwidth=reader.quantity("host_memory_bandwidth", "bandwidth"),
        nvme=_nvme(reader, name, estimated),
        accelerators_per_host_link=reader.integer("accelerators_per_host_link", 1, least=1),
        cpu_flops=reader.quantity("cpu_flops", "compute_rate", 0.0),
        host_speed=_host_speed(reader),
        power_overhead=overhead,
        power_peak=peak,
        price=read_price(reader),
        sources=reader.texts("sources"),
        notes=reader.text("notes", ""),
        estimated=estimated,
    )
    if not node.sources:
        reader.error("'sources' is missing: say where the figures come from", "sources")
    reader.finish()
    return node


def _host_speed(reader: Reader) -> float:
    speed = reader.quantity("host_speed", "ratio", 1.0)
    if speed == 0:
        reader.error("must be above 0: the time of a launch is divided by it", "host_speed")
    return speed


def _nic(reader: Reader, load_link: Callable[[str], Link]) -> tuple[Link, int]:
    """The compute network's ports; a node without any (a single box) has ``nic: none`` left out."""
    section = reader.section("nic")
    if section is None:
        return _NO_LINK, 0
    link, count = section.reference("link", load_link, _NO_LINK), section.integer("count", least=1)
    section.finish()
    return link, count


def _power(reader: Reader, accelerators: float, estimated: dict[str, str]) -> tuple[float, float]:
    """Draw of everything but the accelerators, and the rating of the node [W]."""
    overhead, peak = reader.optional("power_overhead", "power"), reader.optional("power_peak", "power")
    if overhead is None:
        estimated["power_overhead"] = OVERHEAD_RULE
        overhead = OVERHEAD_SHARE * accelerators
        if peak is not None:
            overhead = max(0.0, min(overhead, peak - accelerators))
    if peak is None:
        estimated["power_peak"] = PEAK_RULE
        peak = accelerators + overhead
    return overhead, peak


def _nvme(reader: Reader, node: str, estimated: dict[str, str]) -> Storage | None:
    section = reader.section("nvme")
    if section is None:
        return None
    capacity = section.quantity("capacity", "data")
    read = section.optional("read", "bandwidth")
    if read is None:
        estimated["nvme.read"] = NVME_READ_RULE
        read = NVME_READ_PER_BYTE * capacity
    write = section.optional("write", "bandwidth")
    if write is None:
        estimated["nvme.write"] = NVME_WRITE_RULE
        write = NVME_WRITE_SHARE * read
    latency, endurance = section.quantity("latency", "time", 0.0), section.quantity("endurance", "data", 0.0)
    storage = Storage(f"{node}-nvme", "nvme", read, write, capacity, latency, endurance=endurance)
    section.finish()
    return storage


def read_cluster(
    reader: Reader, stem: str, load_node: Callable[[str], Node], load_link: Callable[[str], Link]
) -> Cluster:
    """One named cluster; errors are recorded in ``reader.issues``."""
    no_node = Node("", _NO_ACCELERATOR, 1, _NO_ACCELERATOR.scale_up, _NO_LINK, 0, 0.0, 0.0)
    groups = []
    for section in reader.sections("groups", required=True):
        node = section.reference("profile", load_node, no_node)
        groups.append(NodeGroup(node, section.integer("count", least=1)))
        section.finish()
    cluster = Cluster(
        name=read_name(reader, stem),
        groups=tuple(groups),
        fabric=_fabric(reader, load_link),
        storage=tuple(read_storage(section) for section in reader.sections("storage")),
        site=_site(reader),
        sources=reader.texts("sources"),
        notes=reader.text("notes", ""),
        estimated=read_estimated(reader),
    )
    if not cluster.sources:
        reader.error("'sources' is missing: say where the figures come from", "sources")
    reader.finish()
    return cluster


def _fabric(reader: Reader, load_link: Callable[[str], Link]) -> Fabric:
    section = reader.section("fabric", required=True)
    if section is None:
        return Fabric("single-switch", _NO_LINK)
    options = section.take("options")
    pairs = sorted(options.to_plain().items()) if options is not None and options.kind == "mapping" else []
    if options is not None and options.kind != "mapping":
        section.error("must be a mapping of options of the topology", "options")
    oversubscription = section.quantity("oversubscription", "ratio", 1.0)
    if oversubscription < 1:
        section.error("is below 1: write downlink over uplink bandwidth, 1 = non-blocking", "oversubscription")
    link = section.reference("link", load_link, _NO_LINK)
    fabric = Fabric(section.text("topology"), link, oversubscription, tuple(pairs))
    section.finish()
    return fabric


def _site(reader: Reader) -> Site:
    section = reader.section("site")
    if section is None:
        return Site()
    site = Site(
        section.text("name", "site"),
        section.quantity("power_price", "energy_price", 0.0),
        section.quantity("carbon", "carbon_intensity", 0.0),
        section.quantity("pue", "ratio", 1.0),
    )
    section.finish()
    return site
