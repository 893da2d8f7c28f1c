"""A serving run in bounded memory: counters and mergeable quantile sketches instead of a row per request."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.results.sketch import QuantileSketch
from simulator.serving.metrics import growth_of
from simulator.serving.rows import RequestSource
from simulator.serving.usage import ReplicaUsage
from simulator.strategies.protocols import RequestState
from simulator.workload.jobs import ServiceLevel
from simulator.workload.requests.table import RequestTable

__all__ = ["ServingSummary", "SummaryRows", "add_segments"]

_BUFFER = 8192
_MOST_SAMPLES = 1024
_METRICS = ("ttft", "tpot", "e2e", "queueing")


@dataclass(frozen=True)
class ServingSummary:
    """What is left of a run that kept no rows.

    Attributes
    ----------
    sketches
        ``ttft``, ``tpot``, ``e2e``, ``queueing`` and ``itl`` (gaps between tokens) of the completed requests [s].
    counts
        ``requests``, ``unfinished``, ``input_tokens``, ``output_tokens``, ``preemptions``, ``cached_tokens``, and
        ``slo_met`` where limits were given.
    rejections
        Rejected requests by reason.
    first_arrival, last_finish
        [s]
    replicas
        Usage of every replica.
    progress
        [n, 3]: time [s], requests accepted so far, and those of them in the system, evenly thinned in number of
        arrivals.
    """

    sketches: dict[str, QuantileSketch]
    counts: dict[str, int]
    rejections: dict[str, int]
    first_arrival: float
    last_finish: float
    replicas: tuple[ReplicaUsage, ...]
    progress: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 3)))

    def stability(self) -> dict[str, Any]:
        """As :func:`simulator.serving.metrics.stability`, from the samples kept of the second half of the arrivals."""
        time, arrived, in_system = self.progress.T
        late = arrived >= arrived[-1] / 2 if len(arrived) else np.zeros(0, dtype=bool)
        if not late.any():
            return growth_of(time, in_system, 0, 0, 0.0)
        time, arrived, in_system = time[late], arrived[late], in_system[late]
        arrivals = int(arrived[-1] - arrived[0]) + 1
        completions = int(arrivals - 1 - (in_system[-1] - in_system[0]))
        return growth_of(time, in_system, arrivals, completions, self.sketches["queueing"].mean)

    def to_dict(self) -> dict[str, Any]:
        """Metrics named as by :func:`~simulator.serving.metrics.summarize`; quantiles within the sketches' error."""
        duration = self.last_finish - self.first_arrival
        rate = 1.0 / duration if duration > 0 else math.nan
        count = self.counts
        row: dict[str, Any] = {
            "requests": count["requests"], "rejected": sum(self.rejections.values()),
            "unfinished": count["unfinished"], "duration": duration, "input_tokens": count["input_tokens"],
            "output_tokens": count["output_tokens"], "requests_per_s": count["requests"] * rate,
            "output_tokens_per_s": count["output_tokens"] * rate,
            "total_tokens_per_s": (count["input_tokens"] + count["output_tokens"]) * rate,
        }  # fmt: skip
        for name in ("ttft", "tpot", "itl", "e2e", "queueing"):
            sketch = self.sketches[name]
            row[f"{name}_mean"] = sketch.mean
            row |= {
                f"{name}_{label}": sketch.quantile(q) for label, q in (("median", 0.5), ("p90", 0.9), ("p99", 0.99))
            }
        row |= {"preemptions": count["preemptions"], "cached_tokens": count["cached_tokens"]}
        row |= {"iterations": sum(r.iterations for r in self.replicas)}
        if "slo_met" in count:
            judged = count["requests"] + row["rejected"]
            row["slo_attainment"] = count["slo_met"] / judged if judged else math.nan
            row["slo_goodput"] = count["slo_met"] * rate
        row |= {"quantile_error": max(sketch.relative_error for sketch in self.sketches.values())}
        return row | self.stability()


