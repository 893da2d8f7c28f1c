"""From arrays back to objects: replicas of :mod:`simulator.serving.replica` that go on where the kernel stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulator.serving.compiled import layout as at
from simulator.serving.flight import Flight
from simulator.strategies.protocols import RequestState

if TYPE_CHECKING:
    from simulator.serving.decode_group import DecodeGroup
    from simulator.serving.replica import Replica

__all__ = ["give_back"]


def give_back(s: at.State, replicas: list[Replica]) -> list[RequestState]:
    """Bring ``replicas``, so far untouched, to the state of the arrays; returns the requests in the system."""
    live: list[RequestState] = []
    for r, replica in enumerate(replicas):
        known: dict[int, RequestState] = {}

        def request(slot: int, r: int = r, known: dict[int, RequestState] = known) -> RequestState:
            if slot not in known:
                known[slot] = _request(s, slot, r)
            return known[slot]

        row, moment = s.replica[r].tolist(), s.moment[r].tolist()
        slot = row[at.FIRST_WAITING]
        for _ in range(row[at.WAITING]):
            replica.waiting.append(request(slot))
            slot = int(s.slot[slot, at.NEXT])
        replica.prefilling = [request(q) for q in s.prefilling[r, : row[at.PREFILLING]].tolist()]
        replica.running, replica.queued_tokens = row[at.RUNNING], row[at.QUEUED_TOKENS]
        replica.pool.used, replica.pool.peak = row[at.USED], row[at.PEAK]
        members = [request(q) for q in s.ending[r, : row[at.DECODES]].tolist()]
        group = replica._decoding
        _group(s, r, group, members)
        if row[at.FLYING]:
            planned, tokens = (a[r, : row[at.PLANNED]].tolist() for a in (s.planned, s.chunk))
            prefill = [(request(q), n) for q, n in zip(planned, tokens, strict=True)]
            replica._flights.append(
                Flight(
                    moment[at.START], moment[at.END], prefill, group if row[at.WITH_GROUP] else None,
                    row[at.ITERATIONS], moment[at.BASE], moment[at.SLOPE],
                )
            )  # fmt: skip
        replica.next_time = moment[at.NEXT_TIME]
        replica.version += 1
        _usage(s, r, replica)
        live += known.values()
    return live


def _request(s: at.State, slot: int, replica: int) -> RequestState:
    row, time = s.slot[slot].tolist(), s.time[slot].tolist()
    found = RequestState(row[at.ROW], time[at.ARRIVAL], row[at.INPUT], row[at.OUTPUT])
    found.computed_tokens, found.produced, found.blocks = row[at.COMPUTED], row[at.PRODUCED], row[at.BLOCKS]
    found.finish_at, found.offset = row[at.FINISH_AT], row[at.OFFSET]
    found.preemptions, found.queued, found.replica = row[at.PREEMPTIONS], row[at.QUEUED], replica
    found.scheduled, found.first_token, found.last_token = (
        time[at.SCHEDULED], time[at.FIRST_TOKEN], time[at.LAST_TOKEN],
    )  # fmt: skip
    return found


def _group(s: at.State, r: int, group: DecodeGroup, members: list[RequestState]) -> None:
    row = s.replica[r].tolist()
    fresh = [[float(s.fresh_time[r, i]), int(s.fresh_count[r, i])] for i in range(row[at.FRESH])]
    group.restore(members, row[at.CLOCK], row[at.SECURED], float(s.moment[r, at.GROUP_LAST_TOKEN]), fresh)


def _usage(s: at.State, r: int, replica: Replica) -> None:
    row, moment, usage = s.replica[r].tolist(), s.moment[r].tolist(), replica.usage
    usage.until, usage.busy_time = moment[at.UNTIL], moment[at.BUSY_TIME]
    usage.waiting_time, usage.running_time = moment[at.WAITING_TIME], moment[at.RUNNING_TIME]
    usage.kv_block_time = moment[at.KV_BLOCK_TIME]
    usage.iterations, usage.prefills, usage.preemptions = (
        row[at.DONE_ITERATIONS], row[at.PREFILLS], row[at.PREEMPTED],
    )  # fmt: skip
    usage.prefill_tokens, usage.decode_tokens = row[at.PREFILL_TOKENS], row[at.DECODE_TOKENS]
    usage.recomputed_tokens, usage.every, usage.seen = row[at.RECOMPUTED_TOKENS], row[at.EVERY], row[at.SEEN]
    usage.samples = [
        (time, int(waiting), int(running), int(blocks))
        for time, waiting, running, blocks in s.samples[r, : row[at.SAMPLED]].tolist()
    ]
