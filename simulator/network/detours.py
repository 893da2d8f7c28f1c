"""Which equal-cost ways between two ports carry how much: spraying, hashing, adapting, and going round faults."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from simulator.errors import ConfigError
from simulator.network.hashing import ecmp_hashes
from simulator.network.links import Ids

if TYPE_CHECKING:
    from simulator.network.topology import Topology

__all__ = ["NoWayError", "add_ways"]

Floats = NDArray[np.float64]


class NoWayError(ConfigError):
    """Every way between two places needs a link that is lost."""


def add_ways(
    t: Topology, found: Floats, ports: tuple[Ids, Ids], pairs: Ids, volume: Floats, capacity: Floats | None
) -> None:
    """Add the bytes of many messages between network ports to the links between their switches.

    Parameters
    ----------
    found
        [links], changed.
    ports
        Port of the sender and of the receiver of each message.
    pairs
        [2, messages], accelerators: what a connection is hashed by.
    volume
        [messages], [B].
    capacity
        [links], [B/s], where it is not that of the topology.

    Raises
    ------
    NoWayError
        If all ways of a message are lost.
    """
    if not volume.size:
        return
    routing = t.cluster.fabric.routing
    if capacity is not None and (capacity != t.links.capacity).any():
        _around(t, found, ports, pairs, volume, capacity)
    elif routing.policy == "ecmp":
        for connection in range(routing.connections):
            number = ecmp_hashes(pairs[0], pairs[1], connection)
            t.wiring.add_hashed(found, *ports, volume / routing.connections, number)
    else:  # with all ways alike, adapting is spraying
        t.wiring.add_loads(found, *ports, volume)


def _around(t: Topology, found: Floats, ports: tuple[Ids, Ids], pairs: Ids, volume: Floats, capacity: Floats) -> None:
    """Way by way, for each pair of switches; links without capacity are avoided."""
    policy, connections = t.cluster.fabric.routing.policy, t.cluster.fabric.routing.connections
    switch = t.wiring.switch
    ends = np.stack([switch[ports[0]], switch[ports[1]]])
    keys, which = np.unique(ends, axis=1, return_inverse=True)
    which = which.ravel()
    for number in range(keys.shape[1]):
        mine = np.flatnonzero(which == number)
        a, b = int(ports[0][mine[0]]), int(ports[1][mine[0]])
        ways = [t.wiring.path(a, b, choice) for choice in range(t.wiring.width(a, b))]
        room = np.array([min((float(capacity[i]) for i in way), default=np.inf) for way in ways])
        alive = np.flatnonzero(room > 0)
        if not len(alive):
            raise NoWayError(_reason(t, keys[:, number], ways, capacity))
        if policy == "ecmp":
            share = np.zeros(len(ways))
            for connection in range(connections):
                chosen = ecmp_hashes(pairs[0][mine], pairs[1][mine], connection) % np.uint64(len(alive))
                share += np.bincount(alive[chosen.astype(np.int64)], volume[mine] / connections, minlength=len(ways))
        else:
            weight = np.where(np.isfinite(room), room, 1.0) if policy == "adaptive" else (room > 0).astype(np.float64)
            share = float(volume[mine].sum()) * weight / weight.sum()
        for way, amount in zip(ways, share.tolist(), strict=True):
            if amount:
                np.add.at(found, list(way), amount)


def _reason(t: Topology, ends: Ids, ways: list[tuple[int, ...]], capacity: Floats) -> str:
    lost = sorted({t.links.name(i) for way in ways for i in way if capacity[i] <= 0})
    shown = ", ".join(lost[:4]) + (f" and {len(lost) - 4} more" if len(lost) > 4 else "")
    source, target = (t.links.vertex_names[int(v)] for v in ends)
    return f"there is no way left from {source} to {target}: lost are {shown}"
