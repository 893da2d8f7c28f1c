"""From the words of a source ("A100-80GB", "8x 200 Gb/s HDR InfiniBand per node") to a cluster."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache

from simulator.hardware.profiles import load_link, load_node, node_names
from simulator.hardware.types import Cluster, Fabric, Link, Node, NodeGroup

__all__ = ["UnknownHardwareError", "cluster_of", "node_of", "port_of"]

NODES = (
    (r"v100.*sxm3|dgx.?2\b", "dgx-2"),
    (r"v100.*16", "v100-16gb-8x"),
    (r"v100", "dgx-1-v100"),
    (r"\bp100", "dgx-1-p100"),
    (r"a100.*pcie.*40|a100.*40.*pcie", "fireflyer2-a100-pcie"),
    (r"a100.*pcie", "a100-pcie-8x"),
    (r"a100.*40", "dgx-a100-320"),
    (r"a800", "hgx-a800"),
    (r"a100", "dgx-a100-640"),
    (r"h100.*nvl", "h100-nvl-8x"),
    (r"h100.*pcie", "h100-pcie-8x"),
    (r"h100", "dgx-h100"),
    (r"h800", "hgx-h800"),
    (r"gh200", "gh200-server"),
    (r"h200.*nvl", "h200-nvl-8x"),
    (r"h200", "hgx-h200"),
    (r"\bh20\b", "hgx-h20"),
    (r"gb300", "gb300-nvl72"),
    (r"gb200", "gb200-nvl72"),
    (r"b300", "dgx-b300"),
    (r"b200", "dgx-b200"),
    (r"b100", "hgx-b100"),
    (r"mi210", "mi210-4x"),
    (r"mi250", "mi250x-4x"),
    (r"mi300", "mi300x-8x"),
    (r"mi325", "mi325x-8x"),
    (r"mi350", "mi350x-8x"),
    (r"mi355", "mi355x-8x"),
    (r"l40s", "l40s-8x"),
    (r"\bl40\b", "l40-8x"),
    (r"\bl4\b", "l4-8x"),
    (r"a10g", "a10g-4x"),
    (r"\ba10\b", "a10-4x"),
    (r"\bt4\b", "t4-4x"),
    (r"\ba30\b", "a30-4x"),
    (r"\ba40\b", "a40-8x"),
    (r"a6000", "rtx-a6000-8x"),
    (r"\b3090\b|rtx.?3090", "rtx-3090-8x"),
    (r"\b4090\b|rtx.?4090", "rtx-4090-8x"),
    (r"\b5090\b|rtx.?5090", "rtx-5090-8x"),
    (r"rtx.?pro.?6000", "rtx-pro-6000-8x"),
    (r"rtx.?6000", "rtx-6000-ada-8x"),
    (r"910.?b", "atlas-800t-a2"),
    (r"910.?c", "cloudmatrix-node"),
    (r"gaudi.?2|hl.?225", "gaudi2-8x"),
    (r"gaudi.?3|hl.?325", "gaudi3-8x"),
    (r"inferentia.?2|inf2", "inf2-48xl"),
    (r"trainium.?2|trn2", "trn2-48xl"),
    (r"trainium|trn1", "trn1-32xl"),
    (r"tpu.?v?3", "tpu-v3-host"),
    (r"tpu.?v?4", "tpu-v4-host"),
    (r"tpu.?v?5.?(e|lite)", "tpu-v5e-host"),
    (r"tpu.?v?5.?p", "tpu-v5p-host"),
    (r"tpu.?v?6|trillium", "tpu-v6e-host"),
    (r"tpu.?v?7|ironwood", "tpu-v7-host"),
)
"""GPU names in the words of sources → the node type that carries them by default; the first match counts."""

PORTS = {
    ("ib", 25): "hdr200", ("ib", 12.5): "edr100", ("ib", 50): "ndr400", ("ib", 100): "xdr800",
    ("roce", 12.5): "roce100", ("roce", 25): "roce200", ("roce", 50): "roce400", ("roce", 100): "roce800",
    ("efa", 12.5): "efa-v1", ("efa", 50): "efa-v3",
}  # fmt: skip
"""Shipped links by family and bandwidth [GB/s]; other speeds take the nearest of the family with their own
bandwidth."""


class UnknownHardwareError(ValueError):
    """The accelerator of a record has no profile."""


def node_of(gpu: str, per_node: int = 0) -> Node:
    """The node type called ``gpu`` or that carries it, with ``per_node`` accelerators where the source says how many.

    Raises
    ------
    UnknownHardwareError
        If no profile matches.
    """
    if gpu in node_names():
        return _resized(load_node(gpu), per_node)
    words = gpu.lower().replace("_", " ").replace("-", " ")
    for pattern, name in NODES:
        if re.search(pattern, words):
            if name == "dgx-1-v100" and per_node == 16:
                name = "dgx-2"
            return _resized(load_node(name), per_node)
    raise UnknownHardwareError(f"no hardware profile for '{gpu}'")


def _resized(node: Node, count: int) -> Node:
    """The node with another number of accelerators; ports stay one per accelerator where they were."""
    if not count or count == node.accelerators:
        return node
    ports = max(1, round(node.nics * count / node.accelerators))
    return replace(node, name=f"{node.name} with {count}", accelerators=count, nics=ports)


_COUNTED = re.compile(r"(\d+)\s*x\s*(?:[A-Za-z][\w-]*\s+){0,4}?(\d+)\s*Gb", re.IGNORECASE)
_PER_NODE = re.compile(r"(\d+)\s*Gb(?:/s|ps|/sec)?[^,;]*per node", re.IGNORECASE)
_PER_GPU = re.compile(r"(\d+)\s*Gb(?:/s|ps|/sec)?[^,;]*per (?:GPU|accelerator)", re.IGNORECASE)


@cache
def port_of(words: str, accelerators: int) -> tuple[Link, int] | None:
    """Network port and number of ports per node that a source describes, ``None`` where it does not.

    Parts about storage and management networks are ignored.
    """
    parts = [p for p in re.split(r"[,;]\s*|\(", words) if not re.match(r"\s*(storage|management)", p, re.IGNORECASE)]
    text = ", ".join(parts)
    family = "efa" if "EFA" in text else "roce" if re.search(r"RoCE|Ethernet", text) else "ib"
    if match := _COUNTED.search(text):
        count, rate = int(match[1]), float(match[2]) / 8
    elif match := _PER_GPU.search(text):
        count, rate = accelerators, float(match[1]) / 8
    elif match := _PER_NODE.search(text):
        total = float(match[1]) / 8
        count = next((n for n in (1, 2, 4, 8, 16) if total / n <= 50), 16)
        if total == 200:  # 1600 Gb/s: eight ports of 200, as every node of that generation had
            count = 8
        rate = total / count
    else:
        return None
    return _link(family, rate), count


def _link(family: str, rate: float) -> Link:
    known = {speed: name for (kind, speed), name in PORTS.items() if kind == family}
    nearest = min(known, key=lambda speed: abs(speed - rate))
    link = load_link(known[nearest])
    return link if nearest == rate else replace(link, bandwidth=rate * 1e9)


def cluster_of(gpu: str, accelerators: int, per_node: int = 0, network: str = "") -> tuple[Cluster, list[str]]:
    """A cluster of ``accelerators`` of ``gpu``, and what was assumed about it.

    Parameters
    ----------
    gpu, per_node, network
        In the source's words; 0 and "" where it says nothing.
    """
    node, assumed = node_of(gpu, per_node), list[str]()
    nodes = -(-accelerators // node.accelerators)
    if not per_node:
        assumed.append(f"{node.accelerators} accelerators per node ({node.name})")
    found = port_of(network, node.accelerators) if network else None
    if found is not None:
        node = replace(node, nic=found[0], nics=found[1])
    elif nodes > 1:
        assumed.append(f"network ports of {node.name}: {node.nics} × {node.nic.name}")
    if nodes == 1:
        node = replace(node, accelerators=min(node.accelerators, max(accelerators, 1)))
    fabric = Fabric("fat-tree", node.nic)
    return Cluster(f"{nodes} × {node.name}", (NodeGroup(node, nodes),), fabric), assumed
