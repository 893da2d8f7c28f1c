"""What a plan that changes is made of: shapes, pipelines on their accelerators, parcels on their way, the books."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from simulator.strategies.replanning.base import Layout
from simulator.strategies.replanning.context import Parcel
from simulator.strategies.serving_protocols import RequestState

__all__ = ["Carrier", "Pipeline", "PlanChange", "Shape", "Transfer"]


@dataclass(eq=False)
class Transfer:
    """Parcels on their way; ``late``: a source was gone before they had arrived, and storage sent weights instead."""

    late: bool = False


class Carrier(Protocol):
    """Carries weights, keys and values between accelerators."""

    def seconds(self, wanted: Sequence[Parcel]) -> float:
        """How long that takes with nobody else on the network [s]."""

    def send(self, wanted: Sequence[Parcel], done: Callable[[], object]) -> Transfer:
        """Send all from now on; ``done`` is called when the last byte is there."""

    def lose(self, accelerators: Iterable[int]) -> None:
        """These are gone: what they still send comes from the storage instead, and is late."""

    def drop(self, transfer: Transfer) -> None:
        """Nobody waits for it any more: ``done`` is not called."""


@dataclass(frozen=True)
class Shape:
    """One way to build a pipeline, and the replicas of the deployment that have it.

    Attributes
    ----------
    layout
        Of a single pipeline: its throughput [requests/s] and the latency of a request [s].
    first, count
        Its replicas.
    tokens
        In the cache of one when it is full of requests of mean length.
    """

    layout: Layout
    first: int
    count: int
    tokens: int = 0


@dataclass(eq=False)
class Pipeline:
    """A pipeline of the plan: its replica and the accelerators of its ranks, shards first.

    Attributes
    ----------
    since
        When it became part of the plan [s].
    kept
        Requests that go on in it once it is ready, and the tokens of each that are in the cache.
    transfer
        What it waits for; ``None``: it serves.
    """

    replica: int
    shape: Shape
    places: tuple[int, ...]
    since: float
    kept: dict[RequestState, int] = field(default_factory=dict)
    transfer: Transfer | None = None

    @property
    def ready(self) -> bool:
        """Whether it has all its context."""
        return self.transfer is None


@dataclass
class PlanChange:
    """One change of the plan.

    Attributes
    ----------
    reused, moved, loaded
        Bytes in place, from other accelerators, from storage [B], over the pipelines that stopped or are new.
    kept, restarted
        Requests that went on with their keys and values, and that lost them.
    stall
        Until the last of these pipelines serves [s]; NaN: not yet.
    """

    time: float
    plan: str
    machines: int
    reason: str
    reused: float = 0.0
    moved: float = 0.0
    loaded: float = 0.0
    kept: int = 0
    restarted: int = 0
    stall: float = math.nan
