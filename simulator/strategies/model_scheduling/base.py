"""Profiled models, queries with deadlines, and what a scheduling policy sees of the accelerators."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from simulator.errors import ConfigError

__all__ = ["Dispatch", "ModelPolicy", "ModelProfile", "Query", "ServerView", "SharedDevice", "largest_batch"]


@dataclass(frozen=True)
class ModelProfile:
    """A model as measured: a batch of b takes ``alpha``·b + ``beta`` [s] (Nexus, SOSP 2019, equation 1).

    Attributes
    ----------
    alpha, beta
        Seconds per query and per batch.
    weights
        [B]; what loading and keeping it takes.
    max_batch
        Largest batch it was profiled at.
    family, accuracy, cost
        Variants of one family answer the same queries, at their accuracy and price per query.
    """

    name: str
    alpha: float
    beta: float
    weights: float = 0.0
    max_batch: int = 64
    family: str = ""
    accuracy: float = 1.0
    cost: float = 0.0

    def __post_init__(self) -> None:
        if self.alpha < 0.0 or self.beta < 0.0 or self.alpha + self.beta <= 0.0 or self.max_batch < 1:
            raise ConfigError(
                f"model '{self.name}': alpha and beta must be at least 0 and not both 0, max_batch at least 1; have "
                f"{self.alpha}, {self.beta}, {self.max_batch}"
            )

    def latency(self, batch: int) -> float:
        """Seconds of a batch."""
        return self.alpha * batch + self.beta


class Query:
    """A request for one inference.

    Attributes
    ----------
    model
        Index of the model it asks for; policies with variants may change it.
    deadline
        Latest useful end [s].
    urgent
        Real-time rather than best effort.
    accuracy
        Least it takes.
    finish
        [s]; NaN while it is not done, and for ever where it was dropped.
    """

    __slots__ = ("accuracy", "arrival", "deadline", "dropped", "finish", "index", "model", "urgent")

    def __init__(
        self, index: int, model: int, arrival: float, deadline: float = math.inf, urgent: bool = False,
        accuracy: float = 0.0,
    ) -> None:  # fmt: skip
        self.index, self.model, self.arrival, self.deadline = index, model, arrival, deadline
        self.urgent, self.accuracy = urgent, accuracy
        self.finish = math.nan
        self.dropped = False


class Dispatch(NamedTuple):
    """A batch to start now: the queries, all of one model."""

    model: int
    queries: Sequence[Query]


class SharedDevice:
    """What is known of one accelerator: when it is free, what it runs, which weights it has (least recent first)."""

    def __init__(self, index: int, memory: float) -> None:
        self.index, self.memory = index, memory
        self.loaded: dict[int, float] = {}
        self.running: Dispatch | None = None
        self.started = 0.0
        self.free_at = 0.0


class ServerView(Protocol):
    """What policies may see and do."""

    @property
    def models(self) -> Sequence[ModelProfile]:
        """Profiles by index."""

    @property
    def devices(self) -> Sequence[SharedDevice]:
        """All accelerators."""

    @property
    def queues(self) -> Sequence[deque[Query]]:
        """Waiting queries of each model, first come first."""

    def load_seconds(self, device: SharedDevice, model: int) -> float:
        """Time to get a model's weights into a device; 0 where it has them [s]."""

    def drop(self, query: Query) -> None:
        """Give up a waiting query."""


class ModelPolicy(Protocol):
    """Schedules queries of many models."""

    name: str

    def admit(self, query: Query, server: ServerView, now: float) -> bool:
        """Whether to take the query on; may choose the variant that serves it."""

    def dispatch(self, device: SharedDevice, server: ServerView, now: float) -> Dispatch | None:
        """The next batch of an idle device, its queries out of their queue; ``None``: nothing for now."""

    def preempts(self, query: Query, device: SharedDevice, server: ServerView, now: float) -> bool:
        """Whether the running batch is stopped for the query that has just been queued; its work is lost."""


def largest_batch(server: ServerView, device: SharedDevice, model: int, now: float) -> int:
    """Most queries from the head of a queue that all end in time if they start now as one batch."""
    profile, ready = server.models[model], now + server.load_seconds(device, model)
    earliest, best = math.inf, 0
    for size, query in enumerate(server.queues[model], start=1):
        if size > profile.max_batch:
            break
        earliest = min(earliest, query.deadline)
        if ready + profile.latency(size) > earliest:
            break
        best = size
    return best
