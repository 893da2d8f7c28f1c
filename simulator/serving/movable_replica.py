"""A replica whose decoding requests can go on on another one."""

from __future__ import annotations

from copy import copy
from typing import Any

from simulator.serving.pools_replica import PoolReplica
from simulator.strategies.serving_protocols import RequestState

__all__ = ["MovableReplica"]


def _stays(request: RequestState, now: float) -> bool:
    return False


class MovableReplica(PoolReplica):
    """Takes requests in as a pool does, and lets those go that decode, at an iteration boundary."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.on_prompt = _stays

    # -- the side a request leaves -----------------------------------------------------------------------------------

    def tokens_in_cache(self, request: RequestState, now: float) -> int:
        """Tokens of a decoding request whose keys and values are there at ``now`` [s]; 0: it does not decode here."""
        group = self._decoding
        if request.replica != self.index or request.finish_at <= group.clock:
            return 0
        done = 0
        for flight in self._flights:
            if flight.group is group:
                done = flight.boundary_after(now)
                done -= flight.boundary(done) > now
        return request.offset + group.clock + done - 1

    def next_boundary(self, now: float) -> float:
        """End of the iteration that runs at ``now`` [s]; a jump ends there."""
        self.truncate(now)
        return self._flights[0].end if self._flights else now

    def settle(self, now: float) -> None:
        """End what ends at ``now`` [s], and start nothing yet."""
        self.close_books(now)
        while self._flights and self._flights[0].end <= now:
            self._complete(self._flights.popleft())
        if len(self._flights) < self.stages:
            self._set_next(now)

    def take_out(self, request: RequestState, now: float) -> RequestState:
        """Let a request go that decodes, at an iteration boundary.

        Returns
        -------
        What stays behind of it, with its blocks, until :meth:`let_go`.
        """
        self._release_secured()
        held = self._step_out(request)
        left = copy(request)
        left.blocks = held
        request.blocks, request.holds, request.registered, request.matched = 0, (), 0, None
        return left

    # -- the side it goes to -----------------------------------------------------------------------------------------

    def seat(self, tokens: int, now: float) -> int:
        """Take the KV blocks of so many tokens for a request on its way; 0 where there is no room."""
        # A jump has been promised more blocks than single steps take by now: it ends with the iteration that runs.
        self.truncate(now)
        return self._seat(self.pool.blocks(tokens), now)

    def widen(self, blocks: int, tokens: int, now: float) -> int:
        """Have the KV blocks of so many tokens in place of ``blocks``; 0 where there is no room."""
        self.truncate(now)
        more = self.pool.blocks(tokens) - blocks
        if more + 1 > self._room:
            return 0
        self.close_books(now)
        self.pool.allocate(more)
        return blocks + more

    def unseat(self, blocks: int, now: float) -> None:
        """The request does not come."""
        self.close_books(now)
        self.pool.release(blocks)
        self.running -= 1
        self._look_again(now)
