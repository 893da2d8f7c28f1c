"""Any graph: switches and cables listed one by one, or a networkx graph."""

from __future__ import annotations

from itertools import islice, pairwise
from typing import Any

from simulator.errors import did_you_mean
from simulator.hardware.types import Fabric
from simulator.network.links import NetworkBuilder
from simulator.network.wiring import PATH, Options, Ports, Wiring, register_topology

__all__ = ["Graph"]

_MOST_PATHS = 64


@register_topology(
    "graph",
    {
        "links": "list of {between: [a, b], bandwidth: 400 Gb/s, latency: 1 us}; both directions get the bandwidth",
        "attach": "list of {nodes: [first, last], switch: name, port: 0}; other nodes go to a switch 'node<i>'",
        "gateways": "switch that storage is plugged into; the first one by default",
        "graph": "a networkx graph with the edge attributes bandwidth and latency, instead of links",
    },
)
class Graph(Wiring):
    """Shortest paths (fewest hops) on an explicit graph, at most 64 equal ones; found when asked for and kept."""

    def __init__(self, builder: NetworkBuilder, ports: Ports, fabric: Fabric, options: Options) -> None:
        import networkx as nx

        super().__init__(builder, ports, fabric, options)
        edges = self._edges(builder, options, fabric)
        self._graph: nx.Graph[str] = nx.Graph()
        self._graph.add_edges_from((a, b) for a, b, _, _ in edges)
        names = list(self._graph)
        at = self._attach(builder, ports, options, names)
        builder.issues.raise_if_any()
        used = sorted(set(at))
        parts = [part for part in nx.connected_components(self._graph) if part & set(used)]
        if len(parts) > 1:
            shown = " | ".join(", ".join(sorted(part)[:4]) for part in parts[:3])
            builder.issues.add(
                f"the graph falls into {len(parts)} parts without a way between them ({shown}): add links",
                f"{PATH}.links",
            )
        vertex = {name: int(v) for name, v in zip(names, self._vertices(builder, names), strict=True)}
        self.switch[:] = [vertex[name] for name in at]
        self._at = at
        self._cables: dict[tuple[str, str], int] = {}
        for a, b, bandwidth, latency in edges:
            for x, y in ((a, b), (b, a)):
                ids = builder.links(f"{x}>{y}", "leaf_spine", [vertex[x]], [vertex[y]], bandwidth, latency)
                self._cables[x, y] = int(ids[0])
        self._found: dict[tuple[str, str], list[tuple[int, ...]]] = {}

    @staticmethod
    def _vertices(builder: NetworkBuilder, names: list[str]) -> list[int]:
        return [int(builder.vertices(name.replace("{", "{{").replace("}", "}}"), 1)[0]) for name in names]

    def _edges(self, builder: NetworkBuilder, options: Options, fabric: Fabric) -> list[tuple[str, str, float, float]]:
        given: Any = options.get("links", [])
        if (graph := options.get("graph")) is not None:
            given = [{"between": [str(a), str(b)], **data} for a, b, data in graph.edges(data=True)]
        if not isinstance(given, list | tuple) or not given:
            builder.issues.add("a graph needs links: [{between: [a, b], bandwidth: 400 Gb/s}, ...]", f"{PATH}.links")
            return []
        edges: list[tuple[str, str, float, float]] = []
        seen: set[frozenset[str]] = set()
        for i, link in enumerate(given):
            ends = link.get("between") if isinstance(link, dict) else None
            if not isinstance(ends, list | tuple) or len(ends) != 2 or ends[0] == ends[1]:
                builder.issues.add("needs between: [a, b] with two different names", f"{PATH}.links[{i}]")
                continue
            if frozenset(map(str, ends)) in seen:
                builder.issues.add(
                    f"{ends[0]} and {ends[1]} are linked twice: add the bandwidths up in one link", f"{PATH}.links[{i}]"
                )
                continue
            seen.add(frozenset(map(str, ends)))
            where = f"links[{i}]"
            bandwidth = link.get("bandwidth", fabric.link.achievable)
            speed = options.parse(bandwidth, f"{where}.bandwidth", 1.0, "bandwidth")
            delay = options.parse(link.get("latency", self.hop_latency), f"{where}.latency", 0.0, "time")
            edges.append((str(ends[0]), str(ends[1]), speed, delay))
        return edges

    @staticmethod
    def _attach(builder: NetworkBuilder, ports: Ports, options: Options, names: list[str]) -> list[str]:
        """The switch of every port."""
        rules: list[tuple[int, int, int | None, str]] = []
        for i, rule in enumerate(options.get("attach", [])):
            nodes = rule.get("nodes") if isinstance(rule, dict) else None
            if isinstance(nodes, int):
                nodes = [nodes, nodes]
            if not isinstance(nodes, list | tuple) or len(nodes) != 2 or "switch" not in rule:
                builder.issues.add("needs nodes: [first, last] and switch: name", f"{PATH}.attach[{i}]")
                continue
            rules.append((nodes[0], nodes[1], rule.get("port"), str(rule["switch"])))
        known, missing, at = set(names), set(), []
        for node, rail in zip(ports.node.tolist(), ports.rail.tolist(), strict=True):
            fits = (name for low, high, port, name in rules if low <= node <= high and port in (None, rail))
            gateway = str(options.get("gateways", names[0] if names else ""))
            name = gateway if node < 0 else next(fits, f"node{node}")
            if name not in known:
                missing.add(name)
            at.append(name)
        for name in sorted(missing)[:8]:
            builder.issues.add(
                f"switch '{name}' has no link: name it in links, or attach its nodes to another switch. "
                f"{did_you_mean(name, names)}".strip(),
                f"{PATH}.attach",
            )
        return at

    def _paths(self, a: int, b: int) -> list[tuple[int, ...]]:
        import networkx as nx

        pair = (self._at[a], self._at[b])
        if pair not in self._found:
            routes = sorted(islice(nx.all_shortest_paths(self._graph, *pair), _MOST_PATHS))
            self._found[pair] = [tuple(self._cables[x, y] for x, y in pairwise(r)) for r in routes]
        return self._found[pair]

    def width(self, a: int, b: int) -> int:
        """See :meth:`Wiring.width`."""
        return len(self._paths(a, b))

    def path(self, a: int, b: int, choice: int) -> tuple[int, ...]:
        """See :meth:`Wiring.path`."""
        return self._paths(a, b)[choice]
