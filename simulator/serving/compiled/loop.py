"""The loop of a deployment over arrays: arrivals, routing, and replicas that go on alone between arrivals."""

from __future__ import annotations

import math

from simulator.serving.compiled.flight import boundary, boundary_after, complete, launch
from simulator.serving.compiled.jit import entry, inner
from simulator.serving.compiled.layout import (
    ARRIVAL,
    BLOCKS,
    BUSY_TIME,
    COMPUTED,
    DRAWN,
    END,
    ENDED,
    EVERY,
    FINISH_AT,
    FINISHED,
    FIRST_ROW,
    FIRST_TOKEN,
    FLYING,
    FREE_SLOT,
    FULL_ENDED,
    FULL_GAPS,
    GAPS,
    HEAPED,
    INPUT,
    ITERATIONS,
    KV_BLOCK_TIME,
    LAST_ROUTED,
    LAST_TOKEN,
    LEAST_OUTSTANDING,
    MOST_SEQUENCES,
    NEXT,
    NEXT_SAMPLE,
    NEXT_TIME,
    NO_DRAWS,
    NO_SLOTS,
    NONE,
    OUTPUT,
    PACE,
    PENDING,
    PLACE,
    POWER_OF_TWO,
    PREEMPTIONS,
    PRODUCED,
    QUEUED,
    QUEUED_TOKENS,
    RANDOM,
    RESUME,
    ROUND_ROBIN,
    ROUTER,
    ROW,
    RUNNING,
    RUNNING_TIME,
    SAMPLE,
    SAMPLED,
    SAMPLES,
    SCHEDULED,
    SEEN,
    STOCK,
    STOCKED,
    UNTIL,
    USED,
    WAITING,
    WAITING_TIME,
    State,
)
from simulator.serving.compiled.pointers import view
from simulator.serving.compiled.residency import push_waiting

__all__ = ["advance"]


@inner
def sooner(s: State, a: int, b: int) -> bool:
    """Whether replica ``a`` wants to be woken before ``b``; ties by number."""
    x, y = s.moment[a, NEXT_TIME], s.moment[b, NEXT_TIME]
    return x < y or (x == y and a < b)


@inner
def settle(s: State, r: int) -> None:
    """Put replica ``r``, whose next time has changed, in its place in the heap, or take it out."""
    at, count = s.place[r], s.common[HEAPED]
    if at == NONE:
        if s.moment[r, NEXT_TIME] == math.inf:
            return
        at = count
        s.common[HEAPED] = count = count + 1
    elif s.moment[r, NEXT_TIME] == math.inf:
        s.place[r] = NONE
        s.common[HEAPED] = count = count - 1
        if at == count:
            return
        r = s.order[count]
    while at > 0:
        parent = (at - 1) >> 1
        if not sooner(s, r, s.order[parent]):
            break
        s.order[at] = s.order[parent]
        s.place[s.order[at]] = at
        at = parent
    while True:
        child = 2 * at + 1
        if child >= count:
            break
        if child + 1 < count and sooner(s, s.order[child + 1], s.order[child]):
            child += 1
        if not sooner(s, s.order[child], r):
            break
        s.order[at] = s.order[child]
        s.place[s.order[at]] = at
        at = child
    s.order[at] = r
    s.place[r] = at


@inner
def integrate(s: State, r: int, now: float) -> None:
    """Bring the integrals of a replica to ``now``."""
    replica, moment = s.replica[r], s.moment[r]
    elapsed = now - moment[UNTIL]
    if elapsed > 0.0:
        moment[UNTIL] = now
        if replica[FLYING]:
            moment[BUSY_TIME] += elapsed
        moment[WAITING_TIME] += elapsed * replica[WAITING]
        moment[RUNNING_TIME] += elapsed * replica[RUNNING]
        moment[KV_BLOCK_TIME] += elapsed * replica[USED]


@inner
def sample(s: State, r: int, now: float) -> None:
    """Note the state now and then; a full history is thinned and its pace halved."""
    replica = s.replica[r]
    replica[SEEN] += 1
    if replica[SEEN] < replica[EVERY]:
        return
    replica[SEEN] = 0
    count, history = replica[SAMPLED], s.samples[r]
    row = history[count]
    row[0], row[1], row[2], row[3] = now, replica[WAITING], replica[RUNNING], replica[USED]
    count += 1
    if count >= SAMPLES:
        count = (count + 1) // 2
        for i in range(1, count):
            history[i] = history[2 * i]
        replica[EVERY] *= 2
    replica[SAMPLED] = count


@inner
def wake(s: State, r: int, until: float) -> int:
    """End what is due on replica ``r`` and start what can be started, alone up to ``until`` [s].

    Returns :data:`FINISHED`, or why it has to come back to where it was.
    """
    replica, moment = s.replica[r], s.moment[r]
    most = 2 * s.size[MOST_SEQUENCES] + 8
    now = moment[NEXT_TIME]
    while True:
        moment[NEXT_TIME] = now
        if not replica[PENDING]:
            if s.common[GAPS] + most > len(s.gaps):
                return FULL_GAPS
            if s.common[ENDED] + most > len(s.ended):
                return FULL_ENDED
            integrate(s, r, now)
            if replica[FLYING] and moment[END] <= now:
                complete(s, r)
        replica[PENDING] = 0
        if not replica[FLYING]:
            missing = launch(s, r, now)
            if missing != FINISHED:
                replica[PENDING] = 1
                return missing
        time = moment[END] if replica[FLYING] else math.inf
        sample(s, r, now)
        if not now < time < until:
            break
        now = time
    moment[NEXT_TIME] = time
    return FINISHED


