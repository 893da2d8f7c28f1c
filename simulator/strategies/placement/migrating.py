"""Placements that move running gangs against fragmentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from simulator.registry import register
from simulator.strategies.cluster_protocols import QueuedJob
from simulator.strategies.placement.basic import BestFit, Gang, Ints

__all__ = ["Defragmenting"]


@register(
    "defragmenting", kind="policy", area="cluster", family="placement", cites=("Xiao et al., Gandiva, OSDI 2018",),
    validated_by="closed_form",
)  # fmt: skip
class Defragmenting(BestFit):
    """Best fit; when free accelerators would suffice but lie apart, jobs of one node move together to empty others.

    Parameters
    ----------
    most
        Gangs that move for one that waits.
    """

    name: str

    def __init__(self, most: int = 8) -> None:
        self.most = most

    def make_room(
        self, gpus: int, free: Ints, size: Ints, group: Ints, running: Sequence[QueuedJob]
    ) -> Mapping[int, Gang]:
        """Empties the nodes with the least to move, until the gang fits."""
        free, moves, received = free.copy(), dict[int, Gang](), set[int]()
        alone: dict[int, list[QueuedJob]] = {}
        for job in running:
            if len(job.nodes) == 1:
                alone.setdefault(job.nodes[0][0], []).append(job)
        held = {node: sum(job.gpus for job in jobs) for node, jobs in alone.items()}
        # Nodes on which everything can move, those with the least on them first.
        for node in sorted((n for n in alone if 0 < free[n] == size[n] - held[n]), key=lambda n: (held[n], n)):
            if self.place(gpus, free, size, group) is not None:
                return moves
            if node in received or len(moves) + len(alone[node]) > self.most:
                continue
            room = np.where(free == size, 0, free)  # empty nodes stay empty
            room[node] = 0
            found: dict[int, Gang] = {}
            for job in sorted(alone[node], key=lambda j: (-j.gpus, j.number)):
                place = self.place(job.gpus, room, size, group)
                if place is None or len(place) > 1:
                    break
                found[job.number] = place
                room[place[0][0]] -= job.gpus
            if len(found) < len(alone[node]):
                continue
            for place in found.values():
                free[place[0][0]] -= place[0][1]
                received.add(place[0][0])
            free[node] = size[node]
            moves |= found
        return moves if self.place(gpus, free, size, group) is not None else {}
