"""ServeGen (arXiv 2505.09999): client by client, rates and gap laws per 10 minutes and length tables per 6 hours.

The published files describe clients, not requests; requests are drawn here. In each of its windows a client is a
stationary renewal process with the published rate and the published family and shape of gaps (gamma or Weibull).
Input and output lengths and arrivals have independent streams: the authors' sampler uses one random number for all
fields of a request, which makes the longest prompt always get the longest answer.
"""

from __future__ import annotations

import math
import tarfile
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.errors import ConfigError
from simulator.workload.requests.generators import check_size
from simulator.workload.requests.readers.base import RowLog, TraceFile, build_table, trace_format
from simulator.workload.requests.readers.servegen_files import Client, LengthTable, Window, load_clients
from simulator.workload.requests.table import RequestTable

__all__ = ["read_servegen"]

Times = NDArray[np.float64]


def _sniff(file: TraceFile) -> bool:
    if not file.compressed:
        return False
    try:
        with tarfile.open(file.path) as archive:
            first = archive.next()
            while first is not None and not first.isfile():
                first = archive.next()
            return first is not None and "chunk-" in first.name
    except (tarfile.TarError, OSError, EOFError, zlib.error):
        return False


@trace_format("servegen", "https://github.com/alibaba/ServeGen (Apache-2.0)", _sniff, ("start", "duration", "rate"))
def read_servegen(
    file: TraceFile,
    skip_bad_rows: bool,
    seed: int,
    start: float = 0.0,
    duration: float = 3600.0,
    rate: float | None = None,
) -> RequestTable:
    """``tar.gz`` of client rates and length tables: requests drawn client by client under a seed.

    Parameters
    ----------
    file, skip_bad_rows, seed
        As in :func:`~simulator.workload.requests.read_requests`; a row is a client window.
    start, duration
        The part of the published days to draw [s].
    rate
        Scale all clients by one factor so that their mean rates over that part sum to this [req/s].
    """
    if not (start >= 0 and duration > 0 and math.isfinite(start + duration)):
        raise ConfigError(f"servegen needs start >= 0 and duration > 0, not {start} s and {duration} s")
    log = RowLog(str(file.path))
    clients = load_clients(file.path, start, start + duration, log)
    log.settle(skip_bad_rows)
    expected = sum(c.expected(start, start + duration) for c in clients)
    if expected <= 0:
        raise ConfigError(f"{file.path}: no client sends requests between {start:g} and {start + duration:g} s")
    factor = 1.0 if rate is None else rate * duration / expected
    check_size(expected * factor, f"{file.path.name} for {duration:g} s")
    columns, notes = _draw(clients, start, start + duration, factor, seed)
    if not len(columns["arrival"]):
        raise ConfigError(f"{file.path}: no request was drawn between {start:g} and {start + duration:g} s")
    if factor != 1:
        notes.append(f"scaled all client rates by {factor:.6g} to {rate:g} req/s")
    if log.bad:
        notes.append(f"skipped {len(log.bad)} bad client windows")
    order = np.argsort(columns["arrival"], kind="stable")
    columns = {name: values[order] for name, values in columns.items()}
    return build_table(
        file,
        RowLog(str(file.path), rows_read=len(order)),
        format="servegen",
        skip_bad_rows=skip_bad_rows,
        arrival=columns["arrival"],
        input_tokens=columns["input_tokens"],
        output_tokens=columns["output_tokens"],
        extra={"client": columns["client"]},
        transforms=tuple(notes),
        synthetic_fields=("arrival", "input_tokens", "output_tokens"),
        time_resolution_s=0.0,
        seed=seed,
        zero=start,
    )


