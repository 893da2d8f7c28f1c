"""What a collective sends: bytes by kind of link in closed form, and its flow over the links of a placement.

Sizes follow NCCL: the buffer of an all-reduce, the gathered result of an all-gather, the input of a reduce-scatter,
what one rank sends in an all-to-all (its own part included), what is broadcast. The *time* of a collective that is
alone belongs to the cost model; here is what it asks of the network when it is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from simulator.errors import ConfigError, unknown_name
from simulator.network.flows import Way
from simulator.network.in_switch import add_in_switch
from simulator.network.links import Ids
from simulator.network.patterns import Messages, pattern
from simulator.network.topology import Topology

__all__ = [
    "ALGORITHMS",
    "CollectiveTraffic",
    "MacroFlow",
    "Operation",
    "add_group_loads",
    "collective_flow",
    "collective_traffic",
    "messages",
]

Operation = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "p2p"]

ALGORITHMS: Final[dict[str, tuple[str, ...]]] = {
    "all_reduce": ("ring", "tree", "hierarchical", "double-tree", "halving-doubling", "in-switch"),
    "all_gather": ("ring", "hierarchical", "halving-doubling"),
    "reduce_scatter": ("ring", "hierarchical", "halving-doubling"),
    "all_to_all": ("pairwise", "hierarchical"),
    "broadcast": ("ring", "tree"),
    "p2p": ("direct",),
}
"""Operation → algorithms, the default first."""

_EVEN: Final = ("hierarchical", "in-switch")
"""Algorithms that need equally many ranks in each domain."""


@dataclass(frozen=True)
class CollectiveTraffic:
    """Bytes sent, by ``scale_up`` (inside a domain) and ``nic`` (between domains).

    Attributes
    ----------
    per_rank
        By the rank that sends most on that kind of link [B].
    total
        By all ranks [B].
    """

    per_rank: dict[str, float]
    total: dict[str, float]


@dataclass(frozen=True, eq=False)
class MacroFlow:
    """A collective as one flow.

    Attributes
    ----------
    way
        Links, and the load on each relative to the busiest: pass it to ``Fabric.transfer``.
    size
        Bytes on the busiest link [B].
    links, bytes_per_link
        The loads themselves [B].
    """

    way: Way
    size: float
    links: Ids
    bytes_per_link: NDArray[np.float64]


def collective_traffic(op: str, size: float, layout: Sequence[int], algorithm: str | None = None) -> CollectiveTraffic:
    """Bytes a collective sends, in closed form.

    Parameters
    ----------
    op, algorithm
        See :data:`ALGORITHMS`.
    size
        [B], in the sense of NCCL (module docstring).
    layout
        Ranks in each scale-up domain, e.g. ``(8, 8)``; ranks are numbered through.

    Raises
    ------
    ConfigError
        If the operation or algorithm is unknown, or a hierarchical one meets domains of different size.

    Notes
    -----
    With n ranks: ring all-reduce 2(n−1)/n·S from every rank, reduce-scatter and all-gather half of it; hierarchical
    2(g−1)/g·S inside and 2(N−1)/N·S/g between N domains of g; all-to-all (g−1)/n·S inside and (n−g)/n·S between
    (Thakur, Rabenseifner, Gropp, IJHPCA 2005). A hierarchical all-to-all sends (g−1)/g·S inside, and between domains
    the same bytes in N−1 messages instead of n−g. In the switch: (1 + 1/g)·S inside and S/g between.
    """
    algorithm = _checked(op, algorithm, layout)
    n, domains = sum(layout), len(layout)
    if n < 2 or size == 0:
        return CollectiveTraffic({"scale_up": 0.0, "nic": 0.0}, {"scale_up": 0.0, "nic": 0.0})
    passes = 2.0 if op == "all_reduce" else 1.0
    if algorithm == "in-switch":
        up, out = (1 + 1 / layout[0]) * size if layout[0] > 1 else 0.0, size / layout[0] if domains > 1 else 0.0
        return _traffic(up, out, up * n, out * n)
    if op == "all_to_all" and algorithm == "hierarchical":
        up, out = (layout[0] - 1) / layout[0] * size, (domains - 1) / domains * size
        return _traffic(up, out, up * n, out * n)
    if algorithm == "hierarchical":
        g = layout[0]
        up, out = passes * (g - 1) / g * size, passes * (domains - 1) / domains * size / g
        return _traffic(up, out, up * n, out * n)
    if op == "all_to_all":
        part = size / n
        near_total, far_total = sum(g * (g - 1) for g in layout) * part, sum(g * (n - g) for g in layout) * part
        return _traffic((max(layout) - 1) * part, (n - min(layout)) * part, near_total, far_total)
    if algorithm == "ring":
        step = size if op == "broadcast" else passes * (n - 1) / n * size
        crossing = domains if domains > 1 else 0
        near = n - crossing
        if op == "broadcast":  # a chain: the last rank sends nothing
            crossing, near = domains - 1, n - domains
        return _traffic(step if near else 0.0, step if crossing else 0.0, near * step, crossing * step)
    source, target, volume = messages(op, size, layout, algorithm)
    home = np.repeat(np.arange(domains), layout)
    inside = home[source] == home[target]
    near_sum, far_sum = (np.bincount(source[m], volume[m], minlength=n) for m in (inside, ~inside))
    return _traffic(*(float(x) for x in (near_sum.max(), far_sum.max(), near_sum.sum(), far_sum.sum())))


def messages(op: str, size: float, layout: Sequence[int], algorithm: str | None = None) -> Messages:
    """Who sends how much to whom over the whole collective: (from, to, bytes), ranks as in the layout.

    An all-to-all has n² of them; for many ranks use :func:`collective_flow`, which never holds them all.
    """
    algorithm = _checked(op, algorithm, layout)
    if algorithm == "in-switch":
        raise ConfigError("in the switch no rank sends to another: use collective_flow")
    n = sum(layout)
    parts = list(pattern(op, algorithm, size, layout)) if n > 1 else []
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    source, target, volume = (np.concatenate(column) for column in zip(*parts, strict=True))
    return source, target, volume


def collective_flow(
    topology: Topology, op: str, size: float, ranks: Sequence[int], algorithm: str | None = None
) -> MacroFlow:
    """A collective over ``ranks`` (accelerators, in the order of the communicator) as one flow.

    All messages are taken to advance together, so the links are loaded in proportion to the bytes each must carry;
    the flow's rate is that of its busiest link. Ways are sprayed. Parameters and errors as for
    :func:`collective_traffic`; consecutive ranks of one scale-up domain form its layout.
    """
    order = np.asarray(ranks, np.int64)
    if len(set(order.tolist())) < len(order):
        raise ConfigError("a collective names a rank twice: every rank takes part once")
    home = topology.nodes.domain_of[order]
    edges = np.flatnonzero(np.r_[True, home[1:] != home[:-1], True])
    layout = np.diff(edges).tolist()
    algorithm = _checked(op, algorithm, layout)
    loads = np.zeros(len(topology.links))
    if algorithm == "in-switch" and len(order) > 1:
        add_in_switch(topology, loads, size, order, layout)
    elif len(order) > 1:
        for source, target, volume in pattern(op, algorithm, size, layout):
            topology.add_loads(loads, order[source], order[target], volume)
    links = np.flatnonzero(loads)
    busiest = float(loads.max(initial=0.0))
    return MacroFlow(Way(links, loads[links] / (busiest or 1.0)), busiest, links, loads[links])


def add_group_loads(
    topology: Topology,
    found: NDArray[np.float64],
    op: str,
    size: float,
    groups: Ids,
    capacity: NDArray[np.float64] | None = None,
    per_call: int = 2**21,
) -> None:
    """Add to ``found`` [links] the bytes of one collective in each of many groups of accelerators at once.

    Parameters
    ----------
    op
        See :data:`ALGORITHMS`; ``send_recv`` goes from every rank to the next one, round the group.
    size
        Of one group [B].
    groups
        [groups, ranks], in the order of the communicators.
    capacity
        [links], [B/s], where links are degraded or lost: see :meth:`Topology.add_loads`.

    Notes
    -----
    Equal scale-up domains use the hierarchical algorithm where there is one, uneven ones a ring.
    """
    if op == "send_recv":
        following = np.roll(groups, -1, axis=1)
        topology.add_loads(found, groups.ravel(), following.ravel(), np.full(groups.size, size), capacity)
        return
    home = topology.nodes.domain_of[groups]
    patterns, which = np.unique(home[:, 1:] != home[:, :-1], axis=0, return_inverse=True)
    for number, crossing in enumerate(patterns):
        rows = groups[which.ravel() == number]
        layout = np.diff(np.flatnonzero(np.r_[True, crossing, True])).tolist()
        even = len(set(layout)) == 1 < min(len(layout), layout[0]) and op != "all_to_all"
        algorithm = "hierarchical" if even and "hierarchical" in ALGORITHMS[op] else ALGORITHMS[op][0]
        for source, target, volume in pattern(op, algorithm, size, layout):
            step = max(1, per_call // len(source))
            for first in range(0, len(rows), step):
                part = rows[first : first + step]
                ends = part[:, source].ravel(), part[:, target].ravel()
                topology.add_loads(found, *ends, np.tile(volume, len(part)), capacity)


def _checked(op: str, algorithm: str | None, layout: Sequence[int]) -> str:
    if op not in ALGORITHMS:
        raise ConfigError(unknown_name("collective", op, ALGORITHMS))
    algorithm = algorithm or ALGORITHMS[op][0]
    if algorithm not in ALGORITHMS[op]:
        raise ConfigError(unknown_name(f"algorithm of {op}", algorithm, ALGORITHMS[op]))
    if algorithm in _EVEN and len(set(layout)) > 1:
        raise ConfigError(
            f"{op} '{algorithm}' needs equally many ranks in each domain, not {list(layout)}: use '{ALGORITHMS[op][0]}'"
        )
    if algorithm == "halving-doubling" and (n := sum(layout)) & (n - 1):
        raise ConfigError(f"{op} '{algorithm}' needs a power of two of ranks, not {n}: use '{ALGORITHMS[op][0]}'")
    if op == "p2p" and sum(layout) != 2:
        raise ConfigError(f"p2p is between 2 ranks, not {sum(layout)}")
    return algorithm


def _traffic(per_up: float, per_nic: float, total_up: float, total_nic: float) -> CollectiveTraffic:
    return CollectiveTraffic({"scale_up": per_up, "nic": per_nic}, {"scale_up": total_up, "nic": total_nic})
