"""Weights, keys and values between the accelerators of a deployment whose plan changes, as flows on the fabric."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from simulator.cluster.tenants import Commons
from simulator.cluster.weight_loading import endpoints_of
from simulator.serving.plan_changes import Transfer
from simulator.strategies.replanning.context import STORAGE, Parcel

if TYPE_CHECKING:
    import simpy

__all__ = ["ContextFlows"]


@dataclass(eq=False)
class _Batch(Transfer):
    """Parcels of one pipeline: what is still on its way, and whom to tell at the end."""

    done: Callable[[], object] = lambda: None
    flows: dict[simpy.Event, Parcel] = field(default_factory=dict)


class ContextFlows:
    """Carries parcels between accelerators, and from the storage that weights come from.

    Parameters
    ----------
    commons
        Clock and fabric.
    workload
        Name of the deployment: accelerators are counted through its only placement.
    source
        ``nvme`` or ``host`` of the target's node, or a shared storage of the cluster.
    """

    def __init__(self, commons: Commons, workload: str, source: str) -> None:
        self.commons, self.workload, self.source = commons, workload, source
        self._places = endpoints_of(commons.fabric.topology, commons.scenario.placement(workload))
        self._under_way: list[_Batch] = []

    def seconds(self, wanted: Sequence[Parcel]) -> float:
        """Bytes over the capacity of the fullest link, and the longest latency: no schedule is quicker [s]."""
        fabric, loads, latency = self.commons.fabric, defaultdict[int, float](float), 0.0
        for (start, end), size in self._flows(wanted).items():
            path = fabric.topology.path(start, end, 0)
            latency = max(latency, fabric.topology.path_latency(path))
            for link in path:
                loads[link] += size
        return latency + max((size / float(fabric.capacity[link]) for link, size in loads.items()), default=0.0)

    def send(self, wanted: Sequence[Parcel], done: Callable[[], object]) -> Transfer:
        """See :class:`~simulator.serving.plan_changes.Carrier`; parcels of one pair travel as one flow."""
        batch = _Batch(done=done)
        self._under_way.append(batch)
        self._begin(batch, wanted)
        return batch

    def lose(self, accelerators: Iterable[int]) -> None:
        """See :class:`~simulator.serving.plan_changes.Carrier`."""
        gone = set(accelerators)
        for batch in list(self._under_way):
            again = [(flow, parcel) for flow, parcel in batch.flows.items() if parcel.source in gone]
            for flow, _ in again:
                del batch.flows[flow]
                self.commons.fabric.cancel(flow)
            if again:
                batch.late = True
                self._begin(batch, [Parcel(STORAGE, parcel.target, parcel.size) for _, parcel in again])

    def drop(self, transfer: Transfer) -> None:
        """See :class:`~simulator.serving.plan_changes.Carrier`."""
        for batch in [b for b in self._under_way if b is transfer]:
            self._under_way.remove(batch)
            flows, batch.flows = list(batch.flows), {}
            for flow in flows:
                self.commons.fabric.cancel(flow)

    def _flows(self, wanted: Sequence[Parcel]) -> dict[tuple[int, int], float]:
        """Bytes by (start, end) on the fabric."""
        topology, found = self.commons.fabric.topology, defaultdict[tuple[int, int], float](float)
        for parcel in wanted:
            node, end = self._places[parcel.target]
            if parcel.source != STORAGE:
                start = self._places[parcel.source][1]
            else:
                local = {"nvme": topology.nvme, "host": topology.host}.get(self.source)
                start = topology.storage(self.source) if local is None else local(node)
            found[start, end] += parcel.size
        return found

    def _begin(self, batch: _Batch, wanted: Sequence[Parcel]) -> None:
        by_pair = defaultdict[tuple[int, int], list[Parcel]](list)
        for parcel in wanted:
            by_pair[parcel.source, parcel.target].append(parcel)
        for (source, target), together in by_pair.items():
            whole = Parcel(source, target, sum(parcel.size for parcel in together))
            ((ends, size),) = self._flows([whole]).items()
            flow = self.commons.fabric.transfer(ends, size, tag=f"{self.workload} context", endpoints=True)
            batch.flows[flow] = whole
            assert flow.callbacks is not None
            flow.callbacks.append(lambda event: self._arrived(batch, event))
        if not batch.flows:
            self.commons.clock.after(0.0, lambda: self._ended(batch))

    def _arrived(self, batch: _Batch, flow: simpy.Event) -> None:
        if batch.flows.pop(flow, None) is not None and not batch.flows:
            self._ended(batch)

    def _ended(self, batch: _Batch) -> None:
        if batch in self._under_way:
            self._under_way.remove(batch)
            batch.done()
