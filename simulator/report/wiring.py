"""How a cluster is wired, as tables: every link by name, and the classes of equal links."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.network.links import class_of

if TYPE_CHECKING:
    from simulator.network.topology import Topology

__all__ = ["link_classes", "link_table"]


def link_table(topology: Topology) -> Mapping[str, list[Any]]:
    """Every directed link: name, ends, kind, bandwidth [B/s], latency [s], first of the links used alike."""
    links = topology.links
    every = range(len(links))
    vertex = [links.vertex_names[i] for i in range(len(links.vertex_names))]
    return {
        "link": [links.name(i) for i in every],
        "from": [vertex[i] for i in links.source.tolist()],
        "to": [vertex[i] for i in links.target.tolist()],
        "kind": [links.kind_of(i) for i in every],
        "bandwidth [B/s]": links.capacity.tolist(),
        "latency [s]": links.latency.tolist(),
        "used alike with": [links.name(i) for i in links.bundle.tolist()],
    }


def link_classes(topology: Topology) -> list[dict[str, Any]]:
    """Equal links by what they join: number, bandwidth of one and of all [B/s], latency [s].

    From inside the nodes to the core. A class holds one direction; most have a twin of the other.
    """
    links = topology.links
    vertex = np.array([class_of(links.vertex_names[i]) for i in range(len(links.vertex_names))])
    names, code = np.unique(vertex, return_inverse=True)
    key = np.stack([links.kind, code[links.source], code[links.target]])
    kinds, which = np.unique(key, axis=1, return_inverse=True)
    found = []
    for number in range(kinds.shape[1]):
        mine = np.flatnonzero(which.ravel() == number)
        speed, first = links.capacity[mine], int(mine[0])
        _, source, target = kinds[:, number].tolist()
        found.append(
            {
                "kind": links.kind_of(first), "from": str(names[source]), "to": str(names[target]),
                "links": len(mine), "bandwidth": float(np.median(speed)), "least": float(speed.min()),
                "total": float(speed.sum()), "latency": float(links.latency[first]), "example": links.name(first),
            }
        )  # fmt: skip
    return found
