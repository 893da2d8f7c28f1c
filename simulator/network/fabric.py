"""Flows on the clock: transfers share links max-min fairly, and rates change only where something changed.

When a flow starts, ends or a link changes, the flows that are joined to it by shared links (its component) get new
rates; all others go on as they were. Everything that happens at one instant is answered once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from simulator.engine.clock import Clock
from simulator.network.books import FlowBooks, LinkBytes, Offered
from simulator.network.completions import SAME_TIME, Completions
from simulator.network.connections import way_of
from simulator.network.flow_index import FlowIndex
from simulator.network.flows import Flow, TransferResult, Way
from simulator.network.links import KINDS
from simulator.network.periodic import Periodic
from simulator.network.recall import Recall
from simulator.network.sharing import Party, mean_changes
from simulator.network.shrinking import LastSolved, lone_rate

if TYPE_CHECKING:
    import simpy

    from simulator.network.topology import Topology

__all__ = ["Fabric"]

_NOBODY: Mapping[int, tuple[str, ...]] = {}


class Fabric:
    """The shared network of a simulation.

    Parameters
    ----------
    clock, topology
        The links keep their numbers; capacities may change during the run.

    Attributes
    ----------
    changes
        How often a link was changed: ways that were found before hold as long as it is the same.
    watchers
        Called by whoever changes links, after the change: who has found ways finds them again.
    solves, rounds, solved_flows
        How often rates were recomputed, the filling rounds (joint states, where something periodic takes part) and
        the flows that took part, as a measure of work.
    """

    def __init__(self, clock: Clock, topology: Topology) -> None:
        self.clock, self.topology = clock, topology
        self.capacity: NDArray[np.float64] = topology.links.capacity.copy()
        self.solves = self.rounds = self.solved_flows = self.changes = 0
        self._bytes = LinkBytes(len(self.capacity))
        self._loads: dict[Periodic, list[Flow]] = {}
        self._slow: dict[Periodic, tuple[float, ...]] = {}
        self._recall = Recall()
        self.watchers: list[Callable[[], None]] = []
        self._offered = Offered(clock.now)
        self._by_event: dict[simpy.Event, Flow] = {}
        self._index = FlowIndex(topology.links, self.capacity)
        self._books = FlowBooks(self._index.flows)
        self._next_number = 0
        self._last = LastSolved(self._books)
        self._completions = Completions(clock, self._index.flows, self._last, self._complete)
        self._touched: list[NDArray[np.int64]] = []
        self._settling = False

    def transfer(
        self,
        route: Sequence[int] | Mapping[int, float] | Way | tuple[int, int],
        size: float,
        *,
        weight: float = 1.0,
        cap: float = math.inf,
        latency: float | None = None,
        tag: str = "",
        multiplicity: int = 1,
        endpoints: bool = False,
        spray: bool = False,
    ) -> simpy.Event:
        """Send bytes; the returned event fires with a :class:`TransferResult` when the last one has arrived.

        Parameters
        ----------
        route
            Link numbers; link → share; a :class:`Way`; or, with ``endpoints``, the pair (src, dst).
        size
            [B], at least 0, of one flow.
        weight
            Its rate rises in proportion where it competes.
        cap
            Most it can send [B/s], e.g. by its protocol.
        latency
            Before the first byte moves [s]; that of the path by default when ``endpoints`` are given, else 0.
        tag
            Whom :meth:`explain` should book it to: a job or a deployment rather than a single request, for the books
            are kept to the end.
        multiplicity
            Number of equal flows on the same way that are simulated as one.
        spray
            With ``endpoints``: use all equal ways evenly instead of the one of the flow's hash.

        Raises
        ------
        ValueError
            If a number has the wrong sign or a link does not exist.
        """
        if not (0 <= size < math.inf and 0 < weight < math.inf and cap > 0 and multiplicity >= 1):
            raise ValueError(f"wrong transfer: size {size}, weight {weight}, cap {cap}, multiplicity {multiplicity}")
        number = self._next_number
        self._next_number += 1
        way, delay = way_of(self.topology, route, endpoints, spray, number)
        delay = delay if latency is None else latency
        if not 0 <= delay < math.inf:
            raise ValueError(f"a latency must be at least 0 s, not {delay}")
        event = self.clock.event()
        flow = Flow(
            number, tag, way, way, frozenset(), size * multiplicity, weight * multiplicity, cap * multiplicity,
            self.clock.now, event,
        )  # fmt: skip
        self._by_event[event] = flow
        if delay > 0:
            flow.pending = self.clock.after(delay, lambda: self._begin(flow))
        else:
            self._begin(flow)
        return event

    def cancel(self, event: simpy.Event) -> bool:
        """Stop a transfer: its event fires with ``completed=False``. ``False`` when it had already ended."""
        flow = self._by_event.get(event)
        if flow is None:
            return False
        if flow.pending is not None:
            self.clock.cancel(flow.pending)
            flow.pending = None
        self._end(flow, completed=False)
        return True

    def enter(self, load: Periodic) -> None:
        """Put a periodic load on the network until :meth:`leave`; one that is there already is judged anew.

        It is told its slow-down (:meth:`Periodic.settled`) at the end of this instant, and again whenever it changes.
        """
        self._recall.useful = True
        self._forget()
        if load not in self._loads:
            flows = self._loads[load] = []
            for phase in load.phases:
                number, self._next_number = self._next_number, self._next_number + 1
                flow = Flow(
                    number, load.tag, phase.way, phase.way, frozenset(), math.inf, phase.weight, phase.peak,
                    self.clock.now, None, since=self.clock.now, load=load,
                )  # fmt: skip
                flows.append(flow)
                self._index.add(flow)
        for flow in self._loads[load]:
            self._touch(flow.solved.links)

    def leave(self, load: Periodic) -> None:
        """Take a periodic load off the network; nothing happens when it is not on it."""
        self._slow.pop(load, None)
        self._forget()
        for flow in self._loads.pop(load, ()):
            self._index.remove(flow)
            flow.advance(self.clock.now)
            self._touch(flow.solved.links)
            self._bytes.add(flow.way, flow.sent)
            self._books.close(flow)

    def set_capacity(self, link: int, value: float) -> None:
        """Change the bandwidth of a link [B/s]; 0 stops its flows until it comes back.

        Raises
        ------
        ValueError
            If ``value`` is negative or not a number.
        """
        if not value >= 0:
            raise ValueError(f"link '{self.topology.links.name(link)}' cannot have {value} B/s")
        self._offered.change(link, float(self.capacity[link]), self.clock.now)
        self.capacity[link] = value
        self.changes += 1
        self._recall.clear()
        self._forget()
        self._touch_all(self._index.split({int(self.topology.links.bundle[link])}))
        self._touch(np.array([link], np.int64))

    @property
    def down(self) -> frozenset[int]:
        """Links without bandwidth."""
        return frozenset(np.flatnonzero(self.capacity <= 0).tolist()) if self.changes else frozenset()

    # -- what is going on ------------------------------------------------------------------------------------------

    @property
    def active(self) -> int:
        """Number of transfers under way."""
        return sum(flow.load is None for flow in self._index.flows.values())

    def rate(self, event: simpy.Event) -> float:
        """Current rate of a transfer [B/s]; 0 before its first byte and after its last."""
        self._last.show()
        flow = self._by_event.get(event)
        return flow.rate if flow is not None else 0.0

    def bytes_by_link(self) -> NDArray[np.float64]:
        """Bytes that crossed each link so far [links]."""
        self._last.show()
        total = self._bytes.total()
        for flow in self._index.flows.values():
            total[flow.way.links] += flow.sent_at(self.clock.now) * flow.way.shares
        return total

    def bytes_on(self, link: int) -> float:
        """Bytes that crossed ``link`` so far."""
        return float(self.bytes_by_link()[link])

    def traffic_by_kind(self) -> dict[str, float]:
        """Link kind → bytes so far, summed over its links (a byte counts once per link it crosses)."""
        kinds = self.topology.links.kind
        sums = np.bincount(kinds, self.bytes_by_link(), minlength=len(KINDS))
        return dict(zip(KINDS, sums.tolist(), strict=True))

    def utilisation(self, link: int) -> float:
        """Bytes that crossed ``link`` over what it could have carried since the start; 0 at the start."""
        offered = self._offered.until(link, float(self.capacity[link]), self.clock.now)
        return self.bytes_on(link) / offered if offered > 0 else 0.0

    def explain(self, tag: str) -> dict[str, float]:
        """What limited the flows of ``tag`` and for how long [s], longest first.

        Keys are names of links, or ``own cap`` while neither a link nor another flow was in the way.
        """
        self._last.show()
        limits, name = self._books.limits(tag, self.clock.now), self.topology.links.name
        return {name(link) if link >= 0 else "own cap": seconds for link, seconds in limits.items()}

    def held_up(self, tag: str) -> list[tuple[int, float, dict[str, float]]]:
        """Links that limited ``tag`` beside its own cap: number, seconds, and whom it met there for how long [s].

        Longest first. Whom it met is counted where something periodic shares the links.
        """
        self._last.show()
        met = self._books.met(tag, self.clock.now)
        limits = self._books.limits(tag, self.clock.now)
        return [(link, seconds, met.get(link, {})) for link, seconds in limits.items() if link >= 0]

    # -- machinery -------------------------------------------------------------------------------------------------

    def _begin(self, flow: Flow) -> None:
        flow.pending = None
        flow.since = self.clock.now
        self._forget()
        if flow.size == 0 or (not len(flow.way.links) and flow.cap == math.inf):
            self._end(flow, completed=True)
            return
        self._index.add(flow)
        if not len(flow.way.links):
            self._set_rate(flow, flow.cap, -1)
            self._completions.arm()
        else:
            self._touch(flow.solved.links)

    def _end(self, flow: Flow, completed: bool) -> None:
        now = self.clock.now
        assert flow.event is not None
        del self._by_event[flow.event]
        delivered = flow.size if completed else 0.0
        if self._index.remove(flow):
            if not self._last.end(flow):
                self._forget()
            flow.advance(now)
            delivered = flow.size if completed else flow.sent
            self._touch(flow.solved.links)
        self._bytes.add(flow.way, delivered)
        flow.rate, flow.version = 0.0, flow.version + 1
        self._books.close(flow)
        flow.event.succeed(TransferResult(flow.tag, flow.size, delivered, flow.start, now, completed))

    def _touch_all(self, flows: list[Flow]) -> None:
        for flow in flows:
            self._touch(flow.solved.links)

    def _touch(self, links: NDArray[np.int64]) -> None:
        self._touched.append(links)
        if not self._settling:
            self._settling = True
            self.clock.after(0.0, self._settle, late=True)

    def _settle(self) -> None:
        """Answer everything that happened at this instant: new rates for the touched component."""
        self._settling = False
        touched, self._touched = self._touched, []
        if self._last.answer(self.clock.now):
            self.solves += bool(self._last.changed)
            self.solved_flows += self._last.changed
            self.rounds += self._last.rounds
            self._completions.arm()
            return
        self._forget()
        found = self._recall.find(self._index.flows.values()) if self._recall.useful else None
        if found is not None and found[2] is not None:
            for flow, got in zip(found[1], found[2].flows, strict=True):
                self._set_rate(flow, *got)
            self._tell(found[2].slow)
        else:
            flows = self._index.component(touched)
            if flows:
                self._solve(flows)
            if found is not None:
                self._last.show()
                self._recall.keep(found[0], found[1], self._slow)
        self._completions.arm()

    def _solve(self, flows: list[Flow]) -> None:
        self.solves += 1
        self.solved_flows += len(flows)
        if any(flow.load is not None for flow in flows):
            self._solve_steady(flows)
            return
        if len(flows) == 1:
            self.rounds += 1
            self._set_rate(flows[0], *lone_rate(flows[0], self.capacity))
        else:
            self._last.solve(flows, self.capacity, self._index.tightest, self.clock.now)
            self.rounds += self._last.rounds

    def _forget(self) -> None:
        """Something happened that concerns more than the flows that were solved last: each is looked at by itself."""
        for flow in self._last.forget():
            self._completions.add(flow)

    def _solve_steady(self, flows: list[Flow]) -> None:
        """Rates where something periodic takes part: means over who is under way together."""
        place = {flow.number: i for i, flow in enumerate(flows)}
        loads = dict.fromkeys(flow.load for flow in flows if flow.load is not None)
        parties: list[Party] = [(load, [place[f.number] for f in self._loads[load]]) for load in loads]
        changes, slow, states = mean_changes(flows, parties, self.capacity, self._index.tightest)
        self.rounds += states
        for change in changes:
            self._set_rate(change.flow, change.rate, change.limits, change.beside)
        self._tell(slow)

    def _tell(self, slow: Mapping[Periodic, tuple[float, ...]]) -> None:
        """Tell periodic loads how slow they are, where that is new."""
        for load, mine in slow.items():
            if self._slow.get(load) != mine:
                self._slow[load] = mine
                load.settled(mine)

    def _set_rate(
        self,
        flow: Flow,
        rate: float,
        bottleneck: int | Mapping[int, float],
        beside: Mapping[int, tuple[str, ...]] = _NOBODY,
    ) -> None:
        now = self.clock.now
        limits = {bottleneck: 1.0} if isinstance(bottleneck, int) else bottleneck
        same = math.isclose(rate, flow.rate, rel_tol=SAME_TIME) and flow.version > 0
        if same and limits == flow.limits and beside == flow.beside:
            return
        if flow.version:
            flow.advance(now)
        flow.limits, flow.beside = limits, beside
        if same:
            return
        flow.rate, flow.version = rate, flow.version + 1
        flow.finish = now + (flow.size - flow.sent) / rate if rate > 0 else math.inf
        self._completions.add(flow)

    def _complete(self, done: list[Flow]) -> None:
        for flow in done:
            self._end(flow, completed=True)
        if not self._settling:
            self._completions.arm()
