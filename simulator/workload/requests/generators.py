"""Requests from a law of arrival and two laws of length, under a seed."""

from __future__ import annotations

import math

import numpy as np

from simulator.errors import ConfigError
from simulator.workload.requests.arrivals import ArrivalSpec, ClosedLoop
from simulator.workload.requests.lengths import LengthSpec
from simulator.workload.requests.provenance import TraceProvenance
from simulator.workload.requests.table import RequestTable

__all__ = ["MAX_REQUESTS", "check_size", "generate_requests"]

MAX_REQUESTS = 50_000_000
"""More than this many expected requests are refused: 0.8 GB of columns, and almost always a wrong unit."""


def check_size(expected: float, what: str) -> None:
    """Refuse a size that cannot be meant.

    Raises
    ------
    ConfigError
        If more than :data:`MAX_REQUESTS` are expected.
    """
    if expected > MAX_REQUESTS:
        raise ConfigError(
            f"{what} would give about {expected:.3g} requests, more than {MAX_REQUESTS:,}: "
            "give a shorter duration, a lower rate or a count"
        )


def generate_requests(
    arrival: ArrivalSpec,
    input_tokens: LengthSpec,
    output_tokens: LengthSpec,
    duration: float | None = None,
    count: int | None = None,
    seed: int = 0,
    name: str = "generated",
) -> RequestTable:
    """Draw requests; what ends first of ``duration`` and ``count`` ends the list.

    Arrivals, input and output lengths have streams of their own, so changing one law never moves the draws of
    another, and asking for more requests only appends to the list. Lengths are independent of one another and
    of the arrivals.

    Parameters
    ----------
    arrival
        Law of arrival. A :class:`ClosedLoop` needs a ``count``.
    input_tokens, output_tokens
        Laws of length [tokens].
    duration
        Requests arrive in [0, duration) [s].
    count
        At most so many requests.
    seed
        Of all streams.

    Raises
    ------
    ConfigError
        If neither ``duration`` nor ``count`` is given or positive, or the list would be absurdly long.
    """
    if duration is None and count is None:
        raise ConfigError("generated requests need an end: give a duration, a count, or both")
    if duration is not None and not (duration > 0 and math.isfinite(duration)):
        raise ConfigError(f"the duration must be positive and finite, not {duration} s")
    if count is not None and count < 1:
        raise ConfigError(f"the count of requests must be at least 1, not {count}")
    if count is None and isinstance(arrival, ClosedLoop):
        raise ConfigError("a closed loop has no arrival times to end by: give a count of requests")
    by_time = math.inf if duration is None or isinstance(arrival, ClosedLoop) else duration * arrival.mean_rate
    check_size(min(by_time, math.inf if count is None else count), f"'{name}'")

    streams = [np.random.Generator(np.random.PCG64(s)) for s in np.random.SeedSequence(seed).spawn(3)]
    times = arrival.sample(streams[0], math.inf if duration is None else duration, count)
    n = len(times)
    end = " and ".join(t for t in (duration and f"{duration:g} s", count and f"{count} requests") if t)
    return RequestTable(
        arrival=times,
        input_tokens=input_tokens.sample(streams[1], n),
        output_tokens=output_tokens.sample(streams[2], n),
        name=name,
        provenance=TraceProvenance(
            source=f"{arrival.process} arrivals, {input_tokens.law} input, {output_tokens.law} output, up to {end}",
            format="generated",
            rows_read=n,
            rows_emitted=n,
            synthetic_fields=("arrival", "input_tokens", "output_tokens"),
            time_resolution_s=0.0,
            seed=seed,
        ),
        closed_loop_concurrency=arrival.concurrency if isinstance(arrival, ClosedLoop) else None,
    )
