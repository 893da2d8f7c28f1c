"""KV blocks that outlive their request: prefixes shared by reference, least recently used ones dropped first.

A block's id stands for its tokens and everything before them, so a chain of ids is a path of the radix tree and a
dictionary of ids (none of them negative) is the tree. A request that uses a block uses all blocks before it, and when
it ends gives them back last block first: so in the list of idle blocks every block stands before those it builds on,
and taking the oldest is taking a leaf.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from simulator.serving.kv_cache import BlockPool
from simulator.strategies.protocols import CacheTier, RequestState

__all__ = ["CachedBlock", "PrefixPool", "TierStore"]


class CachedBlock:
    """A stretch of a prompt whose keys and values are kept."""

    __slots__ = ("blocks", "end", "id", "references", "tokens")

    def __init__(self, id: int, blocks: int, tokens: int, end: int) -> None:
        self.id = id
        self.blocks = blocks
        """KV blocks it takes; 0 for a stretch that begins and ends inside one block."""
        self.tokens = tokens
        self.end = end
        """Tokens of the prompt up to its end."""
        self.references = 1
        """Requests that hold it."""


class TierStore:
    """Prefixes in a slower memory, least recently used out first.

    Parameters
    ----------
    tier
        Size and speed.
    bytes_per_token
        Keys and values of one token, over all accelerators of a replica [B].
    """

    __slots__ = ("_ids", "capacity_tokens", "held_tokens", "latency", "seconds_per_token", "tier")

    def __init__(self, tier: CacheTier, bytes_per_token: float) -> None:
        if bytes_per_token <= 0.0 or tier.bandwidth <= 0.0:
            raise ValueError(f"cache tier '{tier.name}' needs a bandwidth and the bytes of a token's keys and values")
        self.tier = tier
        self.capacity_tokens = tier.capacity / bytes_per_token
        self.seconds_per_token = bytes_per_token / tier.bandwidth
        self.latency = tier.latency
        self.held_tokens = 0
        self._ids: OrderedDict[int, int] = OrderedDict()

    def __contains__(self, id: int) -> bool:
        return id in self._ids

    def put(self, ids: Sequence[int], tokens: Sequence[int]) -> None:
        """Keep (or refresh) a path, first block first."""
        held = self._ids
        for id, size in zip(reversed(ids), reversed(tokens), strict=True):
            if id in held:
                held.move_to_end(id)
            else:
                held[id] = size
                self.held_tokens += size
        while self.held_tokens > self.capacity_tokens and held:
            self.held_tokens -= held.popitem(last=False)[1]


class PrefixPool(BlockPool):
    """KV blocks of which those of finished prompts stay until their room is needed.

    ``used`` counts blocks that some request holds, shared ones once; idle blocks count as free.

    Parameters
    ----------
    total, block_size, watermark
        As of :class:`~simulator.serving.kv_cache.BlockPool`.
    modular
        Whether a known block serves wherever the prompt has it (Prompt Cache), not only in a run from the start.
    tiers
        Slower homes, nearest first.

    Attributes
    ----------
    idle_blocks
        Blocks kept though nobody holds them.
    """

    __slots__ = ("_generated", "_idle", "_known", "_shared", "idle_blocks", "modular", "shared_peak", "tiers")

    def __init__(
        self, total: int, block_size: int, watermark: float = 0.01, *, modular: bool = False,
        tiers: Sequence[TierStore] = (),
    ) -> None:  # fmt: skip
        super().__init__(total, block_size, watermark)
        self.modular = modular
        self.tiers = tuple(tiers)
        self.idle_blocks = 0
        self._known: dict[int, CachedBlock] = {}
        self._idle: OrderedDict[int, CachedBlock] = OrderedDict()
        self._shared = 0
        self._generated = 0
        """Last id given to what nobody can ask for: these are negative, those of prompts are not."""
        self.shared_peak = 0
        """Most blocks that sharing saved at once: references beyond the first."""

    # -- room ----------------------------------------------------------------------------------------------------

    def allocate(self, blocks: int) -> None:
        """Hand out ``blocks``, dropping idle ones as needed."""
        super().allocate(blocks)
        if self.used + self.idle_blocks > self.total:
            self.trim(0)

    def trim(self, more: int) -> None:
        """Drop idle blocks until ``more`` blocks beyond those in use have room."""
        idle = self._idle
        room = self.total - self.used - more
        while self.idle_blocks > room and idle:
            id, block = next(iter(idle.items()))
            if id < 0 and block.blocks > self.idle_blocks - room:
                block.blocks -= self.idle_blocks - room
                self.idle_blocks = room
                return
            del idle[id]
            self._known.pop(id, None)
            self.idle_blocks -= block.blocks

    # -- look-up -------------------------------------------------------------------------------------------------

    def match(self, request: RequestState) -> list[CachedBlock]:
        """Blocks of the prompt that are here; changes nothing."""
        found: list[CachedBlock] = []
        if request.prefix is None:
            return found
        known, length = self._known, request.input_tokens
        for id, end in zip(*request.prefix, strict=True):
            block = known.get(id)
            if block is not None and end <= length and block.end == end:
                found.append(block)
            elif not self.modular:
                break
        return found

    def still_known(self, found: Sequence[CachedBlock]) -> Sequence[CachedBlock]:
        """Those of ``found`` that have not been dropped since; they go from the end."""
        for place, block in enumerate(found):
            if self._known.get(block.id) is not block:
                return found[:place]
        return found

    def usable(self, request: RequestState, found: Sequence[CachedBlock]) -> int:
        """Tokens that need no computing with ``found`` in the cache: whole KV blocks, and never the whole prompt."""
        if not found:
            return 0
        tokens = sum(block.tokens for block in found) if self.modular else found[-1].end
        size = self.block_size
        return min(tokens // size, (request.prefill_target - 1) // size) * size

    def stored(self, request: RequestState, found: Sequence[CachedBlock]) -> list[tuple[TierStore, int, int]]:
        """What the tiers have beyond ``found``: (store, first, last + 1) of runs of the prompt's blocks."""
        runs: list[tuple[TierStore, int, int]] = []
        if request.prefix is None or not self.tiers or self.modular:
            return runs
        ids, ends = request.prefix
        place = first = len(found)
        store = None
        while place < len(ids) and ends[place] <= request.input_tokens:
            home = next((tier for tier in self.tiers if ids[place] in tier), None)
            if home is not store:
                if store is not None:
                    runs.append((store, first, place))
                store, first = home, place
            if home is None:
                break
            place += 1
        if store is not None:
            runs.append((store, first, place))
        return runs

    # -- requests ------------------------------------------------------------------------------------------------

    def hold(self, request: RequestState, found: Sequence[CachedBlock]) -> int:
        """Let ``request`` share ``found``; returns the blocks it need not allocate."""
        saved = 0
        for block in found:
            if block.references == 0:
                del self._idle[block.id]
                self.idle_blocks -= block.blocks
                self.used += block.blocks
            else:
                self._shared += block.blocks
            block.references += 1
            saved += block.blocks
        self.shared_peak = max(self.shared_peak, self._shared)
        self.peak = max(self.peak, self.used)
        request.holds = list(found)
        request.registered = 0 if self.modular else len(found)
        return saved

    def register(self, request: RequestState, tokens: int) -> None:
        """Make the blocks of the first ``tokens`` tokens of the prompt known, unless another copy is."""
        if request.prefix is None:
            return
        ids, ends = request.prefix
        limit = min(tokens, request.input_tokens)
        holds = request.holds = list(request.holds)
        place = request.registered
        size = self.block_size
        while place < len(ids) and ends[place] <= limit:
            begin = ends[place - 1] if place else 0
            if ids[place] not in self._known:
                blocks = ends[place] // size - begin // size
                block = CachedBlock(ids[place], blocks, ends[place] - begin, ends[place])
                self._known[block.id] = block
                holds.append(block)
            place += 1
        request.registered = place

    def give_back(self, request: RequestState, blocks: int) -> None:
        """Take back the ``blocks`` of a request; those that nobody else holds become idle.

        What it generated is kept as long as its prompt, last tokens first out, though no later request of a trace can
        be known to ask for it.
        """
        private = blocks - sum(block.blocks for block in request.holds)
        self.release(private)
        if private:
            self._generated -= 1
            self._idle[self._generated] = CachedBlock(self._generated, private, 0, 0)
            self.idle_blocks += private
        for block in reversed(request.holds):
            block.references -= 1
            if block.references == 0:
                self._idle[block.id] = block
                self.idle_blocks += block.blocks
                self.used -= block.blocks
            else:
                self._shared -= block.blocks
        request.holds = []
        request.registered = 0

    def store(self, request: RequestState) -> None:
        """Write a computed prompt through to the tiers."""
        if request.prefix is None:
            return
        ids, ends = request.prefix
        last = len(ids)
        while last and ends[last - 1] > request.input_tokens:
            last -= 1
        sizes = [end - begin for end, begin in zip(ends[:last], [0, *ends], strict=False)]
        for tier in self.tiers:
            tier.put(ids[:last], sizes)
