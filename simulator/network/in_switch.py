"""All-reduce in the switches (NVLink SHARP inside a domain, SHARP between domains): each link carries the data once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from simulator.errors import ConfigError
from simulator.network.links import Ids

if TYPE_CHECKING:
    from simulator.network.topology import Topology

__all__ = ["add_in_switch"]


def add_in_switch(t: Topology, loads: NDArray[np.float64], size: float, ranks: Ids, layout: list[int]) -> None:
    """Add the bytes of an all-reduce of ``size`` over ``ranks`` [links].

    Inside a domain of g every accelerator sends its S, from which the switch makes sums, and S/g of sums that the
    switch sends to all: (1 + 1/g)·S each way. Between domains the switches add up the shards of S/g: a link of a port
    and a link between switches carries a shard once each way, however many nodes are behind it.

    Raises
    ------
    ConfigError
        If the accelerators of a domain are not joined by a switch.
    """
    g, domains = layout[0], len(layout)
    if g > 1:
        if (t.switch_out[ranks] < 0).any():
            raise ConfigError("a reduction in the switch needs a scale-up network with a switch: use 'ring'")
        loads[t.switch_out[ranks]] += (1 + 1 / g) * size
        loads[t.switch_in[ranks]] += (1 + 1 / g) * size
    if domains > 1:
        for rail in ranks.reshape(domains, g).T:
            _add_tree(t, loads, size / g, rail)


def _add_tree(t: Topology, loads: NDArray[np.float64], size: float, ranks: Ids) -> None:
    """One shard of every domain, added up on the way to the switch of the first and sent back to all."""
    nodes, wiring = t.nodes, t.wiring
    port = nodes.port_of[ranks]
    np.add.at(loads, t.port_out[port], size)
    np.add.at(loads, t.port_in[port], size)
    np.add.at(loads, nodes.host_out[ranks], size)
    np.add.at(loads, nodes.host_in[ranks], size)
    via = nodes.via_uplink[ranks]
    np.add.at(loads, nodes.uplink_out[ranks[via]], size)
    np.add.at(loads, nodes.uplink_in[ranks[via]], size)
    _, first = np.unique(wiring.switch[port], return_index=True)
    shares: dict[int, float] = {}
    for end in port[first].tolist():
        for source, target in ((end, int(port[0])), (int(port[0]), end)):
            for link, share in wiring.spread(source, target).items():
                shares[link] = max(share, shares.get(link, 0.0))
    for link, share in shares.items():
        loads[link] += share * size
