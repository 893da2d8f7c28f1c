"""What the next iteration computes: chunked prefill and prefill-first, over arrays."""

from __future__ import annotations

from simulator.serving.compiled.jit import inner
from simulator.serving.compiled.layout import (
    BUDGET,
    CHUNKED_PREFILL,
    COMPUTED,
    COUNT_PADDING,
    FIRST_WAITING,
    INPUT,
    MOST_SEQUENCES,
    NEXT,
    POLICY,
    PREEMPTIONS,
    PREFILLING,
    PRODUCED,
    RUNNING,
    TOTAL_BLOCKS,
    USED,
    WAITING,
    WATERMARK,
    State,
)
from simulator.serving.compiled.residency import blocks_for, secure_decodes

__all__ = ["schedule"]


@inner
def schedule(s: State, r: int) -> tuple[int, bool]:
    """Write the plan; returns (requests with chunks, whether decodes take part)."""
    if s.replica[r, WAITING] == 0 and s.replica[r, PREFILLING] == 0:
        return 0, True
    if s.size[POLICY] == CHUNKED_PREFILL:
        return chunked_prefill(s, r), True
    planned = prefill_first(s, r)
    return planned, planned == 0


@inner
def chunked_prefill(s: State, r: int) -> int:
    """All decodes, chunks of running prompts, then of waiting ones."""
    replica, most = s.replica[r], s.size[MOST_SEQUENCES]
    decodes = min(secure_decodes(s, r), most)
    budget = s.size[BUDGET] - decodes
    planned = 0
    for i in range(replica[PREFILLING]):
        if budget <= 0:
            break
        q = s.prefilling[r, i]
        tokens = min(s.slot[q, INPUT] + s.slot[q, PRODUCED] - s.slot[q, COMPUTED], budget)
        budget -= tokens
        s.planned[r, planned] = q
        s.chunk[r, planned] = tokens
        planned += 1
    free = s.size[TOTAL_BLOCKS] - replica[USED] - s.size[WATERMARK]
    running, batch = most - replica[RUNNING], most - decodes - planned
    q = replica[FIRST_WAITING]
    for _ in range(replica[WAITING]):
        if budget <= 0 or running <= 0 or batch <= 0:
            break
        blocks = blocks_for(s, q)
        if blocks > free:
            break
        free -= blocks
        running -= 1
        batch -= 1
        tokens = min(s.slot[q, INPUT] + s.slot[q, PRODUCED], budget)
        budget -= tokens
        s.planned[r, planned] = q
        s.chunk[r, planned] = tokens
        planned += 1
        q = s.slot[q, NEXT]
    return planned


@inner
def prefill_first(s: State, r: int) -> int:
    """Waiting prompts, whole, while they fit."""
    replica, most = s.replica[r], s.size[MOST_SEQUENCES]
    free = s.size[TOTAL_BLOCKS] - replica[USED] - s.size[WATERMARK]
    running, batch = most - replica[RUNNING], most
    planned = total = longest = 0
    q = replica[FIRST_WAITING]
    for _ in range(replica[WAITING]):
        tokens = s.slot[q, INPUT] + s.slot[q, PRODUCED]
        longest = max(longest, tokens)
        total += tokens
        counted = longest * (planned + 1) if s.size[COUNT_PADDING] else total
        # A preempted request may have outgrown the budget; it then runs alone.
        if counted > s.size[BUDGET] and (planned > 0 or s.slot[q, PREEMPTIONS] == 0):
            break
        blocks = blocks_for(s, q)
        if running <= 0 or batch <= 0 or blocks > free:
            break
        free -= blocks
        running -= 1
        batch -= 1
        s.planned[r, planned] = q
        s.chunk[r, planned] = tokens
        planned += 1
        q = s.slot[q, NEXT]
    return planned