@inner
def route(s: State) -> int:
    """Replica of the next request; :data:`NONE` where random numbers have run out."""
    size, last, kind = len(s.replica), s.common[LAST_ROUTED], s.size[ROUTER]
    if kind == ROUND_ROBIN:
        last = (last + 1) % size
    elif kind == LEAST_OUTSTANDING:
        start, fewest = last + 1, -1
        for step in range(size):
            index = (start + step) % size
            load = s.replica[index, WAITING] + s.replica[index, RUNNING]
            if fewest < 0 or load < fewest:
                last, fewest = index, load
    elif kind == RANDOM or (kind == POWER_OF_TWO and size > 1):
        drawn = s.common[DRAWN]
        if drawn + 2 > len(s.draws):
            return NONE
        last = int(s.draws[drawn] * size)
        s.common[DRAWN] = drawn + 1
        if kind == POWER_OF_TWO:
            other = int(s.draws[drawn + 1] * (size - 1))
            other += other >= last
            s.common[DRAWN] = drawn + 2
            loads = s.replica[last, WAITING] + s.replica[last, RUNNING]
            if loads > s.replica[other, WAITING] + s.replica[other, RUNNING]:
                last = other
    else:
        last = 0
    s.common[LAST_ROUTED] = last
    return last


@inner
def submit(s: State, r: int, q: int, now: float) -> None:
    """Slot ``q`` arrives at replica ``r``; a jump ends where that could change the plan."""
    replica, moment = s.replica[r], s.moment[r]
    integrate(s, r, now)
    s.slot[q, QUEUED] = s.slot[q, INPUT]
    replica[QUEUED_TOKENS] += s.slot[q, INPUT]
    push_waiting(s, r, q)
    if not replica[FLYING]:
        moment[NEXT_TIME] = now
        settle(s, r)
    elif replica[WAITING] == 1 and replica[RUNNING] < s.size[MOST_SEQUENCES] and replica[ITERATIONS] > 1:
        count = boundary_after(s, r, now)
        if count < replica[ITERATIONS]:
            replica[ITERATIONS] = count
            moment[END] = moment[NEXT_TIME] = boundary(s, r, count)
            settle(s, r)


@inner
def arrive(s: State, now: float) -> int:
    """The next request comes; :data:`FINISHED`, or what there has to be first."""
    row = s.common[PLACE]
    at = row - s.size[FIRST_ROW]
    if row % PACE == 0 and s.common[STOCKED] != row:
        s.common[STOCKED] = row
        return STOCK
    if row >= s.common[NEXT_SAMPLE]:
        return SAMPLE
    if s.rejected[at] == 0:
        q = s.common[FREE_SLOT]
        if q >= len(s.slot) or q == NONE:
            return NO_SLOTS
        r = route(s)
        if r == NONE:
            return NO_DRAWS
        request, time = s.slot[q], s.time[q]
        s.common[FREE_SLOT] = request[NEXT]
        request[ROW], request[INPUT], request[OUTPUT] = row, s.inputs[at], s.outputs[at]
        request[COMPUTED] = request[PRODUCED] = request[BLOCKS] = request[FINISH_AT] = request[PREEMPTIONS] = 0
        time[ARRIVAL], time[SCHEDULED], time[FIRST_TOKEN], time[LAST_TOKEN] = now, -1.0, -1.0, -1.0
        submit(s, r, q, now)
    s.common[PLACE] = row + 1
    return FINISHED


@entry
def advance(state: int, now: float, limit: float) -> tuple[int, float]:
    """Work off events up to and including ``now``, and on until ``limit``.

    Returns (:data:`FINISHED`, time of the next event), or why it came back; it then goes on where it was.
    """
    s = view(state)
    rows = s.size[FIRST_ROW] + len(s.arrival)
    while True:
        r = s.common[RESUME]
        at = s.common[PLACE] - s.size[FIRST_ROW]
        arrival = s.arrival[at] if s.common[PLACE] < rows else math.inf
        if r == NONE:
            wakes = s.moment[s.order[0], NEXT_TIME] if s.common[HEAPED] > 0 else math.inf
            time = min(arrival, wakes)
            if time == math.inf or (time > now and time >= limit):
                return FINISHED, time
            # Arrivals first: a request that comes as an iteration ends takes part in the next.
            if arrival <= wakes:
                missing = arrive(s, arrival)
                if missing != FINISHED:
                    return missing, arrival
                continue
            r = s.order[0]
        missing = wake(s, r, min(arrival, limit))
        settle(s, r)
        s.common[RESUME] = NONE if missing == FINISHED else r
        if missing != FINISHED:
            return missing, s.moment[r, NEXT_TIME]
