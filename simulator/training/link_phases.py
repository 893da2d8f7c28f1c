"""What the steps of a job put on the links of its real placement, and which of those links are too narrow for it.

One source for everybody who asks: the heat map of a step, the price of a step on a fabric that blocks, and the phases
that jobs share links with on the clock.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from simulator.network.built import never_blocks, topology_of
from simulator.network.collectives import add_group_loads
from simulator.network.detours import NoWayError
from simulator.network.flows import Way
from simulator.network.links import KINDS
from simulator.network.periodic import Phase, slow_down
from simulator.network.topology import Topology
from simulator.training.step_traffic import Sent, scale_out, sent
from simulator.workload.plan import base_axis

if TYPE_CHECKING:
    from simulator.training.pipelined import PipelinedJob

__all__ = ["Narrow", "job_phases", "link_loads", "narrow_links", "narrow_notes"]

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Narrow:
    """A link that holds up the messages of a mesh axis of a job that is alone.

    Attributes
    ----------
    slow
        How many times longer the messages take than behind switches that never block.
    link, parallel
        Its name, and how many links are used like it.
    bandwidth
        Of one of them [B/s].
    """

    slow: float
    link: str
    parallel: int
    bandwidth: float


def link_loads(pipeline: PipelinedJob, topology: Topology, first: int = 0) -> Floats:
    """Bytes on every directed link [links] in one step of a job, inside scale-up domains and between them.

    Hidden or not, at whatever time. Divided by capacity and step time it is the mean utilisation of a link.

    Parameters
    ----------
    first
        Accelerator of the job's first rank; the others follow it.
    """
    ranks = first + np.arange(pipeline.cluster.accelerator_count)
    found = np.zeros(len(topology.links))
    for message in sent(pipeline):
        _add(found, message, pipeline, topology, ranks, None)
    return found


def job_phases(
    pipeline: PipelinedJob,
    topology: Topology,
    accelerators: Sequence[int] | Ids,
    capacity: Floats | None = None,
) -> list[tuple[str, Phase]]:
    """What the steps of a job send outside scale-up domains, by mesh axis.

    Parameters
    ----------
    pipeline
        The job and its step.
    accelerators
        Those it runs on, in the order of its ranks.
    capacity
        [links], [B/s], where links are degraded or lost.

    Returns
    -------
    list
        Mesh axis and phase: all groups and stages of the axis at once, and the time of the slowest stage. Links that
        lie inside a scale-up domain belong to the job alone and are left out.

    Raises
    ------
    NoWayError
        If links that are lost cannot be gone round.
    """
    ranks = np.asarray(accelerators, np.int64)
    outside = topology.links.kind != KINDS.index("scale_up")
    port = topology.links.kind == KINDS.index("nic")
    found = []
    for axis, messages in _by_axis(pipeline):
        loads, seconds = np.zeros(len(topology.links)), dict[int, float]()
        for message in messages:
            seconds[message.stage] = seconds.get(message.stage, 0.0) + message.seconds
            _add(loads, message, pipeline, topology, ranks, capacity)
        links = np.flatnonzero(loads * outside)
        if capacity is not None and len(dead := links[capacity[links] <= 0]):
            raise NoWayError(f"{topology.links.name(int(dead[0]))} is lost, and nothing leads round it")
        if len(links):
            busiest, through_ports = float(loads[links].max()), float(loads[links[port[links]]].max(initial=0.0))
            # Connections compete, and every port has as many: what counts for fairness is the rate through a port.
            weight = busiest / through_ports if through_ports else 1.0
            phase = Phase(axis, Way(links, loads[links] / busiest), busiest, max(seconds.values()), weight)
            found.append((axis, phase))
    return found


def narrow_links(pipeline: PipelinedJob) -> dict[str, Narrow]:
    """By mesh axis, the link that holds up its messages when nobody else is on the fabric; absent where none does.

    Parameters
    ----------
    pipeline
        With undisturbed messages (``slow={}``).
    """
    cluster = pipeline.cluster
    place = cluster.place
    whole, first_node = (place.whole, place.first_node) if place is not None else (cluster, 0)
    if never_blocks(whole) or not scale_out(pipeline):
        return {}
    topology = topology_of(whole)
    first = int(np.searchsorted(topology.nodes.node_of[: topology.accelerator_count], first_node))
    found = {}
    for axis, phase in job_phases(pipeline, topology, range(first, first + pipeline.cluster.accelerator_count)):
        links = phase.way.links
        rates = topology.links.capacity[links] / phase.way.shares
        narrowest = int(np.argmin(rates))
        if (slow := slow_down(phase.peak, float(rates[narrowest]))) > 1.0:
            link = int(links[narrowest])
            speed = float(topology.links.capacity[link])
            found[axis] = Narrow(slow, topology.links.name(link), topology.links.parallel(link), speed)
    return found


def narrow_notes(pipeline: PipelinedJob) -> list[str]:
    """What the fabric costs a job that is alone on it, in words."""
    return [
        f"{axis}: messages between nodes take {held.slow:.3g} times as long as on a fabric that never blocks; "
        f"{held.link} is the narrowest link"
        for axis, held in pipeline.narrow.items()
    ]


def _by_axis(pipeline: PipelinedJob) -> Iterator[tuple[str, list[Sent]]]:
    by_axis: dict[str, list[Sent]] = {}
    for message in scale_out(pipeline):
        by_axis.setdefault(base_axis(message.axis), []).append(message)
    yield from by_axis.items()


def _add(
    loads: Floats, message: Sent, pipeline: PipelinedJob, topology: Topology, ranks: Ids, capacity: Floats | None
) -> None:
    """Bytes of one kind of message of one stage on every link."""
    mine = ranks[pipeline.seats[message.stage]]
    if message.to >= 0:
        theirs = ranks[pipeline.seats[message.to]]
        pairs = max(len(mine), len(theirs))  # a rank of the smaller stage exchanges with several of the larger one
        source, sink = (side[np.arange(pairs) * len(side) // pairs] for side in (mine, theirs))
        topology.add_loads(loads, source, sink, np.full(pairs, message.size * len(mine) / pairs), capacity)
        return
    layout = pipeline.pricer(message.stage).layout
    size, stride = layout.group(message.axis).ranks, layout.strides[message.axis]
    groups = mine.reshape(-1, size, stride).transpose(0, 2, 1).reshape(-1, size)
    add_group_loads(topology, loads, message.collective, message.size, groups, capacity)
