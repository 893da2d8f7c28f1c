"""Parts of the scale-up networks that reach beyond a node: switches, optics and cables of supernodes and of TPU pods.

They are sold with the nodes: the rows count them, and their price and power are those of the nodes.

- A Blackwell rack joins 72 GPUs by 18 NVLink switches in nine trays: 18 links of 50 GB/s each, four pairs of copper per
  link (setloop.io/blog/gb200-nvl72-architecture: nine trays of two switches, over 5,000 cables).
- CloudMatrix384 joins 48 nodes of eight NPUs by seven UB switches in every node and 7 x 16 above them, 56 optical 400G
  modules per node at either end (arXiv 2506.12708; reportify.ai of August 2025 for the modules).
- TPU v4, v5p and Ironwood join cubes of 4 x 4 x 4 chips, each with 16 optical links on six faces, by optical circuit
  switches; both ends of a dimension at one place of the face end on the same switch, so that 64 cubes need 3 x 16
  switches of 128 ports (glennklockwood.com/garden/processors/TPUv4: 6,144 links and 48 switches in 4,096 chips).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from simulator.hardware.types import Cluster, Node

__all__ = ["ScaleUpPart", "scale_up_parts"]

CUBE, FACE_LINKS, FACES, CIRCUIT_PORTS = 64, 16, 6, 128
NVLINK_PER_DIRECTION, NVSWITCH_PORTS, PAIRS_PER_LINK = 50e9, 72, 4
UB_NODE_SWITCHES, UB_ABOVE, UB_MODULES, UB_NODES = 7, 16, 56, 48


@dataclass(frozen=True)
class ScaleUpPart:
    """So many of a thing that is sold with the nodes."""

    item: str
    part: str
    count: int


def scale_up_parts(cluster: Cluster) -> tuple[ScaleUpPart, ...]:
    """What joins the nodes of every scale-up domain; empty where domains do not reach beyond a node."""
    found: list[ScaleUpPart] = []
    for group in cluster.groups:
        node = group.node
        if node.scale_up.domain > node.accelerators and group.count > 1:
            found += _of(node, group.count)
    return tuple(found)


def _of(node: Node, count: int) -> Iterator[ScaleUpPart]:
    name, domain = node.scale_up.link.name, node.scale_up.domain
    accelerators = node.accelerators * count
    domains = math.ceil(accelerators / domain)
    if name == "ici-3d":
        yield from _optical_torus(accelerators)
    elif name.startswith("nvlink") and node.scale_up.topology == "switch":
        links = round(node.scale_up.link.bandwidth / NVLINK_PER_DIRECTION)
        switches = math.ceil(domain * links / NVSWITCH_PORTS)
        yield ScaleUpPart("scale-up switch", f"{name} switch", domains * switches)
        yield ScaleUpPart("scale-up cable", f"copper pair of {name}", accelerators * links * PAIRS_PER_LINK)
    elif name == "unified-bus":
        yield ScaleUpPart("scale-up switch", "UB switch in a node", count * UB_NODE_SWITCHES)
        yield ScaleUpPart(
            "scale-up switch", "UB switch above", math.ceil(count / UB_NODES) * UB_NODE_SWITCHES * UB_ABOVE
        )
        yield ScaleUpPart("scale-up transceiver", "400G optical module", 2 * count * UB_MODULES)


def _optical_torus(accelerators: int) -> Iterator[ScaleUpPart]:
    """Cubes of a TPU pod; inside one there is only copper."""
    cubes = math.ceil(accelerators / CUBE)
    if cubes < 2:
        return
    links = cubes * FACES * FACE_LINKS
    positions = FACES // 2 * FACE_LINKS
    yield ScaleUpPart(
        "optical circuit switch", f"{CIRCUIT_PORTS} ports", positions * math.ceil(2 * cubes / CIRCUIT_PORTS)
    )
    yield ScaleUpPart("scale-up transceiver", "optical module at a chip's link", links)
    yield ScaleUpPart("scale-up fibre", "fibre to a circuit switch", links)
