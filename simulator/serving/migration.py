"""Live migration: keys and values of a running request move to another replica, and it goes on there.

While they travel it goes on where it is; what it adds meanwhile follows in a further copy, and only for the last, short
one it stops (Llumnix, arXiv 2406.03243). The target keeps room for it from the start.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from simulator.serving.movable_replica import MovableReplica
from simulator.serving.pools_transfer import KVLink
from simulator.strategies.migration.base import MigrationPolicy
from simulator.strategies.serving_protocols import RequestState

if TYPE_CHECKING:
    from simulator.engine.clock import Clock
    from simulator.serving.deployment import DeploymentProcess

__all__ = ["Migrations", "Move", "Rebalancing"]


@dataclass
class Move:
    """A request on its way; times in [s], NaN: not yet."""

    request: RequestState
    source: MovableReplica
    target: MovableReplica
    blocks: int
    preemptions: int
    last_blocks: int
    max_stages: int
    sent: int = 0
    """Tokens whose keys and values have been sent."""
    stages: int = 0
    left: RequestState | None = None
    """What the source still holds once the request has stopped there."""
    stopped: float = math.nan
    ended: float = math.nan
    done: bool = False


class Migrations:
    """Moves requests between the replicas of a deployment, which must be ``movable``.

    Parameters
    ----------
    clock, process
        The one clock, the deployment.
    link
        Carries keys and values.
    wire_bytes
        Of so many tokens [B].
    """

    def __init__(
        self, clock: Clock, process: DeploymentProcess, link: KVLink, wire_bytes: Callable[[int], float]
    ) -> None:
        self.clock, self.process, self.link, self.wire_bytes = clock, process, link, wire_bytes
        self.active: dict[int, Move] = {}
        """Moves that go on, by request."""
        self.pauses: list[float] = []
        """Of every request that moved: from its last iteration on the source until it could go on [s]."""
        self.given_up = 0
        self.lost = 0
        """Of these, requests that began again because a replica went while the last of them was sent."""
        self.bytes = 0.0
        self._origin = clock.now

    def start(
        self, request: RequestState, source: int, target: int, last_blocks: float = math.inf, max_stages: int = 1
    ) -> bool:
        """Begin to move a request that decodes; false where it does not, or the target has no room.

        By default it stops at the next iteration boundary and is sent in one piece.
        """
        process, now = self.process, self.process.now
        ours, theirs = self._replica(source), self._replica(target)
        tokens = ours.tokens_in_cache(request, now)
        if not tokens or request.index in self.active or ours is theirs:
            return False
        version = theirs.version
        blocks = theirs.seat(tokens, now)
        process.acted(theirs, version)
        if not blocks:
            return False
        last = int(min(last_blocks, 1 << 60))
        move = Move(request, ours, theirs, blocks, request.preemptions, last, max_stages)
        self.active[request.index] = move
        process.away += 1
        self._stage(move)
        return True

    def context(self, request: RequestState, replica: int) -> int:
        """Tokens that a request which decodes on a replica has in the cache now."""
        return self._replica(replica).tokens_in_cache(request, self.process.now)

    # -- stages ------------------------------------------------------------------------------------------------------

    def _replica(self, index: int) -> MovableReplica:
        return cast(MovableReplica, self.process.replicas[index])

    def _alive(self, replica: MovableReplica) -> bool:
        return self.process.replicas[replica.index] is replica

    def _tokens(self, move: Move, now: float) -> int:
        """Tokens in the cache of the source; 0 where the request has ended, was preempted or lost its replica."""
        if not self._alive(move.source) or not self._alive(move.target):
            return 0
        if move.request.preemptions != move.preemptions:
            return 0
        return move.source.tokens_in_cache(move.request, now)

    def _send(self, move: Move, tokens: int, then: Callable[[], object]) -> None:
        size = max(self.wire_bytes(tokens) - self.wire_bytes(move.sent), 0.0)
        move.sent = tokens
        self.bytes += size
        self.link.send(move.source.index, move.target.index, size, math.inf, then)

    def _stage(self, move: Move) -> None:
        now = self.process.now
        tokens = self._tokens(move, now)
        if not tokens:
            self._give_up(move)
        elif (tokens - move.sent) / move.source.block_size < move.last_blocks:
            self._stop(move, now)
        elif move.stages == move.max_stages:
            self._give_up(move)
        else:
            move.stages += 1
            self._send(move, tokens, lambda: self._stage(move))

    def _stop(self, move: Move, now: float) -> None:
        """Ask the request out at the next iteration boundary."""
        source = move.source
        version = source.version
        end = source.next_boundary(now)
        self.process.acted(source, version)
        if end > now:
            self.clock.at(self._origin + end, lambda: self._out(move, end))
        else:
            self._out(move, now)

    def _out(self, move: Move, now: float) -> None:
        """At the boundary: the request leaves the batch, and the rest of its keys and values is sent."""
        source, target = move.source, move.target
        if not self._tokens(move, now):
            self._give_up(move)
            return
        before = source.version, target.version
        source.settle(now)
        tokens = self._tokens(move, now)
        blocks = target.widen(move.blocks, tokens, now) if tokens else 0
        if blocks:
            move.blocks, move.stopped = blocks, now
            move.left = source.take_out(move.request, now)
        self.process.acted(source, before[0])
        self.process.acted(target, before[1])
        if blocks:
            self._send(move, tokens, lambda: self._arrived(move))
        else:
            self._give_up(move)

    def _arrived(self, move: Move) -> None:
        process, request, now = self.process, move.request, self.process.now
        source, target = move.source, move.target
        assert move.left is not None
        del self.active[request.index]
        process.away -= 1
        whole = self._alive(source) and self._alive(target)
        before = source.version, target.version
        if self._alive(source):
            source.let_go(move.left, now)
            process.acted(source, before[0])
        if whole:
            target.arrive(request, move.blocks, now)
            self.pauses.append(now - move.stopped)
            move.done, move.ended = True, now
        elif self._alive(target):
            target.unseat(move.blocks, now)
        process.acted(target, before[1])
        if not whole:
            # One of the two is gone: what there was of the cache is of no use.
            source.usage.recomputed_tokens += move.sent
            request.preemptions += 1
            request.computed_tokens = request.finish_at = 0
            process.begin_again([request])
            self.given_up += 1
            self.lost += 1

    def _give_up(self, move: Move) -> None:
        """The request stays where it is, or is elsewhere already."""
        del self.active[move.request.index]
        self.process.away -= 1
        self.given_up += 1
        if self._alive(move.target):
            version = move.target.version
            move.target.unseat(move.blocks, self.process.now)
            self.process.acted(move.target, version)
        else:
            self.process.acted(move.source, move.source.version)


class Rebalancing:
    """Asks a policy again and again who should move.

    Parameters
    ----------
    migrations, policy
        Who moves requests, and who says which.
    interval
        Between two questions [s].
    """

    def __init__(self, clock: Clock, migrations: Migrations, policy: MigrationPolicy, interval: float) -> None:
        self.clock, self.migrations, self.policy, self.interval = clock, migrations, policy, interval

    def start(self) -> None:
        """From now on until the deployment has served everything."""
        self.clock.after(self.interval, self._tick)

    def _tick(self) -> None:
        migrations = self.migrations
        process, active = migrations.process, migrations.active
        if process.done is not None and process.done.triggered:
            return
        opened = process.open
        taking = {replica.index for replica in opened}
        leaving = [replica for replica in process.replicas if replica.outstanding and replica.index not in taking]
        busy = {move.source.index for move in active.values()}
        for source, target in self.policy.pairs(opened, leaving, process.now):
            request = None if source in busy else self.policy.pick(process.replicas[source])
            if request is not None:
                migrations.start(request, source, target, self.policy.last_blocks, self.policy.max_stages)
        self.clock.after(self.interval, self._tick)
