"""Ways through a network: which links the bytes from one endpoint to another cross.

Equal-cost ways are chosen by a hash of the flow (ECMP: two flows may collide on one uplink while another stands
idle) or used evenly all at once (packet spraying, adaptive routing). On rail-optimised fabrics, traffic between
rails first crosses the sender's scale-up network to the accelerator on the rail of its destination (PXN).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from simulator.network.detours import add_ways
from simulator.network.hashing import ecmp_hash
from simulator.network.links import Ids

if TYPE_CHECKING:
    from simulator.network.topology import Topology

__all__ = ["add_loads", "path", "path_avoiding", "spread"]

_MOST_TRIES = 256


@dataclass(frozen=True)
class _Choice:
    """A piece of a way with ``width`` equal alternatives."""

    width: int
    path: Callable[[int], tuple[int, ...]]
    spread: Callable[[], dict[int, float]] | None = None


_Piece = tuple[int, ...] | _Choice


def path(topology: Topology, src: int, dst: int, flow_hash: int = 0) -> tuple[int, ...]:
    """Links from endpoint ``src`` to ``dst``, equal-cost ways chosen by hash."""
    return _pick(_pieces(topology, src, dst, flow_hash), ecmp_hash(src, dst, flow_hash))


def path_avoiding(
    topology: Topology, src: int, dst: int, down: Collection[int], flow_hash: int = 0
) -> tuple[int, ...] | None:
    """As :func:`path`, but around the links in ``down``; ``None`` when every way (of the first 256) needs one."""
    dead = frozenset(down)
    for attempt in range(_MOST_TRIES):
        pieces = _pieces(topology, src, dst, flow_hash + attempt)
        found = _pick(pieces, ecmp_hash(src, dst, flow_hash) + attempt)
        if dead.isdisjoint(found):
            return found
    return None


def spread(topology: Topology, src: int, dst: int, flow_hash: int = 0) -> dict[int, float]:
    """Link → share of the traffic when it is spread evenly over all equal-cost ways."""
    shares: dict[int, float] = {}

    def add(link: int, share: float) -> None:
        shares[link] = shares.get(link, 0.0) + share

    for piece in _pieces(topology, src, dst, flow_hash):
        if isinstance(piece, tuple):
            for link in piece:
                add(link, 1.0)
        elif piece.spread is not None:
            for link, share in piece.spread().items():
                add(link, share)
        else:
            for choice in range(piece.width):
                for link in piece.path(choice):
                    add(link, 1.0 / piece.width)
    return shares


def _pick(pieces: list[_Piece], number: int) -> tuple[int, ...]:
    found: list[int] = []
    for piece in pieces:
        found += piece if isinstance(piece, tuple) else piece.path(number % piece.width)
    return tuple(found)


def _pieces(t: Topology, src: int, dst: int, flow_hash: int) -> list[_Piece]:
    if src == dst:
        return []
    nodes = t.nodes
    inside = t.is_accelerator(src) and t.is_accelerator(dst)
    if inside and nodes.domain_of[src] == nodes.domain_of[dst]:
        return [_scale_up(t, src, dst)]
    if t.node_of(src) == t.node_of(dst) >= 0:
        return [(*_to_host(t, src), *_from_host(t, dst))]
    pieces: list[_Piece] = []
    port, into = _port(t, src, flow_hash), _port(t, dst, flow_hash)
    if inside and t.uses_proxies and t.ports.rail[port] != t.ports.rail[into]:
        proxy = int(nodes.rail_rank[t.node_of(src), t.ports.rail[into]])
        if proxy >= 0 and nodes.domain_of[proxy] == nodes.domain_of[src]:
            pieces.append(_scale_up(t, src, proxy))
            src, port = proxy, int(nodes.port_of[proxy])
    wiring = t.wiring
    way = _Choice(wiring.width(port, into), lambda c: wiring.path(port, into, c), lambda: wiring.spread(port, into))
    return [
        *pieces,
        (*_to_port(t, src, port), int(t.port_out[port])),
        way,
        (int(t.port_in[into]), *_from_port(t, dst, into)),
    ]


def _scale_up(t: Topology, src: int, dst: int) -> _Piece:
    network = t.nodes.groups[int(t.nodes.group_of[src])].scale_up
    assert network is not None
    a, b = int(t.nodes.place[src]), int(t.nodes.place[dst])
    width = network.width(a, b)
    return network.path(a, b, 0) if width == 1 else _Choice(width, lambda c: network.path(a, b, c))


def _port(t: Topology, endpoint: int, flow_hash: int) -> int:
    """The port an endpoint uses: its own for accelerators and storage, any of the node's by hash for a host."""
    if t.is_accelerator(endpoint):
        return int(t.nodes.port_of[endpoint])
    node = t.node_of(endpoint)
    if node < 0:
        return t.storage_port(endpoint)
    return int(t.nodes.first_port[node]) + ecmp_hash(endpoint, flow_hash) % int(t.nodes.port_count[node])


