"""Arrays that hold the state of all replicas, and the names of their columns.

What :class:`~simulator.serving.replica.Replica`, :class:`~simulator.serving.decode_group.DecodeGroup` and
:class:`~simulator.strategies.serving_protocols.RequestState` hold in objects stands here in rows; each field has the
name of the attribute it mirrors. A request has a slot while it waits or runs; slots are used again, so memory follows
the requests in the system, not those of the table.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["DTYPES", "State", "allocate", "grow_slots"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

SAMPLES = 1024
"""As of :class:`~simulator.serving.usage.ReplicaUsage`."""

PACE = 8192
"""Arrivals from one stock-taking to the next."""

NONE = -1

CHUNK_BITS = 24
"""A chunk and its context are one key: chunk · 2^24 + context."""

# -- columns of ``slot`` [slots, ...]: a request -----------------------------------------------------------------------
(ROW, INPUT, OUTPUT, COMPUTED, PRODUCED, BLOCKS, FINISH_AT, OFFSET, PREEMPTIONS, QUEUED, NEXT, SLOT_FIELDS) = range(12)
# -- columns of ``time`` [slots, ...] ----------------------------------------------------------------------------------
(ARRIVAL, SCHEDULED, FIRST_TOKEN, LAST_TOKEN, TIME_FIELDS) = range(5)
# -- columns of ``replica`` [replicas, ...] ----------------------------------------------------------------------------
(
    FIRST_WAITING, LAST_WAITING, WAITING, RUNNING, QUEUED_TOKENS, USED, PEAK, PREFILLING,
    CLOCK, DECODES, CONTEXT, SECURED, FRESH,
    FLYING, ITERATIONS, WITH_GROUP, PLANNED, PENDING, HORIZON,
    DONE_ITERATIONS, PREFILLS, PREEMPTED, PREFILL_TOKENS, DECODE_TOKENS, RECOMPUTED_TOKENS,
    EVERY, SEEN, SAMPLED, REPLICA_FIELDS,
) = range(29)  # fmt: skip
# -- columns of ``moment`` [replicas, ...] -----------------------------------------------------------------------------
(
    NEXT_TIME, UNTIL, BUSY_TIME, WAITING_TIME, RUNNING_TIME, KV_BLOCK_TIME, GROUP_LAST_TOKEN, START, END, BASE, SLOPE,
    MOMENT_FIELDS,
) = range(12)  # fmt: skip
# -- entries of ``common`` ---------------------------------------------------------------------------------------------
(PLACE, HEAPED, FREE_SLOT, GAPS, ENDED, RESUME, LAST_ROUTED, DRAWN, WANTED, NEXT_SAMPLE, STOCKED, COMMON_FIELDS) = (
    range(12)
)
# -- entries of ``size`` -----------------------------------------------------------------------------------------------
(
    BLOCK, BUDGET, MOST_SEQUENCES, TOTAL_BLOCKS, WATERMARK, POLICY, ROUTER, COUNT_PADDING, OVERLAPPED, FIRST_ROW,
    CAPTURED_TOKENS, CAPTURED_SEQUENCES, SIZE_FIELDS,
) = range(13)  # fmt: skip
# -- entries of ``rate``: what an iteration costs beyond its tables [s] ------------------------------------------------
(
    GAP, PER_CONTEXT, EXPOSED, HIDDEN, HOST_FIXED, HOST_EACH, LAUNCHING, LAUNCHING_PROMPTS, LAUNCHING_PIECES,
    LAUNCH_EXPOSED, RATE_FIELDS,
) = range(11)  # fmt: skip

# -- values of POLICY and ROUTER ---------------------------------------------------------------------------------------
CHUNKED_PREFILL, PREFILL_FIRST = range(2)
ROUND_ROBIN, LEAST_OUTSTANDING, RANDOM, POWER_OF_TWO = range(4)

# -- why the kernel came back ------------------------------------------------------------------------------------------
(FINISHED, STOCK, SAMPLE, FULL_GAPS, FULL_ENDED, NO_SLOTS, NO_DRAWS, NO_TOKENS, NO_ROWS, NO_DECODES, NO_CHUNK) = range(
    11
)

GAP_FIELDS = 5
"""Replica, first [s], slope [s], iterations, requests."""
ENDED_FIELDS = 9
"""Row, arrival, scheduled, first token, finish [s], input tokens, output tokens, preemptions, replica."""


class State(NamedTuple):
    """Everything the kernel reads and writes.

    ``ending``, ``prefilling``, ``planned`` hold slots, [replicas, sequences]; ``order`` is the heap of replicas by
    (next time, number) and ``place`` where each stands in it.
    """

    slot: Ints
    time: Floats
    replica: Ints
    moment: Floats
    ending: Ints
    prefilling: Ints
    planned: Ints
    chunk: Ints
    fresh_time: Floats
    fresh_count: Ints
    crossings: Ints
    samples: Floats
    order: Ints
    place: Ints
    scratch: Ints
    common: Ints
    size: Ints
    gaps: Floats
    ended: Floats
    draws: Floats
    arrival: Floats
    inputs: NDArray[np.int32]
    outputs: NDArray[np.int32]
    rejected: NDArray[np.uint8]
    token_seconds: Floats
    row_seconds: Floats
    decode_seconds: Floats
    chunk_keys: Ints
    chunk_seconds: Floats
    term: Floats
    rate: Floats


DTYPES: tuple[tuple[int, type[np.generic]], ...] = (
    (2, np.int64), (2, np.float64), (2, np.int64), (2, np.float64), (2, np.int64), (2, np.int64),
    (2, np.int64), (2, np.int64), (2, np.float64), (2, np.int64), (2, np.int64), (3, np.float64),
    (1, np.int64), (1, np.int64), (1, np.int64), (1, np.int64), (1, np.int64), (2, np.float64),
    (2, np.float64), (1, np.float64), (1, np.float64), (1, np.int32), (1, np.int32), (1, np.uint8),
    (1, np.float64), (1, np.float64), (2, np.float64), (1, np.int64), (2, np.float64), (2, np.float64),
    (1, np.float64),
)  # fmt: skip
"""Dimensions and type of every array of :class:`State`, in order."""


def allocate(replicas: int, sequences: int, block_size: int, slots: int) -> dict[str, NDArray[np.generic]]:
    """The part of :class:`State` that belongs to replicas and requests, everybody idle."""
    replica = np.zeros((replicas, REPLICA_FIELDS), dtype=np.int64)
    replica[:, [FIRST_WAITING, LAST_WAITING, SECURED]] = NONE
    replica[:, EVERY] = 1
    moment = np.zeros((replicas, MOMENT_FIELDS))
    moment[:, NEXT_TIME] = np.inf
    common = np.zeros(COMMON_FIELDS, dtype=np.int64)
    common[[FREE_SLOT, RESUME, LAST_ROUTED, STOCKED]] = NONE
    ints = [np.zeros((replicas, sequences), dtype=np.int64) for _ in range(5)]
    slot, time = grow_slots(np.zeros((0, SLOT_FIELDS), dtype=np.int64), np.zeros((0, TIME_FIELDS)), common, slots)
    return {
        "slot": slot, "time": time, "replica": replica, "moment": moment, "common": common,
        "ending": ints[0], "prefilling": ints[1], "planned": ints[2], "chunk": ints[3], "fresh_count": ints[4],
        "fresh_time": np.zeros((replicas, sequences)),
        "crossings": np.zeros((replicas, block_size), dtype=np.int64), "samples": np.zeros((replicas, SAMPLES, 4)),
        "order": np.zeros(replicas, dtype=np.int64), "place": np.full(replicas, NONE, dtype=np.int64),
        "scratch": np.zeros(2 * sequences, dtype=np.int64),
    }  # fmt: skip


def grow_slots(slot: Ints, time: Floats, common: Ints, slots: int) -> tuple[Ints, Floats]:
    """Room for ``slots`` requests; the new ones are linked into the list of free slots."""
    old = len(slot)
    wider = np.zeros((slots, SLOT_FIELDS), dtype=np.int64)
    wider[:old] = slot
    wider[old:, NEXT] = np.arange(old + 1, slots + 1)
    wider[-1, NEXT] = common[FREE_SLOT]
    common[FREE_SLOT] = old
    times = np.zeros((slots, TIME_FIELDS))
    times[:old] = time
    return wider, times
