"""An order for operations of several programs that share streams: list scheduling by what is left behind each.

Engineers who overlap two micro-batches arrange their kernels by hand so that no stream waits; this finds such an order.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Sequence

__all__ = ["interleave"]


def interleave(
    duration: Sequence[float], stream: Sequence[Hashable], after: Sequence[Sequence[int]]
) -> tuple[int, ...]:
    """Indices in an order that keeps the streams busy.

    A free stream takes, of the operations that wait for nothing any more, the one with the longest chain behind it
    (highest level first: Hu, "Parallel sequencing and assembly line problems", Operations Research 9, 1961); at a tie
    the earlier index. Within one program operations change places only where no data flows between them.

    Parameters
    ----------
    duration
        [operations], [s].
    stream
        [operations].
    after
        [operations]: earlier indices that must have ended before.

    Raises
    ------
    ValueError
        If an operation waits for a later one.
    """
    count = len(duration)
    if wrong := [i for i in range(count) if any(j >= i for j in after[i])]:
        raise ValueError(f"operation {wrong[0]} waits for one that comes later")
    level, followers = [float(d) for d in duration], [list[int]() for _ in range(count)]
    for i in range(count - 1, -1, -1):
        level[i] += max((level[j] for j in followers[i]), default=0.0)
        for j in after[i]:
            followers[j].append(i)
    waiting = [len(after[i]) for i in range(count)]
    ready: dict[Hashable, list[tuple[float, int]]] = {name: [] for name in stream}
    for i in range(count):
        if not waiting[i]:
            ready[stream[i]].append((-level[i], i))
    for heap in ready.values():
        heapq.heapify(heap)
    running: list[tuple[float, int]] = []
    busy: set[Hashable] = set()
    order: list[int] = []
    now = 0.0
    while True:
        for name, heap in ready.items():
            if heap and name not in busy:
                _, i = heapq.heappop(heap)
                order.append(i)
                busy.add(name)
                heapq.heappush(running, (now + duration[i], i))
        if not running:
            return tuple(order)
        now, i = heapq.heappop(running)
        busy.discard(stream[i])
        for j in followers[i]:
            waiting[j] -= 1
            if not waiting[j]:
                heapq.heappush(ready[stream[j]], (-level[j], j))
