"""Requests that decode together, advanced all at once.

Every iteration gives each member one token. So the group counts iterations; a member is described by the count at
which it ends and by its offset (context minus count), and nothing is touched per member and iteration. A member needs
a new KV block in the iterations whose count has one residue modulo the block size, so a histogram of residues tells
how many blocks any number of iterations takes.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from operator import mul

from simulator.strategies.protocols import BatchShape, RequestState

__all__ = ["DecodeGroup"]


class DecodeGroup:
    """A set of decoding requests.

    Parameters
    ----------
    block_size
        Tokens per KV block.
    grows
        Whether members take blocks as they grow; without it no blocks are counted.

    Attributes
    ----------
    clock
        Iterations done.
    count, context
        Members, and the sum of their contexts in the coming iteration [tokens].
    secured
        Value of ``clock`` for which the blocks of the coming iteration have been taken.
    last_token
        When the members that are not in ``fresh`` got their last token [s].
    fresh
        ``[time, members]`` of those that joined since the last iteration.
    """

    __slots__ = (
        "_crossings", "_ending", "_longest", "_ramp", "_triangle", "block_size", "clock", "context", "count", "fresh",
        "grows", "last_token", "secured",
    )  # fmt: skip

    def __init__(self, block_size: int, grows: bool) -> None:
        self.block_size = block_size
        self.grows = grows
        self.clock = 0
        self.count = 0
        self.context = 0
        self.secured = -1
        self.last_token = 0.0
        self.fresh: list[list[float]] = []
        self._ending: list[tuple[int, int, RequestState]] = []
        self._longest: list[tuple[int, int, RequestState]] = []
        # Twice the block size, so that any window of one period is one slice.
        self._crossings = [0] * (2 * block_size)
        self._ramp = list(range(block_size))
        self._triangle = [j * (j - 1) // 2 for j in range(block_size)]

    @property
    def next_finish(self) -> int:
        """Iterations until the first member ends."""
        return self._ending[0][0] - self.clock

    @property
    def members(self) -> list[RequestState]:
        """The members, in no particular order."""
        return [entry[2] for entry in self._ending]

    def join(self, request: RequestState, now: float, iterations: int | None = None) -> None:
        """Add a request that got a token at ``now``; it stays for ``iterations`` (default: until its last token)."""
        self._add(request, request.output_tokens - request.produced if iterations is None else iterations)
        fresh = self.fresh
        if fresh and fresh[-1][0] == now:
            fresh[-1][1] += 1
        else:
            fresh.append([now, 1])
        request.last_token = now

    def _add(self, request: RequestState, iterations: int) -> None:
        context = request.input_tokens + request.produced
        request.finish_at = end = self.clock + iterations
        request.offset = offset = context - self.clock
        self.count += 1
        self.context += context
        heappush(self._ending, (end, request.index, request))
        longest = self._longest
        if len(longest) > 2 * self.count + 64:
            self._forget_past()
        heappush(longest, (-offset, request.index, request))
        if self.grows:
            # The token at position c opens a block when c ≡ 1 modulo the block size.
            slot = (1 - offset) % self.block_size
            self._crossings[slot] += 1
            self._crossings[slot + self.block_size] += 1

    def produced(self, request: RequestState) -> int:
        """Output tokens a member has by now."""
        return min(request.offset + self.clock - request.input_tokens, request.output_tokens)

    def shape(self, prefill: tuple[tuple[int, int], ...] = ()) -> BatchShape:
        """What the next iteration computes, beside ``prefill``."""
        longest = self._longest
        # Entries of members that have left are dropped when they come to the top.
        while longest and longest[0][2].finish_at <= self.clock:
            heappop(longest)
        top = self.clock - longest[0][0] if longest else 0
        return BatchShape(prefill, self.count, self.context, top)

    def crossings(self) -> int:
        """Blocks the coming iteration opens."""
        return self._crossings[self.clock % self.block_size] if self.grows else 0

    def growth(self, iterations: int) -> tuple[int, int, int]:
        """Blocks opened in iterations 1 .. ``iterations`` − 1 from now, and two moments of when.

        Returns
        -------
        (Σ x_j, Σ j·x_j, Σ j(j−1)/2·x_j)
            over j = 1 .. iterations − 1, x_j being the blocks opened in iteration j.
        """
        size = self.block_size
        start = self.clock % size
        window = self._crossings[start : start + min(iterations, size)]
        blocks = sum(window)
        if not blocks:
            return 0, 0, 0
        ramp, triangle = sum(map(mul, window, self._ramp)), sum(map(mul, window, self._triangle))
        if iterations <= size:
            return blocks - window[0], ramp, triangle
        # Whole cycles c = 0 .. n − 1 start at s = c·size, and (j+s)(j+s−1)/2 = j(j−1)/2 + s·j + s(s−1)/2.
        n, rest = divmod(iterations, size)
        shifts = size * (n * (n - 1) // 2)
        squares = size * size * ((n - 1) * n * (2 * n - 1) // 6)
        total = n * blocks - window[0]
        first = n * ramp + shifts * blocks
        second = n * triangle + shifts * ramp + blocks * ((squares - shifts) // 2)
        if rest:
            head = window[:rest]
            blocks, ramp = sum(head), sum(map(mul, head, self._ramp))
            shift = n * size
            total += blocks
            first += ramp + shift * blocks
            second += sum(map(mul, head, self._triangle)) + shift * ramp + blocks * (shift * (shift - 1) // 2)
        return total, first, second

    def iterations_within(self, blocks: int, most: int) -> int:
        """Iterations, at most ``most``, whose blocks beyond those of the first are no more than ``blocks``.

        The first always counts: its blocks have been taken.
        """
        size = self.block_size
        if blocks < 0:
            return 1
        if not self.grows or self.count * (most // size + 1) <= blocks:
            return most
        cycles, left = divmod(blocks, self.count)  # a cycle opens one block per member
        done = cycles * size
        while done < most - 1:
            left -= self._crossings[(self.clock + done + 1) % size]
            if left < 0:
                break
            done += 1
        return min(done + 1, most)

    def advance(self, iterations: int) -> None:
        """Every member gets ``iterations`` tokens."""
        self.clock += iterations
        self.context += iterations * self.count

    def pop_finished(self) -> list[RequestState]:
        """Take out the members whose count has come."""
        finished = []
        ending = self._ending
        while ending and ending[0][0] <= self.clock:
            request = heappop(ending)[2]
            self._subtract(request)
            finished.append(request)
        return finished

    def remove(self, requests: set[RequestState]) -> None:
        """Take members out early; their ``produced`` and ``last_token`` are brought up to date."""
        for request in requests:
            self._subtract(request)
            if request.finish_at - self.clock == 0:
                raise RuntimeError("a finished request cannot be preempted")
            self._leave_cohort(request)
            request.produced = self.produced(request)
            request.finish_at = -1
        self._ending = [entry for entry in self._ending if entry[2] not in requests]
        self._longest = [(-entry[2].offset, entry[1], entry[2]) for entry in self._ending]
        heapify(self._ending)
        heapify(self._longest)

    def settle(self) -> list[RequestState]:
        """All members, their ``produced`` and ``last_token`` up to date, in no particular order.

        One that only pads a batch is held to have its last token to come.
        """
        recent = {time for time, _ in self.fresh}
        members = self.members
        for request in members:
            if request.last_token not in recent:
                request.last_token = self.last_token
            request.produced = min(self.produced(request), request.output_tokens - 1)
        return members

    def absorb(self, other: DecodeGroup) -> None:
        """Take over all members of ``other``, which is left empty."""
        old = other.count - sum(int(n) for _, n in other.fresh)
        if old:
            self.fresh.append([other.last_token, old])
        self.fresh.extend(other.fresh)
        recent = {time for time, _ in other.fresh}
        for request in other.members:
            if request.last_token not in recent:
                request.last_token = other.last_token
            left = request.finish_at - other.clock
            request.produced = other.produced(request)
            self._add(request, left)
        other.clear()

    def clear(self) -> None:
        """Forget all members."""
        self.count = self.context = 0
        self.secured = -1
        self.fresh = []
        self._ending = []
        self._longest = []
        self._crossings = [0] * (2 * self.block_size)

    def restore(
        self, members: list[RequestState], clock: int, secured: int, last_token: float, fresh: list[list[float]]
    ) -> None:
        """Become the group of ``members``, whose ``finish_at`` and ``offset`` count from ``clock``."""
        self.clock, self.secured, self.last_token, self.fresh = clock, secured, last_token, fresh
        self.count = len(members)
        self.context = sum(m.offset + clock for m in members)
        self._ending = [(m.finish_at, m.index, m) for m in members]
        heapify(self._ending)
        self._crossings = [0] * (2 * self.block_size)
        for member in members:
            slot = (1 - member.offset) % self.block_size
            self._crossings[slot] += 1
            self._crossings[slot + self.block_size] += 1
        self._forget_past()

    def _leave_cohort(self, request: RequestState) -> None:
        for cohort in self.fresh:
            if cohort[0] == request.last_token:
                cohort[1] -= 1
                return
        request.last_token = self.last_token

    def _subtract(self, request: RequestState) -> None:
        self.count -= 1
        self.context -= request.offset + self.clock
        if self.grows:
            slot = (1 - request.offset) % self.block_size
            self._crossings[slot] -= 1
            self._crossings[slot + self.block_size] -= 1

    def _forget_past(self) -> None:
        self._longest[:] = [(-entry[2].offset, entry[1], entry[2]) for entry in self._ending]
        heapify(self._longest)