def _draw(
    clients: list[Client], start: float, end: float, factor: float, seed: int
) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Columns of all clients' requests, client by client, and what there is to say about them."""
    donors = [c for c in clients if c.inputs and c.outputs and c.expected(start, end) > 0]
    if not donors:
        raise ConfigError("none of the clients that send requests then has a table of lengths")
    weights = np.array([d.expected(start, end) for d in donors])
    arrivals, inputs, outputs, numbers = [], [], [], []
    borrowed = 0
    for client, stream in zip(clients, np.random.SeedSequence(seed).spawn(len(clients)), strict=True):
        times_rng, in_rng, out_rng, donor_rng = (np.random.Generator(np.random.PCG64(s)) for s in stream.spawn(4))
        times = client_times(client.windows, start, end, factor, times_rng)
        tables = client
        if not (client.inputs and client.outputs):
            tables = donors[int(donor_rng.choice(len(donors), p=weights / weights.sum()))]
            borrowed += len(times)
        arrivals.append(times)
        inputs.append(_lengths(tables.inputs, times, in_rng))
        outputs.append(_lengths(tables.outputs, times, out_rng))
        numbers.append(np.full(len(times), client.number))
    notes = [f"drew {len(clients)} clients in [{start:g}, {end:g}) s, seed {seed}"]
    if borrowed:
        without = sum(not (c.inputs and c.outputs) for c in clients)
        notes.append(f"{without} clients ({borrowed} requests) have no length table and borrow another client's")
    if any(c.multimodal for c in donors):
        notes.append("input tokens = text tokens + images × tokens per image (also audio, video)")
    parts = {"arrival": arrivals, "input_tokens": inputs, "output_tokens": outputs, "client": numbers}
    return {name: np.concatenate(values) for name, values in parts.items()}, notes


def client_times(windows: list[Window], start: float, end: float, factor: float, rng: np.random.Generator) -> Times:
    """Arrivals of one client in [start, end) [s]; the expected number in each window is exactly factor × rate × time.

    Each window is a stationary renewal process of its own: carrying a gap over from a window with another law
    would bias the counts of bursty clients.
    """
    parts: list[Times] = []
    for window in windows:
        left, right = max(window.start, start), min(window.end, end)
        rate = window.rate * factor
        if right <= left or rate <= 0:
            continue
        amount = rate * (right - left)  # in units of the mean gap
        times = np.array([_residual_gap(window, rng)])
        while times[-1] < amount:
            gaps = _unit_gaps(window, rng, int(1.1 * (amount - times[-1])) + 16)
            times = np.concatenate((times, times[-1] + np.cumsum(gaps)))
        parts.append(left + times[: np.searchsorted(times, amount)] / rate)
    return np.concatenate(parts) if parts else np.empty(0)


def _unit_gaps(window: Window, rng: np.random.Generator, count: int) -> Times:
    """Gaps of mean 1 with the window's family and shape."""
    if window.family == "Weibull":
        return rng.weibull(window.shape, count) / math.gamma(1 + 1 / window.shape)
    return rng.standard_gamma(window.shape, count) / window.shape


def _residual_gap(window: Window, rng: np.random.Generator) -> float:
    """Time to the first arrival of the stationary process: a uniform part of a length-biased gap."""
    if window.family == "Weibull":
        # x ~ x·f(x): with y = x^shape, y ~ Gamma(1 + 1/shape).
        gap = rng.standard_gamma(1 + 1 / window.shape) ** (1 / window.shape) / math.gamma(1 + 1 / window.shape)
    else:
        gap = rng.standard_gamma(window.shape + 1) / window.shape
    return float(gap * rng.random())


def _lengths(tables: list[LengthTable], times: Times, rng: np.random.Generator) -> NDArray[Any]:
    """A length per arrival from the table in force then: the latest one that began, or the first."""
    begins = np.array([t.start for t in tables])
    place = np.maximum(np.searchsorted(begins, times, side="right") - 1, 0)
    result = np.ones(len(times), dtype=np.int64)
    for i in np.unique(place):
        rows = place == i
        result[rows] = tables[i].sample(rng, int(rows.sum()))
    return np.maximum(result, 1)