def _to_host(t: Topology, endpoint: int) -> tuple[int, ...]:
    if t.is_accelerator(endpoint):
        return int(t.nodes.host_out[endpoint]), int(t.nodes.uplink_out[endpoint])
    return (int(t.nodes.nvme_read[t.node_of(endpoint)]),) if t.is_nvme(endpoint) else ()


def _from_host(t: Topology, endpoint: int) -> tuple[int, ...]:
    if t.is_accelerator(endpoint):
        return int(t.nodes.uplink_in[endpoint]), int(t.nodes.host_in[endpoint])
    return (int(t.nodes.nvme_write[t.node_of(endpoint)]),) if t.is_nvme(endpoint) else ()


def _to_port(t: Topology, endpoint: int, port: int) -> tuple[int, ...]:
    if t.node_of(endpoint) < 0:
        return ()
    if t.is_accelerator(endpoint) and not t.nodes.via_uplink[endpoint]:
        return (int(t.nodes.host_out[endpoint]),)
    link = int(t.nodes.nic_uplink_in[port])
    return (*_to_host(t, endpoint), *((link,) if link >= 0 else ()))


def _from_port(t: Topology, endpoint: int, port: int) -> tuple[int, ...]:
    if t.node_of(endpoint) < 0:
        return ()
    if t.is_accelerator(endpoint) and not t.nodes.via_uplink[endpoint]:
        return (int(t.nodes.host_in[endpoint]),)
    link = int(t.nodes.nic_uplink_out[port])
    return (*((link,) if link >= 0 else ()), *_from_host(t, endpoint))


def add_loads(
    t: Topology,
    found: NDArray[np.float64],
    src: Ids,
    dst: Ids,
    volume: NDArray[np.float64],
    capacity: NDArray[np.float64] | None = None,
) -> None:
    """Add to ``found`` [links] the bytes of accelerators ``src[i]`` sending ``volume[i]`` to ``dst[i]``.

    Between nodes they take the ways of the fabric's routing; where that sprays, this is the same as adding up
    :func:`spread` over all messages. With ``capacity`` [links] they go round links that have none left.
    """
    nodes = t.nodes

    def add(links: Ids, amount: NDArray[np.float64]) -> None:
        np.add.at(found, links, amount)

    def cross(a: Ids, b: Ids, amount: NDArray[np.float64]) -> None:
        out, into = t.switch_out[a], t.switch_in[b]
        plain = out >= 0
        add(out[plain], amount[plain])
        add(into[plain], amount[plain])
        for x, y, v in zip(a[~plain].tolist(), b[~plain].tolist(), amount[~plain].tolist(), strict=True):
            for link, share in spread(t, x, y).items():
                found[link] += share * v

    moving = src != dst
    src, dst, volume = src[moving], dst[moving], volume[moving]
    near = nodes.domain_of[src] == nodes.domain_of[dst]
    cross(src[near], dst[near], volume[near])
    local = ~near & (nodes.node_of[src] == nodes.node_of[dst])
    for links, ends in ((nodes.host_out, src), (nodes.uplink_out, src), (nodes.uplink_in, dst), (nodes.host_in, dst)):
        add(links[ends[local]], volume[local])
    far = ~near & ~local
    src, dst, volume = src[far], dst[far], volume[far]
    port, into = nodes.port_of[src], nodes.port_of[dst]
    pairs = np.stack([src, dst])
    if t.uses_proxies and len(src):
        proxy = nodes.rail_rank[nodes.node_of[src], t.ports.rail[into]]
        use = (t.ports.rail[port] != t.ports.rail[into]) & (proxy >= 0)
        use &= nodes.domain_of[proxy] == nodes.domain_of[src]
        cross(src[use], proxy[use], volume[use])
        src = np.where(use, proxy, src)
        port = nodes.port_of[src]
    add(nodes.host_out[src], volume)
    add(nodes.host_in[dst], volume)
    add(nodes.uplink_out[src[nodes.via_uplink[src]]], volume[nodes.via_uplink[src]])
    add(nodes.uplink_in[dst[nodes.via_uplink[dst]]], volume[nodes.via_uplink[dst]])
    add(t.port_out[port], volume)
    add(t.port_in[into], volume)
    add_ways(t, found, (port, into), pairs, volume, capacity)
