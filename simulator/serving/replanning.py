"""Another parallel plan whenever machines come or go: pipelines stop, their context travels, others take over.

The replicas are those of a :class:`~simulator.serving.deployment.DeploymentProcess` that has some of every shape there
may be; this actor says which accelerators each stands on, and which of them take requests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from simulator.serving.machines import Machines
from simulator.serving.movable_replica import MovableReplica
from simulator.serving.plan_changes import Carrier, Pipeline, PlanChange, Shape, Transfer
from simulator.strategies.replanning.base import Layout, Replanner
from simulator.strategies.replanning.context import STORAGE, Holdings, Parcel, match, parcels
from simulator.strategies.serving_protocols import RequestState

if TYPE_CHECKING:
    from simulator.engine.clock import Clock
    from simulator.serving.deployment import DeploymentProcess

__all__ = ["Replanning"]

_NONE = "none fits"

Lifted = Mapping[int, Mapping[RequestState, int]]
"""Requests that were taken out of replicas, and their tokens in the cache."""


class Replanning:
    """Keeps the plan of a deployment in step with its machines.

    Parameters
    ----------
    clock, process
        The one clock, and a ``movable`` deployment with the replicas of all shapes.
    machines
        Which are there, and what happens to them.
    policy
        Which plan, and what a change keeps.
    shapes
        What a pipeline may be.
    carrier
        Carries what is missing.
    weights, cache_bytes
        Of the model [B]; of so many tokens [B].
    rate
        What the plan is to keep up with [requests/s].
    restart
        Start of engines whose context is not carried over, before their weights are loaded [s].

    Notes
    -----
    After a notice, a policy that carries context changes the plan as late as the grace allows, by the time that the
    carrier would need alone; others go on until the machine is gone. A change waits for the one before it.
    """

    def __init__(
        self, clock: Clock, process: DeploymentProcess, machines: Machines, policy: Replanner, shapes: Sequence[Shape],
        carrier: Carrier, *, weights: float, cache_bytes: Callable[[int], float], rate: float, restart: float = 0.0,
    ) -> None:  # fmt: skip
        self.clock, self.process, self.machines, self.policy = clock, process, machines, policy
        self.shapes, self.carrier, self.weights, self.cache_bytes = shapes, carrier, weights, cache_bytes
        self.rate, self.restart = rate, restart
        self.pipelines: list[Pipeline] = []
        self.changes: list[PlanChange] = []
        self._served = dict.fromkeys(shapes, 0.0)
        self._shape, self._planned = shapes[0], False
        self._entry: Any = None
        self._due = ""
        """Why the change that is booked is made."""
        self.lost = 0
        """Requests that began again because their machine had gone before a change could save them."""

    def start(self) -> None:
        """The first plan serves at once; call before the deployment starts at the same time."""
        self.machines.on_change, self.machines.on_gone = self._reconsider, self._gone
        self.machines.start()
        shape, layout = self._target()
        staying = len(self.machines.staying)
        self.changes.append(PlanChange(0.0, str(layout) if layout else _NONE, staying, "start", stall=0.0))
        if shape is not None and layout is not None:
            flat = tuple(a for unit in self._units(layout.tensor) for a in unit)
            for i, places in enumerate(_cut(flat, layout)):
                self.pipelines.append(Pipeline(shape.first + i, shape, places, 0.0))
            self._shape, self._planned = shape, True
        self._open()

    def pipeline_seconds(self, end: float) -> list[float]:
        """Pipeline seconds of every shape up to ``end`` [s]."""
        found = dict(self._served)
        for pipe in self.pipelines:
            found[pipe.shape] += max(0.0, end - pipe.since)
        return list(found.values())

    # -- which plan --------------------------------------------------------------------------------------------------

    def _units(self, tensor: int) -> list[tuple[int, ...]]:
        """Accelerators that can form a stage: of one machine that stays."""
        size = self.machines.accelerators
        starts = [node * size + i for node in self.machines.staying for i in range(0, size - tensor + 1, tensor)]
        return [tuple(range(start, start + tensor)) for start in starts]

    def _target(self) -> tuple[Shape, Layout] | tuple[None, None]:
        """The plan for the machines that stay."""
        fitting: dict[Layout, Shape] = {}
        for shape in self.shapes:
            one = shape.layout
            count = min(shape.count, len(self._units(one.tensor)) // one.pipeline)
            if count:
                fitting[replace(one, data=count, throughput=count * one.throughput)] = shape
        chosen = self.policy.choose(list(fitting), self.rate, self._shape.layout if self._planned else None)
        return (fitting[chosen], chosen) if chosen is not None else (None, None)

    def _stays(self, pipe: Pipeline) -> bool:
        return pipe.ready and all(self._machine(a) in self.machines.staying for a in pipe.places)

    def _machine(self, accelerator: int) -> int:
        return accelerator // self.machines.accelerators

    @property
    def _over(self) -> bool:
        return self.process.done is not None and self.process.done.triggered

    def _reconsider(self, reason: str, broken: bool = False) -> None:
        """Machines have come, or will go: is there a better plan, and when does the change begin?"""
        if self._entry is not None:
            self.clock.cancel(self._entry)
            self._entry = None
        if self._over or any(not pipe.ready for pipe in self.pipelines):
            return
        shape, layout = self._target()
        sound = sum(self._stays(pipe) for pipe in self.pipelines)
        enough = sound == len(self.pipelines) == (layout.data if layout else 0) and shape in (self._shape, None)
        if enough and (self.policy.spares or not broken):
            if layout is None and self.changes[-1].plan != _NONE:
                self.changes.append(PlanChange(self.process.now, _NONE, len(self.machines.staying), reason, stall=0.0))
            return
        begin = self.clock.now
        used = {self._machine(a) for pipe in self.pipelines for a in pipe.places}
        ends = [end for machine, end in self.machines.leaving.items() if machine in used]
        if ends and (layout is None or not self.policy.carries):
            return  # they serve until the machine is gone
        if ends and layout is not None:
            begin = max(begin, min(ends) - self._preview(layout))
        self._due = reason
        self._entry = self.clock.at(begin, self._change)

    # -- who takes which place ---------------------------------------------------------------------------------------

    def _holdings(self, caches: Sequence[float]) -> Holdings:
        """What accelerators hold, with so many bytes of keys and values in each pipeline."""
        ranks = {
            accelerator: i * len(pipe.places) + rank
            for i, pipe in enumerate(self.pipelines)
            for rank, accelerator in enumerate(pipe.places)
        }
        return Holdings(replace(self._shape.layout, data=len(self.pipelines)), ranks, self.weights, caches)

    def _cached(self) -> list[float]:
        """Keys and values in every pipeline [B]."""
        if not self.policy.carries:
            return [0.0] * len(self.pipelines)
        replicas, now = [self.process.replicas[pipe.replica] for pipe in self.pipelines], self.process.now
        return [self.cache_bytes(replica.kv_blocks_at(now) * replica.block_size) for replica in replicas]

    def _follows(self, layout: Layout, caches: Sequence[float]) -> list[int]:
        """Pipeline so far that each new one goes on from (−1: none): whole ones first, then those with most context."""
        spared = self.policy.spares and layout.shape == self._shape.layout.shape
        whole = [spared and self._stays(pipe) for pipe in self.pipelines]
        order = [i for i in range(len(self.pipelines)) if whole[i] or self.policy.carries]
        order.sort(key=lambda i: (not whole[i], -caches[i], i))
        chosen = sorted(order[: layout.data])
        return chosen + [-1] * (layout.data - len(chosen))

    def _placed(self, layout: Layout, caches: Sequence[float]) -> tuple[Holdings, list[int], tuple[int, ...]]:
        held, follows = self._holdings(caches), self._follows(layout, caches)
        return held, follows, match(held, self._units(layout.tensor), layout, follows)

    def _missing(
        self, held: Holdings, layout: Layout, places: Sequence[int], follows: Sequence[int], number: int
    ) -> tuple[list[Parcel], float]:
        """What a pipeline lacks, and the bytes it has."""
        usable = held if self.policy.carries else None
        return parcels(usable, layout, places, follows, number, self.weights, self.machines.accelerators)

    def _preview(self, layout: Layout) -> float:
        """How long a change would take with full pipelines, as they may be when it begins [s]."""
        full = self.cache_bytes(self._shape.tokens)
        held, follows, places = self._placed(layout, [max(full, size) for size in self._cached()])
        wanted = [p for i in range(layout.data) for p in self._missing(held, layout, places, follows, i)[0]]
        return self.carrier.seconds(wanted)

    # -- a change ----------------------------------------------------------------------------------------------------

    def _change(self) -> None:
        """Stop what has to stop, say who takes which place, and send what is missing."""
        self._entry = None
        if self._over:
            return
        shape, layout = self._target()
        staying = len(self.machines.staying)
        change = PlanChange(self.process.now, str(layout) if layout else _NONE, staying, self._due)
        self.changes.append(change)
        if shape is None or layout is None:
            lifted = self._stop(self.pipelines)
            self.pipelines, change.stall = [], 0.0
            change.restarted += self._begin_again(lifted)
            return
        old = self.pipelines
        held, follows, places = self._placed(layout, self._cached())
        mine = _cut(places, layout)
        spared = self.policy.spares and shape is self._shape
        stay = {i: old[o] for i, o in enumerate(follows) if o >= 0 and spared and old[o].places == mine[i]}
        lifted = self._stop([pipe for pipe in old if pipe not in stay.values()])
        if self.policy.carries:
            sizes = {number: sum(map(self.cache_bytes, requests.values())) for number, requests in lifted.items()}
            caches = [sizes.get(p.replica, size) for p, size in zip(old, held.caches, strict=True)]
            held = replace(held, caches=caches)
        self._shape, self._planned, self.pipelines = shape, True, list(stay.values())
        for i, before in enumerate(follows):
            if i not in stay:
                source = lifted[old[before].replica] if before >= 0 and self.policy.carries else {}
                kept = {request: tokens for request, tokens in source.items() if _decodes(request, tokens)}
                self._fill(mine[i], kept, *self._missing(held, layout, places, follows, i), change)
        change.restarted += self._begin_again(lifted)
        if all(pipe.ready for pipe in self.pipelines):
            change.stall = 0.0

    def _stop(self, pipes: Sequence[Pipeline]) -> dict[int, dict[RequestState, int]]:
        """These are no part of the plan any more: what each held, by replica."""
        for pipe in pipes:
            self._served[pipe.shape] += self.process.now - pipe.since
        return {pipe.replica: self.process.vacate(pipe.replica) for pipe in pipes}

    def _begin_again(self, lifted: Lifted) -> int:
        """Requests that nobody keeps go to whoever is open, or wait for one; returns how many lost their cache."""
        count = 0
        kept = {request for pipe in self.pipelines for request in pipe.kept}
        lost: list[RequestState] = []
        for number, requests in lifted.items():
            mine = {request: tokens for request, tokens in requests.items() if request not in kept}
            count += sum(request.blocks > 0 for request in mine)
            self.process.replicas[number].forget(mine)
            lost += mine
        self._open()
        self.process.begin_again(sorted(lost, key=lambda r: (r.arrival, r.index)))
        return count

    def _fill(
        self, places: tuple[int, ...], kept: dict[RequestState, int], wanted: list[Parcel], reused: float,
        change: PlanChange,
    ) -> None:  # fmt: skip
        """A pipeline that serves once all it lacks has arrived."""
        shape, taken = self._shape, {pipe.replica for pipe in self.pipelines}
        number = next(n for n in range(shape.first, shape.first + shape.count) if n not in taken)
        pipe = Pipeline(number, shape, places, self.process.now, kept, Transfer())
        self.pipelines.append(pipe)
        self.process.away += len(kept)
        change.reused += reused
        change.moved += sum(p.size for p in wanted if p.source != STORAGE)
        change.loaded += sum(p.size for p in wanted if p.source == STORAGE)

        def load() -> None:
            if pipe in self.pipelines:
                pipe.transfer = self.carrier.send(wanted, lambda: self._filled(pipe, change))

        if self.policy.carries or not self.restart:
            load()
        else:
            self.clock.after(self.restart, load)

    def _filled(self, pipe: Pipeline, change: PlanChange) -> None:
        """All is there: its requests take their seats, and it is open."""
        assert pipe.transfer is not None
        late, pipe.transfer = pipe.transfer.late, None
        process, now = self.process, self.process.now
        replica = cast(MovableReplica, process.replicas[pipe.replica])
        version, lost = replica.version, dict[RequestState, int]()
        process.away -= len(pipe.kept)
        for request, tokens in pipe.kept.items():
            blocks = 0 if late else replica.seat(tokens, now)
            if blocks:
                request.holds, request.registered, request.matched = (), 0, None
                request.computed_tokens = tokens
                replica.arrive(request, blocks, now)
                change.kept += 1
            else:
                lost[request] = tokens
        change.restarted += len(lost)
        pipe.kept = {}
        replica.forget(lost)
        process.acted(replica, version)
        self._open()
        process.begin_again(list(lost))
        if all(other.ready for other in self.pipelines):
            change.stall = now - change.time
            self._reconsider("the change before has ended")

    def _gone(self, machine: int) -> None:
        """A machine has been taken away with all that was still on it."""
        if self._entry is not None:  # a change that needs none of its time
            self.clock.cancel(self._entry)
            self._change()
        size = self.machines.accelerators
        here = range(machine * size, (machine + 1) * size)
        broken = [pipe for pipe in self.pipelines if not set(here).isdisjoint(pipe.places)]
        self.carrier.lose(here)
        self.pipelines = [pipe for pipe in self.pipelines if pipe not in broken]
        lifted = self._stop(broken)
        for pipe in broken:
            if pipe.transfer is not None:
                self.carrier.drop(pipe.transfer)
                self.process.away -= len(pipe.kept)
                lifted[pipe.replica] |= pipe.kept
        self.lost += self._begin_again(lifted)
        self._reconsider("instances gone", bool(broken))

    def _open(self) -> None:
        self.process.open_only([pipe.replica for pipe in self.pipelines if pipe.ready])


def _cut(places: Sequence[int], layout: Layout) -> list[tuple[int, ...]]:
    """The accelerators of every pipeline."""
    size = layout.pipeline * layout.tensor
    return [tuple(places[i * size : (i + 1) * size]) for i in range(layout.data)]


def _decodes(request: RequestState, tokens: int) -> bool:
    """Whether it can go on with the next token: all before it are in the cache."""
    return request.produced > 0 and request.blocks > 0 and tokens == request.input_tokens + request.produced - 1
