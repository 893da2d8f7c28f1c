"""What a replica does between the notice that its machine goes and the end: decode on, then save its requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulator.serving.migration import Migrations
from simulator.strategies.autoscaling.spotserve import SpotServe
from simulator.strategies.serving_protocols import BatchShape, RequestState

if TYPE_CHECKING:
    from simulator.engine.clock import Clock
    from simulator.serving.scaling import ReplicaFleet

__all__ = ["MoveAtNotice"]


class MoveAtNotice:
    """Moves the requests of a replica that is about to be taken away, as late as its grace allows.

    Each goes to the open replica with the most free KV blocks. Who does not arrive in time, or finds no room, begins
    again as without it.

    Parameters
    ----------
    clock, fleet, migrations
        The one clock, who says which replicas are there, and who moves requests.
    planner
        Says how long a replica can decode on (:class:`~simulator.strategies.autoscaling.spotserve.SpotServe`).
    bandwidth
        Out of a replica with nobody else on the network [B/s]: what the start is planned with. The moves themselves are
        flows.
    """

    def __init__(
        self, clock: Clock, fleet: ReplicaFleet, migrations: Migrations, planner: type[SpotServe], bandwidth: float
    ) -> None:
        self.clock, self.fleet, self.migrations = clock, fleet, migrations
        self.planner, self.bandwidth = planner, bandwidth

    def __call__(self, replica: int, grace: float) -> None:
        """A replica has ``grace`` [s] left."""
        process = self.fleet.process
        running = self._decoding(replica)
        if not running:
            # What it still takes from its queue has half of the grace to begin.
            self.clock.after(grace / 2, lambda: self._move(replica))
            return
        source = process.replicas[replica]
        contexts = [self.migrations.context(request, replica) for request in running]
        iteration = source.predict(BatchShape((), len(running), sum(contexts), max(contexts)))
        count = self._iterations_before(contexts, 0, iteration, grace)
        # They grow while they decode on, by that many tokens at most.
        count = self._iterations_before(contexts, count, iteration, grace)
        # Two of slack: requests stop at the end of an iteration.
        self.clock.after(max(0, count - 2) * iteration, lambda: self._move(replica))

    def _iterations_before(self, contexts: list[int], more: int, iteration: float, grace: float) -> int:
        """Iterations that fit the grace beside the move of these contexts, each ``more`` tokens longer."""
        size = sum(self.migrations.wire_bytes(tokens + more) for tokens in contexts)
        return self.planner(grace).tokens_before(size / self.bandwidth, iteration)

    def _decoding(self, replica: int) -> list[RequestState]:
        return sorted(self.fleet.process.replicas[replica].decoding, key=lambda r: r.index)

    def _move(self, replica: int) -> None:
        process = self.fleet.process
        life = next((i for i in self.fleet.lives if i.replica == replica and i.draining and i.is_up), None)
        if life is None:
            return
        for request in self._decoding(replica):
            targets = sorted(process.open, key=lambda r: (r.kv_blocks_at(process.now) - r.kv_blocks, r.index))
            if targets:
                self.migrations.start(request, replica, targets[0].index)
