"""A flow in transit and what is told of it when it has ended."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulator.network.hashing import ecmp_hash

if TYPE_CHECKING:
    import simpy

    from simulator.engine._environment import Scheduled
    from simulator.network.periodic import Periodic

__all__ = ["Flow", "TransferResult", "Way"]


@dataclass(frozen=True)
class TransferResult:
    """The value of a transfer's event.

    Attributes
    ----------
    requested, delivered
        [B]; equal unless the transfer was cancelled.
    start, end
        [s]; start includes the latency.
    completed
        ``False`` when it was cancelled.
    """

    tag: str
    requested: float
    delivered: float
    start: float
    end: float
    completed: bool

    @property
    def duration(self) -> float:
        """From request to end [s]."""
        return self.end - self.start


@dataclass(frozen=True, eq=False)
class Way:
    """Links of a flow, each once, and the load that one byte of the flow puts on each."""

    links: NDArray[np.int64]
    shares: NDArray[np.float64]

    @classmethod
    def of(cls, links: ArrayLike | Mapping[int, float], shares: ArrayLike | None = None) -> Way:
        """From link numbers, or from link → share. A link crossed twice is loaded twice.

        Raises
        ------
        ValueError
            If shares and links differ in length or a share is not positive.
        """
        if isinstance(links, Mapping):
            shares = np.fromiter(links.values(), np.float64, len(links))
            links = np.fromiter(links, np.int64, len(links))
        ids: NDArray[np.int64] = np.asarray(links, np.int64).reshape(-1)
        load: NDArray[np.float64] = np.ones(len(ids)) if shares is None else np.asarray(shares, np.float64)
        if len(load) != len(ids) or not (load > 0).all():
            raise ValueError("a way needs one positive share per link")
        if len(ids) > 1 and len(set(ids.tolist())) < len(ids):
            ids, which = np.unique(ids, return_inverse=True)
            load = np.bincount(which, load).astype(np.float64)
        return cls(ids, load)


@dataclass(eq=False)
class Flow:
    """State of one transfer; times [s], sizes [B], rates [B/s].

    ``way`` is all it crosses; ``solved`` what rates are computed from (one link of each evenly used bundle), and
    ``bundles`` those that were so reduced. ``signature`` [links of ``solved``] tells it from other flows.
    ``limits`` says what limits it now: link → share of the time, −1 for its own cap; ``beside`` whom it meets there.
    A phase of a periodic ``load`` has no end and no event, and its rate is the mean over the period.
    """

    number: int
    tag: str
    way: Way
    solved: Way
    bundles: frozenset[int]
    size: float
    weight: float
    cap: float
    start: float
    event: simpy.Event | None
    sent: float = 0.0
    rate: float = 0.0
    since: float = 0.0
    finish: float = math.inf
    version: int = 0
    limits: Mapping[int, float] = field(default_factory=dict)
    beside: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    limited: dict[int, float] = field(default_factory=dict)
    met: dict[tuple[int, str], float] = field(default_factory=dict)
    pending: Scheduled | None = None
    load: Periodic | None = None

    def signature(self) -> NDArray[np.uint64]:
        """A number for each link of ``solved`` from the flow and its share; sums of them tell sets of flows apart."""
        key = np.uint64(ecmp_hash(self.number) | 1)
        mixed = (self.solved.shares.view(np.uint64) ^ key) * np.uint64(0xBF58476D1CE4E5B9)
        return (mixed ^ (mixed >> np.uint64(29))) * key

    def sent_at(self, now: float) -> float:
        """Bytes that have moved [B]."""
        return min(self.size, self.sent + self.rate * (now - self.since))

    def waited(self, now: float) -> Mapping[int, float]:
        """Link → seconds since the last change in which it limited the flow."""
        return {link: share * (now - self.since) for link, share in self.limits.items()} if now > self.since else {}

    def advance(self, now: float) -> None:
        """Move the bytes and book the time to what limited the flow and to whom it met there."""
        elapsed = now - self.since
        if elapsed > 0:
            limited, beside = self.limited, self.beside
            for link, share in self.limits.items():
                seconds = share * elapsed
                limited[link] = limited.get(link, 0.0) + seconds
                for other in beside.get(link, ()) if beside else ():
                    self.met[link, other] = self.met.get((link, other), 0.0) + seconds
        self.sent, self.since = min(self.size, self.sent + self.rate * elapsed), now