class SummaryRows(RequestSource):
    """Feeds the sketches of a :class:`ServingSummary` as requests end.

    Parameters
    ----------
    table, block_size
        As of :class:`~simulator.serving.rows.RequestSource`.
    slo
        Limits that are counted while there are single requests to judge.
    relative_error
        Of the quantiles.
    """

    def __init__(
        self, table: RequestTable, block_size: int = 0, slo: ServiceLevel | None = None, relative_error: float = 0.005
    ) -> None:
        super().__init__(table, block_size)
        self._slo = slo
        self.sketches = {name: QuantileSketch(relative_error) for name in (*_METRICS, "itl")}
        self._buffer: list[tuple[float, ...]] = []
        self._parts: list[NDArray[np.float64]] = []
        self._waiting = 0
        self._table = table
        self._counts = dict.fromkeys(("requests", "input_tokens", "output_tokens", "preemptions", "cached_tokens"), 0)
        self._met = self._arrived = 0
        self._refused: dict[int, int] = {}
        self._first = math.inf
        self._last = -math.inf
        self._progress: list[tuple[float, int, int]] = []
        self._every = 1
        self._next_sample = 0

    def state(self, row: int, now: float) -> RequestState:
        """The request of ``row``, which arrives ``now``."""
        if self._arrived >= self._next_sample:
            self._sample(now)
        self._arrived += 1
        if now < self._first:
            self._first = now
        return super().state(row, now)

    def _sample(self, now: float) -> None:
        self.sample(self._arrived, now, sum(self._refused.values()), self._counts["requests"] + len(self._buffer))

    def sample(self, arrived: int, now: float, refused: int, ended: int) -> int:
        """Note how many are in the system; once the history is full every second sample is dropped.

        Returns the number of arrivals to take the next sample at.
        """
        accepted = arrived - refused
        self._progress.append((now, accepted, accepted - ended))
        if len(self._progress) >= _MOST_SAMPLES:
            del self._progress[1::2]
            self._every *= 2
        self._next_sample = arrived + self._every
        return self._next_sample

    def reject(self, row: int, now: float, reason: int) -> None:
        """Request ``row`` is refused for the reason of that number."""
        self._refused[reason] = self._refused.get(reason, 0) + 1

    def finish(self, request: RequestState, now: float) -> None:
        """``request`` has all its tokens."""
        # Replicas run ahead of each other between arrivals: ends do not come in order of time.
        self._last = max(self._last, now)
        self._counts["preemptions"] += request.preemptions
        self._counts["cached_tokens"] += request.cached_tokens
        self._buffer.append((
            request.arrival, request.scheduled, request.first_token, now, request.input_tokens, request.output_tokens
        ))  # fmt: skip
        if len(self._buffer) >= _BUFFER:
            self._flush()

    def finish_many(self, ended: NDArray[np.float64]) -> None:
        """Rows of ``(number, arrival, scheduled, first token, finish [s], input, output, preemptions, replica)``."""
        self._last = max(self._last, float(ended[:, 4].max()))
        self._counts["preemptions"] += int(ended[:, 7].sum())
        self._parts.append(ended[:, 1:7])
        self._waiting += len(ended)
        if self._waiting < _BUFFER:
            return
        # In portions of the same size as one by one, so that sums round alike.
        rows = np.concatenate(self._parts)
        whole = len(rows) // _BUFFER * _BUFFER
        for start in range(0, whole, _BUFFER):
            self._enter(rows[start : start + _BUFFER])
        self._parts, self._waiting = [rows[whole:]], len(rows) - whole

    def adopt(self, live: Sequence[RequestState], arrived: int, rejected: bytes) -> None:
        """The first ``arrived`` rows have come, were refused for these reasons or ended, and ``live`` are left."""
        self._arrived = arrived
        if arrived:
            self._first = min(self._first, float(self._table.arrival[0]))
        counts = np.bincount(np.frombuffer(rejected[:arrived], dtype=np.uint8))
        self._refused = {reason: int(n) for reason, n in enumerate(counts) if reason and n}
        self._buffer += [tuple(row) for block in self._parts for row in block.tolist()]
        self._parts, self._waiting = [], 0

    def _flush(self) -> None:
        if self._buffer:
            self._enter(np.array(self._buffer))
            self._buffer.clear()

    def _enter(self, rows: NDArray[np.float64]) -> None:
        arrival, scheduled, first, finish, inputs, outputs = rows.T
        ttft, e2e = first - arrival, finish - arrival
        steps = np.where(outputs > 1, outputs - 1, np.nan)
        tpot = (finish - first) / steps
        values = {"ttft": ttft, "tpot": tpot[outputs > 1], "e2e": e2e, "queueing": scheduled - arrival}
        for name in _METRICS:
            self.sketches[name].add(np.maximum(values[name], 0.0))
        self._counts["requests"] += len(arrival)
        self._counts["input_tokens"] += int(inputs.sum())
        self._counts["output_tokens"] += int(outputs.sum())
        if self._slo is not None:
            good = np.ones(len(arrival), dtype=bool)
            for limit, value in ((self._slo.ttft, ttft), (self._slo.tpot, tpot), (self._slo.e2e, e2e)):
                if limit > 0:
                    good &= ~(value > limit)
            self._met += int(good.sum())

    def summary(self, replicas: tuple[ReplicaUsage, ...]) -> ServingSummary:
        """Everything so far."""
        self._flush()
        refused = {self.reasons[reason]: count for reason, count in self._refused.items()}
        counts = dict(self._counts)
        counts["unfinished"] = self._arrived - counts["requests"] - sum(refused.values())
        if self._slo is not None:
            counts["slo_met"] = self._met
        progress = np.array(self._progress, dtype=np.float64).reshape(-1, 3)
        return ServingSummary(self.sketches, counts, refused, self._first, self._last, replicas, progress)


def add_segments(sketch: QuantileSketch, segments: NDArray[np.float64]) -> None:
    """Add the values base + slope·i, i = 0 .. count − 1, each ``weight`` times.

    Parameters
    ----------
    segments
        [n, 4]: base [s], slope [s], count, weight.

    Notes
    -----
    A segment is entered with all its values if they span more than half the sketch's relative error, else with all at
    their mean, so that a quantile is within 1.5 times that error; count and sum stay exact.
    """
    base, slope, count, weight = segments[(segments[:, 2] > 0) & (segments[:, 3] > 0)].T
    last = base + slope * (count - 1)
    parts = np.ceil(np.abs(np.log(np.maximum(last, 1e-12) / np.maximum(base, 1e-12))) / (0.5 * sketch.relative_error))
    parts = np.clip(parts, 1, count).astype(np.int64)
    row = np.repeat(np.arange(len(base)), parts)
    part = np.arange(len(row)) - np.repeat(np.cumsum(parts) - parts, parts)
    start = np.floor(count[row] * part / parts[row])
    end = np.floor(count[row] * (part + 1) / parts[row])
    middle = base[row] + slope[row] * 0.5 * (start + end - 1)
    sketch.add_weighted(middle, ((end - start) * weight[row]).astype(np.int64))
