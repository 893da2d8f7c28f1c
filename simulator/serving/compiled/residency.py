"""Who holds KV blocks: :class:`~simulator.serving.residency.Residency` over arrays, for a cache that grows."""

from __future__ import annotations

import numpy as np

from simulator.serving.compiled.decodes import crossings, leave_early
from simulator.serving.compiled.jit import inner
from simulator.serving.compiled.layout import (
    BLOCK,
    BLOCKS,
    CLOCK,
    COMPUTED,
    DECODES,
    FINISH_AT,
    FIRST_WAITING,
    INPUT,
    LAST_WAITING,
    NEXT,
    NONE,
    OFFSET,
    PEAK,
    PREEMPTED,
    PREEMPTIONS,
    PREFILLING,
    PRODUCED,
    QUEUED,
    QUEUED_TOKENS,
    RECOMPUTED_TOKENS,
    ROW,
    RUNNING,
    SECURED,
    TOTAL_BLOCKS,
    USED,
    WAITING,
    State,
)

__all__ = ["allocate", "blocks_for", "pop_waiting", "push_waiting", "secure_decodes"]


@inner
def allocate(s: State, r: int, blocks: int) -> None:
    """Hand out ``blocks``."""
    replica = s.replica[r]
    replica[USED] += blocks
    if replica[USED] > replica[PEAK]:
        replica[PEAK] = replica[USED]


@inner
def blocks_for(s: State, q: int) -> int:
    """KV blocks that admitting slot ``q`` takes."""
    size = s.size[BLOCK]
    return (s.slot[q, INPUT] + s.slot[q, PRODUCED] + size - 1) // size


@inner
def push_waiting(s: State, r: int, q: int) -> None:
    """Slot ``q`` waits behind all others."""
    replica = s.replica[r]
    s.slot[q, NEXT] = NONE
    if replica[WAITING] == 0:
        replica[FIRST_WAITING] = q
    else:
        s.slot[replica[LAST_WAITING], NEXT] = q
    replica[LAST_WAITING] = q
    replica[WAITING] += 1


@inner
def pop_waiting(s: State, r: int) -> int:
    """The slot that waits longest, which waits no more."""
    replica = s.replica[r]
    q = replica[FIRST_WAITING]
    replica[FIRST_WAITING] = s.slot[q, NEXT]
    replica[WAITING] -= 1
    return q


@inner
def held(s: State, r: int, q: int) -> int:
    """KV blocks of slot ``q`` before that of its next token."""
    request, size = s.slot[q], s.size[BLOCK]
    if request[BLOCKS] == 0 or request[COMPUTED] < request[INPUT]:
        return request[BLOCKS]
    clock = s.replica[r, CLOCK]
    context = request[OFFSET] + clock if request[FINISH_AT] > clock else request[INPUT] + request[PRODUCED]
    return max(request[BLOCKS], (context - 1 + size - 1) // size)


@inner
def preempt(s: State, r: int, q: int) -> None:
    """Slot ``q`` loses its blocks and waits before all others."""
    replica, request = s.replica[r], s.slot[q]
    blocks = held(s, r, q)
    at, count = 0, replica[PREFILLING]
    while at < count and s.prefilling[r, at] != q:
        at += 1
    complete = at == count
    if complete:
        leave_early(s, r, q)
    else:
        for i in range(at, count - 1):
            s.prefilling[r, i] = s.prefilling[r, i + 1]
        replica[PREFILLING] = count - 1
        replica[QUEUED_TOKENS] -= request[QUEUED]
    replica[RECOMPUTED_TOKENS] += request[INPUT] + request[PRODUCED] - 1 if complete else request[COMPUTED]
    replica[USED] -= blocks
    request[BLOCKS] = 0
    request[COMPUTED] = 0
    request[PREEMPTIONS] += 1
    replica[PREEMPTED] += 1
    replica[RUNNING] -= 1
    request[QUEUED] = request[INPUT] + request[PRODUCED]
    replica[QUEUED_TOKENS] += request[QUEUED]
    request[NEXT] = replica[FIRST_WAITING] if replica[WAITING] > 0 else NONE
    if replica[WAITING] == 0:
        replica[LAST_WAITING] = q
    replica[FIRST_WAITING] = q
    replica[WAITING] += 1


@inner
def secure_decodes(s: State, r: int) -> int:
    """Take the blocks of the next token of every decoding request; returns how many there are then."""
    replica = s.replica[r]
    if replica[SECURED] == replica[CLOCK] or replica[DECODES] == 0:
        return replica[DECODES]
    needed = crossings(s, r)
    if needed >= s.size[TOTAL_BLOCKS] - replica[USED]:
        needed = preempt_for_decodes(s, r)
    if needed:
        allocate(s, r, needed)
    if replica[DECODES]:
        replica[SECURED] = replica[CLOCK]
    return replica[DECODES]


@inner
def preempt_for_decodes(s: State, r: int) -> int:
    """Preempt the latest arrivals until the rest can go on; returns the blocks they need."""
    replica, size = s.replica[r], s.size[BLOCK]
    count, idle = replica[DECODES], replica[PREFILLING]
    # Rows arrive in order, so a row stands for its time; the lowest bit marks who is not decoding.
    queue = np.empty(count + idle, dtype=np.int64)
    for i in range(count):
        q = s.ending[r, i]
        queue[i] = (s.slot[q, ROW] << 24 | q) << 1
    for i in range(idle):
        q = s.prefilling[r, i]
        queue[count + i] = (s.slot[q, ROW] << 24 | q) << 1 | 1
    queue.sort()
    free = s.size[TOTAL_BLOCKS] - replica[USED]
    needed = victims = first = 0
    last = len(queue)
    while first < last:
        entry = queue[first]
        first += 1
        if entry & 1:
            continue
        q = (entry >> 1) & 0xFFFFFF
        alone = False
        while free - needed < 1:
            victim = q
            if first < last:
                last -= 1
                victim = (queue[last] >> 1) & 0xFFFFFF
            free += held(s, r, victim)
            s.scratch[victims] = victim
            victims += 1
            if victim == q:
                alone = True
                break
        if not alone and (s.slot[q, OFFSET] + replica[CLOCK] - 1) % size == 0:
            needed += 1
    for i in range(victims):
        preempt(s, r, s.scratch[i])
    return needed
