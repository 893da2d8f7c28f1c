"""A replica that gives completed prompts away and takes in the keys and values of others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from simulator.serving.replica import Replica
from simulator.strategies.serving_protocols import RequestState

__all__ = ["PoolReplica"]


class PoolReplica(Replica):
    """A replica of a pool.

    A request from elsewhere is first *offered*; it gets the blocks of its prompt as soon as there is room (*reserved*),
    holds them while its keys and values travel, and joins the decoding at the first iteration boundary after it has
    *arrived*. Offered and arrived requests wait in ``swapped``, so that the engine looks at them at every boundary.

    Attributes
    ----------
    on_prompt
        Called with a request whose output (as far as this replica is told) is complete, and the time [s]; true where it
        goes on elsewhere and its blocks are kept until :meth:`let_go`.
    on_reserved
        Called with an offered request that has just got its blocks, and their number.
    on_chunk
        Called with (request, tokens, start [s], end [s]) of every chunk of a prompt that begins.
    """

    on_prompt: Callable[[RequestState, float], bool]
    on_reserved: Callable[[RequestState, int], object]
    on_chunk: Callable[[RequestState, int, float, float], object] | None = None

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._offered: set[int] = set()

    # -- the side that has computed the prompt -----------------------------------------------------------------------

    def _finish(self, request: RequestState, now: float) -> None:
        if not self.on_prompt(request, now):
            super()._finish(request, now)

    def let_go(self, request: RequestState, now: float) -> None:
        """The keys and values have left: give their blocks back."""
        self.close_books(now)
        self._give_back(request, request.blocks)
        self.running -= 1
        self._look_again(now)

    def _look_again(self, now: float) -> None:
        """Something has come or gone: ask the policy now, or at the end of the iteration that runs."""
        if len(self._flights) < self.stages:
            self._set_next(now)
        else:
            self.truncate(now)

    def _launch(self, plan: Any, now: float) -> bool:
        count = len(self._flights)
        launched = super()._launch(plan, now)
        if launched and self.on_chunk is not None and len(self._flights) > count:
            flight = self._flights[-1]
            for request, tokens in flight.prefill:
                self.on_chunk(request, tokens, flight.start, flight.end)
        return launched

    # -- the side that decodes ---------------------------------------------------------------------------------------

    def prompt_blocks(self, request: RequestState) -> int:
        """KV blocks of a prompt from elsewhere."""
        return self.pool.blocks(request.input_tokens)

    def reserve(self, request: RequestState, now: float) -> int:
        """Take the blocks of a request from elsewhere; 0 where there is no room (or others were there first)."""
        return 0 if self._offered else self._reserve(request, now)

    def _reserve(self, request: RequestState, now: float) -> int:
        return self._seat(self.prompt_blocks(request), now)

    @property
    def _room(self) -> int:
        """KV blocks that may be given out."""
        # A running jump has been promised blocks that it has not taken yet.
        grown = sum(f.group.growth(f.iterations)[0] for f in self._flights if f.group is not None and f.iterations > 1)
        return self.free_blocks - grown - (self.watermark_blocks if self.running else 0)

    def _seat(self, blocks: int, now: float) -> int:
        """Take so many blocks for one more request; 0 where there is no room."""
        # One block more, as the policies ask of swapped requests: its next token must not preempt somebody.
        alive = self.running + len(self.swapped) - len(self._offered)
        if blocks + 1 > self._room or alive >= self.max_num_seqs:
            return 0
        self.close_books(now)
        self.pool.allocate(blocks)
        self.running += 1
        return blocks

    def offer(self, request: RequestState, now: float) -> None:
        """A request whose keys and values are ready elsewhere waits for room here."""
        self.close_books(now)
        self._offered.add(request.index)
        self.swapped.append(request)

    def arrive(self, request: RequestState, blocks: int, now: float) -> None:
        """All keys and values of a request are here, in the ``blocks`` reserved for it."""
        self.close_books(now)
        request.blocks = blocks
        request.replica = self.index
        self.running -= 1
        self.swapped.append(request)
        self._look_again(now)

    def _swap_back(self) -> None:
        """At an iteration boundary: who has arrived decodes, who was offered is reserved for, first come first."""
        arrived = [r for r in self.swapped if r.index not in self._offered]
        if arrived:
            self.swapped = deque(r for r in self.swapped if r.index in self._offered)
            self._release_secured()
            for request in arrived:
                self.running += 1
                self._decoding.join(request, request.last_token)
        while self.swapped and (blocks := self._reserve(self.swapped[0], self.usage.until)):
            request = self.swapped.popleft()
            self._offered.remove(request.index)
            self.on_reserved(request, blocks)
