"""What fails, how often, and what it takes until work goes on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

__all__ = ["FailureKind", "FailureModel", "NodeEvents", "Repair"]


@dataclass(frozen=True)
class FailureKind:
    """One kind of failure.

    Attributes
    ----------
    name
        ``faulty_gpu``, ``software_bug`` ...
    mtbf
        Accelerator-seconds between two of them: the mean time of one accelerator [s]. n accelerators have n times
        as many.
    replaces_node
        Whether the node leaves for repair; otherwise the work restarts on the same one.
    planned
        Announced: the state is saved before the work stops, so that nothing is lost but the time.
    slows_to
        Speed that is left of a degraded node, 0..1; 0 = it stops.
    """

    name: str
    mtbf: float
    replaces_node: bool = True
    planned: bool = False
    slows_to: float = 0.0


@dataclass(frozen=True)
class Repair:
    """Time until a node is back: lognormal with this ``median`` [s] and ``sigma`` (0 = always the median)."""

    median: float = 0.0
    sigma: float = 0.0

    @property
    def mean(self) -> float:
        """[s]"""
        return self.median * math.exp(self.sigma**2 / 2)


@dataclass(frozen=True)
class NodeEvents:
    """Recorded failures of nodes, by start time; every column has one entry per failure.

    Attributes
    ----------
    node
        Number of the node, 0 … ``nodes`` − 1.
    start, end
        [s] from the start of the record; ``end`` is infinite where the record stops before the repair.
    kind
        What failed.
    nodes
        Nodes that were observed, those that never failed included.
    span
        Length of the record [s].
    read, dropped
        Rows of the file, and how many of them were left out by reason.
    """

    node: tuple[int, ...]
    start: tuple[float, ...]
    end: tuple[float, ...]
    kind: tuple[str, ...]
    nodes: int
    span: float
    read: int = 0
    dropped: tuple[tuple[str, int], ...] = ()

    def __len__(self) -> int:
        return len(self.node)

    @property
    def node_mtbf(self) -> float:
        """Observed time of all nodes over failures [s]; infinite without failures."""
        return self.nodes * self.span / len(self) if len(self) else math.inf


@dataclass(frozen=True)
class FailureModel:
    """Failures of a cluster and the times around them.

    Attributes
    ----------
    name, source, assumes
        What it stands for, where it was read, and what had to be assumed.
    kinds
        Drawn failures; empty when a trace is replayed.
    shape
        Of the Weibull law between two failures of one node; 1 = exponential.
    trace
        Recorded failures that are replayed.
    repair
        Until a failed node is back; recorded times take precedence.
    detection
        From the failure until the job has stopped [s].
    restart
        Starting every process again and joining them, without reading the state [s].
    regroup
        Joining the processes that are left, without starting them [s].
    observed
        Failures that the rates were counted from; infinite: they are taken as known.
    site_spread
        Geometric standard deviation of a site's rate over the recorded one; 1: the rates are the site's own.
    spares
        Nodes without work that are kept hot to step in for failed ones; ``None``: all of them.
    """

    name: str
    kinds: tuple[FailureKind, ...] = ()
    shape: float = 1.0
    trace: NodeEvents | None = None
    repair: Repair = Repair()
    detection: float = 0.0
    restart: float = 0.0
    regroup: float = 0.0
    spares: int | None = None
    observed: float = math.inf
    site_spread: float = 1.0
    source: str = ""
    assumes: tuple[str, ...] = ()

    @cached_property
    def rate(self) -> float:
        """Failures of one accelerator per second that stop a job; of a trace, of one node."""
        if self.trace is not None:
            return 1.0 / self.trace.node_mtbf
        return sum(1.0 / kind.mtbf for kind in self.kinds if not kind.slows_to)

    def expected(self, seconds: float, accelerators: int, per_node: int = 8) -> float:
        """Failures that stop a job of this size in so many seconds, in the mean."""
        return seconds / self.mttf(accelerators, per_node)

    def mttf(self, accelerators: int, per_node: int = 8) -> float:
        """Mean time between two interruptions of a job of this size [s]; infinite without failures."""
        units = accelerators / per_node if self.trace is not None else accelerators
        return 1.0 / (self.rate * units) if self.rate else math.inf
