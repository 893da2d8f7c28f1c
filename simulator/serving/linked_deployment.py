"""Deployments whose replicas share links with others: somebody watches what they send and says how slow it is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

from simulator.serving.deployment import DeploymentProcess
from simulator.serving.flight import Watcher
from simulator.serving.pools import PooledDeployment
from simulator.serving.replica import Replica
from simulator.strategies.protocols import IterationCost

__all__ = ["Linked", "LinkedDeployment", "LinkedPools"]


class Linked(Protocol):
    """What watchers ask of the deployment whose replicas they watch."""

    @property
    def now(self) -> float:
        """Time since the start [s]."""

    def call_at(self, time: float, call: Callable[[], object]) -> object:
        """Call at ``time`` [s since the start], which may lie ahead of the clock; nothing here happens later before."""

    def repriced(self, index: int) -> None:
        """Iterations of a replica take another time from its next iteration boundary on."""

    def cut_off(self, index: int) -> None:
        """The ranks of a replica do not reach each other any more."""

    def joined_again(self, index: int) -> None:
        """The ranks of a replica reach each other again."""


class LinkedDeployment(DeploymentProcess):
    """A deployment whose replicas are watched, and whose iteration times may change at any moment.

    Parameters
    ----------
    watchers
        By number of the replica.
    arguments, options
        Of :class:`~simulator.serving.deployment.DeploymentProcess`; every replica has a cost of its own.
    """

    def __init__(self, *arguments: Any, watchers: Mapping[int, Watcher], **options: Any) -> None:
        self._watchers, self._cut, self._asked = watchers, set[int](), set[int](range(options["replicas"]))
        super().__init__(*arguments, **options)
        # What a replica sends is seen by others at once: it goes on to its next event only, and as an object.
        self._alone = self.independent = False

    def _new_replica(self, index: int, cost: IterationCost) -> Replica:
        replica = super()._new_replica(index, cost)
        replica.watcher = self._watchers.get(index)
        return replica

    def call_at(self, time: float, call: Callable[[], object]) -> None:
        """See :class:`Linked`."""
        self.clock.at(max(time + self._origin, self.clock.now), call)
        self._limit = min(self._limit, time)

    def repriced(self, index: int) -> None:
        """See :class:`Linked`."""
        replica = self.replicas[index]
        version = replica.version
        replica.truncate(self.now)
        self.acted(replica, version)

    def open_only(self, indices: Collection[int]) -> None:
        """Only these replicas take requests from now on, as far as their ranks reach each other."""
        self._asked = set(indices)
        super().open_only(self._asked - self._cut)

    def cut_off(self, index: int) -> None:
        """See :class:`Linked`: its requests begin again elsewhere, or wait."""
        if index not in self._cut:
            asked = set(self._asked)
            self._cut.add(index)
            self.evacuate(index)
            self.open_only(asked)

    def joined_again(self, index: int) -> None:
        """See :class:`Linked`."""
        if index in self._cut:
            self._cut.remove(index)
            self.open_only(self._asked)


class LinkedPools(PooledDeployment):
    """Pools whose replicas are watched.

    Parameters
    ----------
    watchers, costs
        By number of the replica, those of the prefill pool first.
    arguments, options
        Of :class:`~simulator.serving.pools.PooledDeployment`.

    Attributes
    ----------
    cut
        Replicas whose ranks did not reach each other at some time: they went on, for no pool closes replicas.
    """

    def __init__(
        self, *arguments: Any, watchers: Mapping[int, Watcher], costs: Mapping[int, IterationCost], **options: Any
    ) -> None:
        self._costs, self.cut = costs, set[int]()
        super().__init__(*arguments, **options)
        for index, watcher in watchers.items():
            self.replicas[index].watcher = watcher

    def _cost(self, alone: IterationCost, index: int) -> IterationCost:
        return self._costs.get(index, alone)

    @property
    def now(self) -> float:
        """See :class:`Linked`."""
        return self._now

    def call_at(self, time: float, call: Callable[[], object]) -> None:
        """See :class:`Linked`; every event of pools is on the clock."""
        self.clock.at(max(time + self._origin, self.clock.now), call)

    def repriced(self, index: int) -> None:
        """See :class:`Linked`."""
        replica = self.replicas[index]
        replica.truncate(self._now)
        self._book(replica)

    def cut_off(self, index: int) -> None:
        """See :class:`Linked`."""
        self.cut.add(index)

    def joined_again(self, index: int) -> None:
        """See :class:`Linked`."""
