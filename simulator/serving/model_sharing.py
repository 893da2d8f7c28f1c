"""Accelerators shared by many models: queries, batches of one model, weights that come and go, preemption."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from simulator.errors import ConfigError
from simulator.registry import lookup
from simulator.strategies.model_scheduling.base import Dispatch, ModelPolicy, ModelProfile, Query, SharedDevice

if TYPE_CHECKING:
    from simulator.engine.clock import Clock

__all__ = ["ModelServer", "SharingRun", "serve_models"]


@dataclass(frozen=True)
class SharingRun:
    """What happened to every query.

    Attributes
    ----------
    arrival, finish, deadline
        [s]; ``finish`` is NaN for dropped queries.
    model
        Index of the model that served it.
    busy
        Time all devices computed or loaded, wasted work included [s].
    wasted, loading
        Time of stopped batches, and of loading weights [s].
    batches
        Sizes of the completed ones.
    """

    arrival: NDArray[np.float64]
    finish: NDArray[np.float64]
    deadline: NDArray[np.float64]
    model: NDArray[np.int64]
    busy: float
    wasted: float
    loading: float
    batches: tuple[int, ...]

    @property
    def attainment(self) -> float:
        """Share of all queries that ended in time."""
        return float((self.finish <= self.deadline).mean()) if len(self.arrival) else math.nan


class ModelServer:
    """Devices, one queue per model, and a policy.

    Parameters
    ----------
    clock
        The one clock.
    models
        Their profiles.
    policy
        Registered name of family ``model_scheduling``, or an object.
    devices, memory
        How many, and what each keeps weights in [B].
    load_bandwidth
        Weights from the host into a device [B/s].
    on_end
        Called with every query that has ended or was given up.
    preemption
        From the decision to stop a batch until the next can start [s].

    Raises
    ------
    ConfigError
        If a model does not fit a device.
    """

    def __init__(
        self, clock: Clock, models: Sequence[ModelProfile], policy: str | ModelPolicy, *, devices: int = 1,
        memory: float = math.inf, load_bandwidth: float = math.inf, preemption: float = 0.0,
        on_end: Callable[[Query], object] | None = None,
    ) -> None:  # fmt: skip
        for model in models:
            if model.weights > memory:
                raise ConfigError(
                    f"model '{model.name}' has {model.weights:g} B of weights, a device {memory:g} B: it never fits"
                )
        self.clock, self.models = clock, models
        self.policy: ModelPolicy = lookup("model_scheduling", policy)() if isinstance(policy, str) else policy
        self.devices = [SharedDevice(i, memory) for i in range(devices)]
        self.queues: list[deque[Query]] = [deque() for _ in models]
        self.load_bandwidth, self.preemption = load_bandwidth, preemption
        self.busy = self.wasted = self.loading = 0.0
        self.batches: list[int] = []
        self._ends: dict[int, Any] = {}
        self._on_end = on_end

    # -- what policies see -------------------------------------------------------------------------------------------

    def load_seconds(self, device: SharedDevice, model: int) -> float:
        """Time to get a model's weights into a device; 0 where it has them [s]."""
        return 0.0 if model in device.loaded else self.models[model].weights / self.load_bandwidth

    def drop(self, query: Query) -> None:
        """Give up a waiting query."""
        query.dropped = True
        if self._on_end is not None:
            self._on_end(query)

    # -- events --------------------------------------------------------------------------------------------------

    def submit(self, query: Query) -> None:
        """A query arrives now."""
        now = self.clock.now
        if not self.policy.admit(query, self, now):
            self.drop(query)
            return
        self.queues[query.model].append(query)
        if all(device.running is not None for device in self.devices):
            for device in self.devices:
                if self.policy.preempts(query, device, self, now):
                    self._stop(device)
                    return
        self._fill()

    def _fill(self) -> None:
        for device in self.devices:
            if device.running is None and device.free_at <= self.clock.now:
                work = self.policy.dispatch(device, self, self.clock.now)
                if work is not None:
                    self._begin(device, work)

    def _begin(self, device: SharedDevice, work: Dispatch) -> None:
        now, loading = self.clock.now, self.load_seconds(device, work.model)
        self._make_room(device, work.model)
        seconds = loading + self.models[work.model].latency(len(work.queries))
        self.loading += loading
        device.running, device.started, device.free_at = work, now, now + seconds
        self._ends[device.index] = self.clock.after(seconds, lambda: self._end(device))

    def _make_room(self, device: SharedDevice, model: int) -> None:
        """Weights of the model become the most recent ones; the least recent ones go."""
        device.loaded.pop(model, None)
        while device.loaded and sum(device.loaded.values()) + self.models[model].weights > device.memory:
            del device.loaded[next(iter(device.loaded))]
        device.loaded[model] = self.models[model].weights

    def _end(self, device: SharedDevice) -> None:
        work, now = device.running, self.clock.now
        assert work is not None
        for query in work.queries:
            query.finish = now
            if self._on_end is not None:
                self._on_end(query)
        self.batches.append(len(work.queries))
        self.busy += now - device.started
        device.running = None
        self._fill()

    def _stop(self, device: SharedDevice) -> None:
        """Stop a batch: its queries go back to the head of their queue, what it has done is lost."""
        work, now = device.running, self.clock.now
        assert work is not None
        self.clock.cancel(self._ends[device.index])
        self.queues[work.model].extendleft(reversed(work.queries))
        self.busy += now - device.started
        self.wasted += now - device.started
        device.running, device.free_at = None, now + self.preemption
        self.clock.after(self.preemption, self._fill, late=True)


def serve_models(
    queries: Sequence[Query], models: Sequence[ModelProfile], policy: str | ModelPolicy, **options: Any
) -> SharingRun:
    """Serve ``queries`` to the end on a clock of their own; ``options`` as for :class:`ModelServer`."""
    from simulator.engine.clock import Clock as NewClock

    clock = NewClock()
    server = ModelServer(clock, models, policy, **options)
    for query in queries:
        clock.at(query.arrival, lambda query=query: server.submit(query))  # type: ignore[misc]
    clock.run()

    def column(name: str) -> NDArray[Any]:
        return np.array([getattr(query, name) for query in queries])

    return SharingRun(
        column("arrival"), column("finish"), column("deadline"), column("model"), server.busy, server.wasted,
        server.loading, tuple(server.batches),
    )  # fmt: skip
