"""Several sites, each with a fabric of its own, joined by wide-area links."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from simulator.hardware.types import Fabric
from simulator.network.links import NetworkBuilder
from simulator.network.wiring import HOP_LATENCY, PATH, Options, Ports, Wiring, register_topology, topology_class

__all__ = ["MultiSite"]


@register_topology(
    "multi-site",
    {
        "sites": "number of nodes at each site, in order, e.g. [64, 32]",
        "site_topology": "topology inside each site, 'fat-tree' by default",
        "site_options": "options of that topology",
        "wan_bandwidth": "of the link between each pair of sites, per direction, e.g. '400 Gb/s'",
        "wan_latency": "one way, e.g. '10 ms'",
        "wan_links": "list of {between: [0, 1], bandwidth: ..., latency: ...}, instead of a full mesh",
    },
)
class MultiSite(Wiring):
    """Sites joined by WAN links; traffic takes the way with the lowest latency.

    Each site has a gateway on its own fabric. Shared storage is at the first site.
    """

    def __init__(self, builder: NetworkBuilder, ports: Ports, fabric: Fabric, options: Options) -> None:
        super().__init__(builder, ports, fabric, options)
        nodes = np.unique(ports.node[: ports.count])
        sizes = options.shape("sites")
        if sizes is None or sum(sizes) != len(nodes):
            builder.issues.add(
                f"give the nodes of each site, e.g. sites: [{len(nodes) - len(nodes) // 2}, {len(nodes) // 2}]; "
                f"they must add up to {len(nodes)}",
                f"{PATH}.sites",
            )
        wan = self._wan_links(builder, options, len(sizes or ()))
        builder.issues.raise_if_any()
        assert sizes is not None
        site_of_node = np.repeat(np.arange(len(sizes)), sizes)
        site = np.zeros(len(ports.vertex), np.int64)
        site[: ports.count] = site_of_node[np.searchsorted(nodes, ports.node[: ports.count])]
        self._site = site
        self._local = np.zeros(len(ports.vertex), np.int64)
        self._inside: list[Wiring] = []
        self._gateway_port: list[int] = []
        kind = topology_class(str(options.get("site_topology", "fat-tree")))
        inner = {"hop_latency": options.quantity("hop_latency", HOP_LATENCY, "time"), **options.get("site_options", {})}
        for number in range(len(sizes)):
            members = np.flatnonzero(site == number)
            speed = sum(w[2] for w in wan if number in w[:2]) or float(ports.capacity.max())
            sub = Ports(
                vertex=np.append(ports.vertex[members], -1),  # a gateway is where traffic passes, not where it ends
                capacity=np.append(ports.capacity[members], speed),
                node=np.append(ports.node[members], -1),
                rail=np.append(ports.rail[members], -1),
                count=int((ports.node[members] >= 0).sum()),
            )
            self._local[members] = np.arange(len(members))
            builder.prefix = f"site{number}/"
            wiring = kind(
                builder, sub, replace(fabric, topology=kind.name), Options(inner, kind.known_options, builder)
            )
            self.switch[members] = wiring.switch[: len(members)]
            self._inside.append(wiring)
            self._gateway_port.append(len(members))
            builder.prefix = ""
        self._connect(builder, wan, [int(w.switch[-1]) for w in self._inside])

    @staticmethod
    def _wan_links(builder: NetworkBuilder, options: Options, sites: int) -> list[tuple[int, int, float, float]]:
        given: Any = options.get("wan_links")
        if given is None:
            if options.get("wan_bandwidth") is None:
                builder.issues.add("give the bandwidth between sites, e.g. '400 Gb/s'", f"{PATH}.wan_bandwidth")
            speed = options.quantity("wan_bandwidth", 1.0, "bandwidth")
            delay = options.quantity("wan_latency", 0.0, "time")
            return [(i, j, speed, delay) for i in range(sites) for j in range(i + 1, sites)]
        links = []
        for n, link in enumerate(given):
            ends = link.get("between", ()) if isinstance(link, dict) else ()
            if len(ends) != 2 or len(set(ends)) != 2 or not all(e in range(sites) for e in ends):
                builder.issues.add(f"needs between: [i, j], two of the sites 0..{sites - 1}", f"{PATH}.wan_links[{n}]")
                continue
            where = f"wan_links[{n}]"
            speed = options.parse(link.get("bandwidth"), f"{where}.bandwidth", 1.0, "bandwidth")
            links.append((*ends, speed, options.parse(link.get("latency", 0), f"{where}.latency", 0.0, "time")))
        return links

    def _connect(self, builder: NetworkBuilder, wan: list[tuple[int, int, float, float]], gateway: list[int]) -> None:
        import networkx as nx

        graph: nx.Graph[int] = nx.Graph()
        graph.add_nodes_from(range(len(gateway)))
        cables: dict[tuple[int, int], int] = {}
        for i, j, speed, delay in wan:
            graph.add_edge(i, j, weight=delay + 1e-12)
            for a, b in ((i, j), (j, i)):
                name = f"site{a}>site{b}"
                cables[a, b] = int(builder.links(name, "wan", [gateway[a]], [gateway[b]], speed, delay)[0])
        if not nx.is_connected(graph):
            alone = ", ".join(str(sorted(part)) for part in nx.connected_components(graph))
            builder.issues.add(f"sites cannot all reach each other, parts: {alone}; add wan_links", f"{PATH}.wan_links")
        self._between = {
            (a, b): tuple(cables[x, y] for x, y in pairwise(route))
            for a, routes in nx.all_pairs_dijkstra_path(graph)
            for b, route in routes.items()
        }

    def width(self, a: int, b: int) -> int:
        """See :meth:`Wiring.width`."""
        i, j = int(self._site[a]), int(self._site[b])
        if i == j:
            return self._inside[i].width(int(self._local[a]), int(self._local[b]))
        out = self._inside[i].width(int(self._local[a]), self._gateway_port[i])
        return out * self._inside[j].width(self._gateway_port[j], int(self._local[b]))

    def path(self, a: int, b: int, choice: int) -> tuple[int, ...]:
        """See :meth:`Wiring.path`."""
        i, j, x, y = int(self._site[a]), int(self._site[b]), int(self._local[a]), int(self._local[b])
        if i == j:
            return self._inside[i].path(x, y, choice)
        into, out = divmod(choice, self._inside[i].width(x, self._gateway_port[i]))
        first = self._inside[i].path(x, self._gateway_port[i], out)
        return (*first, *self._between[i, j], *self._inside[j].path(self._gateway_port[j], y, into))

    def spread(self, a: int, b: int) -> dict[int, float]:
        """See :meth:`Wiring.spread`."""
        i, j, x, y = int(self._site[a]), int(self._site[b]), int(self._local[a]), int(self._local[b])
        if i == j:
            return self._inside[i].spread(x, y)
        shares = self._inside[i].spread(x, self._gateway_port[i]) | self._inside[j].spread(self._gateway_port[j], y)
        return shares | dict.fromkeys(self._between[i, j], 1.0)
