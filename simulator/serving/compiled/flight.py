"""What is in flight on a replica: its start, its end, and what is booked when it has ended."""

from __future__ import annotations

import math

from simulator.serving.compiled.costs import decode_segment, iteration
from simulator.serving.compiled.decodes import growth, iterations_within, join, next_finish, pop_finished
from simulator.serving.compiled.jit import inner
from simulator.serving.compiled.layout import (
    ARRIVAL,
    BASE,
    BLOCK,
    BLOCKS,
    CLOCK,
    COMPUTED,
    CONTEXT,
    DECODE_TOKENS,
    DECODES,
    DONE_ITERATIONS,
    END,
    ENDED,
    FINISHED,
    FIRST_TOKEN,
    FLYING,
    FREE_SLOT,
    FRESH,
    GAPS,
    GROUP_LAST_TOKEN,
    HORIZON,
    INPUT,
    ITERATIONS,
    KV_BLOCK_TIME,
    LAST_TOKEN,
    NEXT,
    NO_DECODES,
    OUTPUT,
    PLANNED,
    PREEMPTED,
    PREEMPTIONS,
    PREFILL_TOKENS,
    PREFILLING,
    PREFILLS,
    PRODUCED,
    QUEUED,
    QUEUED_TOKENS,
    ROW,
    RUNNING,
    SCHEDULED,
    SECURED,
    SLOPE,
    START,
    TOTAL_BLOCKS,
    USED,
    WITH_GROUP,
    State,
)
from simulator.serving.compiled.plans import schedule
from simulator.serving.compiled.residency import allocate, blocks_for, pop_waiting, secure_decodes

__all__ = ["boundary", "boundary_after", "complete", "launch"]


