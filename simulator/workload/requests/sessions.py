"""Sessions: turns that wait for the answer before, think, and send everything said so far again with something new."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from simulator.errors import ConfigError
from simulator.workload.requests.arrivals import ArrivalSpec, ClosedLoop
from simulator.workload.requests.generators import check_size
from simulator.workload.requests.lengths import LengthSpec
from simulator.workload.requests.provenance import TraceProvenance
from simulator.workload.requests.table import PrefixBlocks, RequestTable

__all__ = ["SessionLaw", "generate_sessions"]

BLOCK = 128
"""Tokens of a block whose text is shared between the turns of a session."""


@dataclass(frozen=True)
class SessionLaw:
    """Turns of a session.

    Attributes
    ----------
    turns
        How many.
    think_time, think_sigma
        From an answer to the next turn: log-normal with this median [s] and spread; a spread of 0 is always the
        median.
    max_context
        A session ends before a prompt would be longer [tokens].
    system_tokens
        What every prompt of every session begins with: instructions, descriptions of tools [tokens].
    first_tokens
        Law of what the first turn has beyond that, a resumed conversation for instance; ``None``: as all turns.
    """

    turns: LengthSpec
    think_time: float
    think_sigma: float = 0.0
    max_context: int = 131_072
    system_tokens: int = 0
    first_tokens: LengthSpec | None = None


def generate_sessions(
    arrival: ArrivalSpec, law: SessionLaw, new_tokens: LengthSpec, output_tokens: LengthSpec,
    duration: float | None = None, count: int | None = None, seed: int = 0,
) -> RequestTable:  # fmt: skip
    """Draw sessions; ``arrival``, ``duration`` and ``count`` are those of sessions.

    Turn i sends what all sessions begin with, the prompts and answers of all turns before, and ``new_tokens`` more;
    blocks of text that turns have in common carry the same id, for prefix caches.

    Raises
    ------
    ConfigError
        If there is no end, or a closed loop is asked for.
    """
    if isinstance(arrival, ClosedLoop):
        raise ConfigError("sessions wait for their own answers: give the rate of new sessions instead of a concurrency")
    if duration is None and count is None:
        raise ConfigError("sessions need an end: 'count' of sessions or 'duration'")
    check_size(min(math.inf if duration is None else duration * arrival.mean_rate, count or math.inf), "sessions")
    streams = [np.random.Generator(np.random.PCG64(s)) for s in np.random.SeedSequence(seed).spawn(6)]
    starts = arrival.sample(streams[0], math.inf if duration is None else duration, count)
    turns = law.turns.sample(streams[1], len(starts))
    total = int(turns.sum())
    new, outputs = new_tokens.sample(streams[2], total), output_tokens.sample(streams[3], total)
    if law.first_tokens is not None:
        new[np.cumsum(turns) - turns] = law.first_tokens.sample(streams[5], len(starts))
    thinks = law.think_time * np.exp(law.think_sigma * streams[4].standard_normal(total))
    session = np.repeat(np.arange(len(starts)), turns)
    first = np.repeat(np.cumsum(turns) - turns, turns)
    said = np.cumsum(new.astype(np.int64) + outputs)
    prompts = law.system_tokens + said - outputs - np.where(first > 0, said[first - 1], 0)
    keep = (prompts <= law.max_context) | (first == np.arange(total))
    row = np.cumsum(keep) - 1
    at = np.flatnonzero(keep)
    opens = first[at] == at
    counts = prompts[at] // BLOCK
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    step = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)
    # Whole blocks of what all sessions begin with have the ids of a session that does not exist.
    owner = np.where(step < law.system_tokens // BLOCK, -1, np.repeat(session[at], counts))
    ids = (owner.astype(np.int64) + 1 << 24) + step
    provenance = TraceProvenance(
        f"{arrival.process} sessions, {law.turns.law} turns, {new_tokens.law} new tokens, {output_tokens.law} output",
        "generated", len(at), len(at), synthetic_fields=("arrival", "input_tokens", "output_tokens", "think_time"),
        time_resolution_s=0.0, seed=seed,
    )  # fmt: skip
    return RequestTable(
        arrival=starts[session[at]], input_tokens=np.minimum(prompts[at], law.max_context).astype(np.int32),
        output_tokens=outputs[at], name="sessions", provenance=provenance, session=session[at].astype(np.int32),
        turn=(at - first[at] + 1).astype(np.int32), think_time=np.where(opens, np.nan, thinks[at]),
        parent=np.where(opens, -1, row[at] - 1).astype(np.int32), prefix_blocks=PrefixBlocks(offsets, ids),
        prefix_block_tokens=BLOCK,
    )  # fmt: skip
