"""The group of requests that decode together: :class:`~simulator.serving.decode_group.DecodeGroup` over arrays."""

from __future__ import annotations

from simulator.serving.compiled.jit import inner
from simulator.serving.compiled.layout import (
    BLOCK,
    CLOCK,
    CONTEXT,
    DECODES,
    FINISH_AT,
    FRESH,
    GROUP_LAST_TOKEN,
    INPUT,
    LAST_TOKEN,
    OFFSET,
    OUTPUT,
    PRODUCED,
    ROW,
    State,
)

__all__ = ["crossings", "growth", "iterations_within", "join", "leave_early", "next_finish", "pop_finished"]


@inner
def before(s: State, a: int, b: int) -> bool:
    """Whether slot ``a`` ends before ``b``; ties by row."""
    end, other = s.slot[a, FINISH_AT], s.slot[b, FINISH_AT]
    return end < other or (end == other and s.slot[a, ROW] < s.slot[b, ROW])


@inner
def sift_up(s: State, r: int, at: int) -> None:
    """Restore the heap of ends after the entry ``at`` came in at the bottom."""
    heap = s.ending[r]
    item = heap[at]
    while at > 0:
        parent = (at - 1) >> 1
        if not before(s, item, heap[parent]):
            break
        heap[at] = heap[parent]
        at = parent
    heap[at] = item


@inner
def sift_down(s: State, r: int, at: int, count: int) -> None:
    """Restore the heap of ends below ``at``."""
    heap = s.ending[r]
    item = heap[at]
    while True:
        child = 2 * at + 1
        if child >= count:
            break
        if child + 1 < count and before(s, heap[child + 1], heap[child]):
            child += 1
        if not before(s, heap[child], item):
            break
        heap[at] = heap[child]
        at = child
    heap[at] = item


@inner
def next_finish(s: State, r: int) -> int:
    """Iterations until the first member ends."""
    return s.slot[s.ending[r, 0], FINISH_AT] - s.replica[r, CLOCK]


@inner
def join(s: State, r: int, q: int, now: float, iterations: int) -> None:
    """Slot ``q`` got a token ``now`` and stays for ``iterations``."""
    replica, request = s.replica[r], s.slot[q]
    context = request[INPUT] + request[PRODUCED]
    request[FINISH_AT] = replica[CLOCK] + iterations
    request[OFFSET] = context - replica[CLOCK]
    count = replica[DECODES]
    s.ending[r, count] = q
    replica[DECODES] = count + 1
    replica[CONTEXT] += context
    sift_up(s, r, count)
    s.crossings[r, (1 - request[OFFSET]) % s.size[BLOCK]] += 1
    fresh = replica[FRESH]
    if fresh > 0 and s.fresh_time[r, fresh - 1] == now:
        s.fresh_count[r, fresh - 1] += 1
    else:
        s.fresh_time[r, fresh] = now
        s.fresh_count[r, fresh] = 1
        replica[FRESH] = fresh + 1
    s.time[q, LAST_TOKEN] = now


@inner
def subtract(s: State, r: int, q: int) -> None:
    """Take the numbers of slot ``q`` out of those of the group."""
    replica = s.replica[r]
    offset = s.slot[q, OFFSET]
    replica[DECODES] -= 1
    replica[CONTEXT] -= offset + replica[CLOCK]
    s.crossings[r, (1 - offset) % s.size[BLOCK]] -= 1


@inner
def pop_finished(s: State, r: int) -> int:
    """The member whose iteration count has come, taken out; the caller has seen that there is one."""
    heap, count = s.ending[r], s.replica[r, DECODES]
    q = heap[0]
    subtract(s, r, q)
    heap[0] = heap[count - 1]
    if count > 1:
        sift_down(s, r, 0, count - 1)
    return q


@inner
def leave_early(s: State, r: int, q: int) -> None:
    """Take out a member that has not ended; its tokens and last token time are brought up to date."""
    replica, heap, count = s.replica[r], s.ending[r], s.replica[r, DECODES]
    subtract(s, r, q)
    fresh = False
    for i in range(replica[FRESH]):
        if s.fresh_time[r, i] == s.time[q, LAST_TOKEN]:
            s.fresh_count[r, i] -= 1
            fresh = True
            break
    if not fresh:
        s.time[q, LAST_TOKEN] = s.moment[r, GROUP_LAST_TOKEN]
    request = s.slot[q]
    request[PRODUCED] = min(request[OFFSET] + replica[CLOCK] - request[INPUT], request[OUTPUT])
    at = 0
    while heap[at] != q:
        at += 1
    last = count - 1
    moved = heap[last]
    heap[at] = moved
    if at < last:
        sift_down(s, r, at, last)
        if heap[at] == moved:
            sift_up(s, r, at)
    request[FINISH_AT] = -1


@inner
def crossings(s: State, r: int) -> int:
    """Blocks the coming iteration opens."""
    return s.crossings[r, s.replica[r, CLOCK] % s.size[BLOCK]]


@inner
def growth(s: State, r: int, iterations: int) -> tuple[int, int, int]:
    """Blocks opened in iterations 1 .. ``iterations`` − 1 from now, and the two moments of when."""
    size = s.size[BLOCK]
    histogram = s.crossings[r]
    at = s.replica[r, CLOCK] % size
    n, rest = iterations // size, iterations % size
    blocks = ramp = triangle = 0
    part = part_ramp = part_triangle = 0
    for j in range(min(iterations, size)):
        x = histogram[at]
        at = at + 1 if at + 1 < size else 0
        if j == rest:
            part, part_ramp, part_triangle = blocks, ramp, triangle
        blocks += x
        ramp += j * x
        triangle += (j * (j - 1) // 2) * x
    first = histogram[s.replica[r, CLOCK] % size]
    if blocks == 0:
        return 0, 0, 0
    if iterations <= size:
        return blocks - first, ramp, triangle
    shifts = size * (n * (n - 1) // 2)
    squares = size * size * ((n - 1) * n * (2 * n - 1) // 6)
    total = n * blocks - first
    one = n * ramp + shifts * blocks
    two = n * triangle + shifts * ramp + blocks * ((squares - shifts) // 2)
    if rest:
        shift = n * size
        total += part
        one += part_ramp + shift * part
        two += part_triangle + shift * part_ramp + part * (shift * (shift - 1) // 2)
    return total, one, two


@inner
def iterations_within(s: State, r: int, blocks: int, most: int) -> int:
    """Iterations, at most ``most``, whose blocks beyond those of the first are no more than ``blocks``."""
    size, replica = s.size[BLOCK], s.replica[r]
    count = replica[DECODES]
    if blocks < 0:
        return 1
    if count * (most // size + 1) <= blocks:
        return most
    cycles, left = blocks // count, blocks % count
    done = cycles * size
    while done < most - 1:
        left -= s.crossings[r, (replica[CLOCK] + done + 1) % size]
        if left < 0:
            break
        done += 1
    return min(done + 1, most)