@inner
def boundary(s: State, r: int, iterations: int) -> float:
    """End of the first ``iterations`` iterations in flight [s]."""
    moment = s.moment[r]
    return moment[START] + (moment[BASE] * iterations + moment[SLOPE] * (iterations * (iterations - 1) // 2))


@inner
def boundary_after(s: State, r: int, now: float) -> int:
    """Fewest iterations in flight, at least one, that end at ``now`` or later."""
    base, slope, most = s.moment[r, BASE], s.moment[r, SLOPE], s.replica[r, ITERATIONS]
    elapsed = now - s.moment[r, START]
    half = base - 0.5 * slope
    if slope > 0.0:
        guess = (math.sqrt(max(half * half + 2.0 * slope * elapsed, 0.0)) - half) / slope
    else:
        guess = elapsed / base if base > 0.0 else 1.0
    count = max(1, int(min(guess, float(most))))
    while count > 1 and boundary(s, r, count - 1) >= now:
        count -= 1
    while count < most and boundary(s, r, count) < now:
        count += 1
    return count


@inner
def add_gap(s: State, r: int, first: float, slope: float, iterations: int, requests: int) -> None:
    """Note equal gaps between tokens of several requests."""
    row = s.gaps[s.common[GAPS]]
    row[0], row[1], row[2], row[3], row[4] = r, first, slope, iterations, requests
    s.common[GAPS] += 1


@inner
def record_gaps(s: State, r: int) -> None:
    """Gaps between the tokens of this flight and the ones before, stalls by prefills included."""
    replica, moment = s.replica[r], s.moment[r]
    iterations, count = replica[ITERATIONS], replica[DECODES]
    first = moment[END] if iterations == 1 else moment[START] + moment[BASE]
    old = count
    for i in range(replica[FRESH]):
        members = s.fresh_count[r, i]
        old -= members
        if members:
            add_gap(s, r, first - s.fresh_time[r, i], 0.0, 1, members)
    if old:
        add_gap(s, r, first - moment[GROUP_LAST_TOKEN], 0.0, 1, old)
    if iterations > 1:
        add_gap(s, r, moment[BASE] + moment[SLOPE], moment[SLOPE], iterations - 1, count)
    replica[FRESH] = 0
    moment[GROUP_LAST_TOKEN] = moment[END]


@inner
def finish(s: State, r: int, q: int, now: float) -> None:
    """Slot ``q`` has all its tokens: its blocks and its slot come free."""
    request, size = s.slot[q], s.size[BLOCK]
    held = max(request[BLOCKS], (request[INPUT] + request[OUTPUT] - 1 + size - 1) // size)
    s.replica[r, USED] -= held
    s.replica[r, RUNNING] -= 1
    row = s.ended[s.common[ENDED]]
    row[0], row[1], row[2] = request[ROW], s.time[q, ARRIVAL], s.time[q, SCHEDULED]
    row[3], row[4], row[5], row[6] = s.time[q, FIRST_TOKEN], now, request[INPUT], request[OUTPUT]
    row[7], row[8] = request[PREEMPTIONS], r
    s.common[ENDED] += 1
    request[NEXT] = s.common[FREE_SLOT]
    s.common[FREE_SLOT] = q


@inner
def complete(s: State, r: int) -> None:
    """The flight has ended: tokens, blocks, joins and finishes."""
    replica, moment = s.replica[r], s.moment[r]
    now, iterations = moment[END], replica[ITERATIONS]
    replica[FLYING] = 0
    replica[DONE_ITERATIONS] += iterations
    ended = 0
    if replica[WITH_GROUP]:
        replica[DECODE_TOKENS] += replica[DECODES] * iterations
        record_gaps(s, r)
        if iterations > 1:
            blocks, ramp, triangle = growth(s, r, iterations)
            if blocks:
                allocate(s, r, blocks)
                moment[KV_BLOCK_TIME] += blocks * (now - moment[START]) - moment[BASE] * ramp - moment[SLOPE] * triangle
        replica[CLOCK] += iterations
        replica[CONTEXT] += iterations * replica[DECODES]
        while replica[DECODES] > 0 and next_finish(s, r) <= 0:
            q = pop_finished(s, r)
            s.slot[q, PRODUCED] = s.slot[q, OUTPUT]
            s.scratch[ended] = q
            ended += 1
    for i in range(replica[PLANNED]):
        q = s.planned[r, i]
        if complete_chunk(s, r, q, s.chunk[r, i], now):
            s.scratch[ended] = q
            ended += 1
    for i in range(ended):
        finish(s, r, s.scratch[i], now)


@inner
def complete_chunk(s: State, r: int, q: int, tokens: int, now: float) -> bool:
    """A chunk of slot ``q`` is computed; whether that was all there is to do."""
    replica, request = s.replica[r], s.slot[q]
    replica[PREFILL_TOKENS] += tokens
    request[COMPUTED] += tokens
    if request[COMPUTED] < request[INPUT] + request[PRODUCED]:
        at = replica[PREFILLING]
        while at > 0 and s.slot[s.prefilling[r, at - 1], ROW] > request[ROW]:
            s.prefilling[r, at] = s.prefilling[r, at - 1]
            at -= 1
        s.prefilling[r, at] = q
        replica[PREFILLING] += 1
        return False
    request[PRODUCED] += 1
    replica[PREFILLS] += 1
    replica[QUEUED_TOKENS] -= request[QUEUED]
    if s.time[q, FIRST_TOKEN] < 0.0:
        s.time[q, FIRST_TOKEN] = now
    else:
        add_gap(s, r, now - s.time[q, LAST_TOKEN], 0.0, 1, 1)
    left = request[OUTPUT] - request[PRODUCED]
    if left > 0:
        join(s, r, q, now, left)
    return left == 0


@inner
def admit(s: State, r: int, planned: int, now: float) -> None:
    """Give the waiting requests of the plan their blocks."""
    replica = s.replica[r]
    begun = 0
    for i in range(planned):
        q = s.planned[r, i]
        if s.slot[q, BLOCKS] > 0:
            begun += 1
            continue
        pop_waiting(s, r)
        s.slot[q, BLOCKS] = blocks_for(s, q)
        allocate(s, r, s.slot[q, BLOCKS])
        replica[RUNNING] += 1
        if s.time[q, SCHEDULED] < 0.0:
            s.time[q, SCHEDULED] = now
    # Running prompts are taken in their order: those with a chunk are the first.
    for i in range(begun, replica[PREFILLING]):
        s.prefilling[r, i - begun] = s.prefilling[r, i]
    replica[PREFILLING] -= begun


@inner
def launch(s: State, r: int, now: float) -> int:
    """Start the next iteration, or the next jump; :data:`FINISHED`, or what is missing to say how long it takes."""
    replica, moment = s.replica[r], s.moment[r]
    # Coming back for a missing cost: the decodes that are left go on for an iteration, as decided before.
    planned, with_group = 0, True
    while replica[HORIZON] == 0:
        planned, with_group = schedule(s, r)
        with_group = with_group and replica[DECODES] > 0
        if with_group and replica[SECURED] != replica[CLOCK]:
            before = replica[PREEMPTED]
            remaining = secure_decodes(s, r)
            if replica[PREEMPTED] > before:
                if remaining == 0 or planned > 0:
                    continue
                # The victims wait now: the policy has not seen them yet.
                replica[HORIZON] = 1
        break
    if planned == 0 and not with_group:
        return FINISHED
    if planned > 0:
        missing, base = iteration(s, r, planned, with_group)
        if missing != FINISHED:
            return missing
        admit(s, r, planned, now)
        iterations, slope = 1, 0.0
        moment[END] = now + base
    else:
        base, slope, iterations = decode_segment(s, r)
        if iterations == 0:
            return NO_DECODES
        iterations = 1 if replica[HORIZON] else min(iterations, next_finish(s, r))
        replica[HORIZON] = 0
        if iterations > 1:
            iterations = iterations_within(s, r, s.size[TOTAL_BLOCKS] - replica[USED] - 1, iterations)
        moment[END] = now + (base * iterations + slope * (iterations * (iterations - 1) // 2))
    moment[START], moment[BASE], moment[SLOPE] = now, base, slope
    replica[ITERATIONS], replica[WITH_GROUP], replica[PLANNED], replica[FLYING] = iterations, with_group, planned, 1
    return FINISHED
