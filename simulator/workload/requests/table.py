"""RequestTable: the requests of one deployment as equal-length columns.

Columns rather than objects: a million requests take 16 MB, and statistics and time scaling are single array
operations. Only the columns that the source knows are present; the others are ``None``, never zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from simulator.errors import ConfigError, Issue
from simulator.workload.requests.provenance import TraceProvenance

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PrefixBlocks", "RequestTable", "RequestTableError", "TraceProvenance"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.integer[Any]]

_COLUMN_TYPES: dict[str, type[np.generic]] = {
    "arrival": np.float64,
    "input_tokens": np.int32,
    "output_tokens": np.int32,
    "session": np.int32,
    "turn": np.int32,
    "client": np.int32,
    "priority": np.int16,
    "think_time": np.float64,
    "parent": np.int32,
}
"""Column -> type, also the order of :meth:`RequestTable.to_frame`."""


class RequestTableError(ConfigError):
    """The columns are not a valid list of requests: unequal lengths, times out of order, counts below one."""


@dataclass(frozen=True)
class PrefixBlocks:
    """Ids of the prompt's token blocks, request by request; equal ids are equal text *and* equal prefix.

    Attributes
    ----------
    offsets
        int64, one more than there are requests: request ``i`` has ``ids[offsets[i]:offsets[i + 1]]``.
    ids
        int64, chained: an id stands for the block and everything before it.
    tokens
        int32 [tokens] per id where blocks differ in size; ``None`` when all have ``prefix_block_tokens``.
    """

    offsets: NDArray[np.int64]
    ids: NDArray[np.int64]
    tokens: NDArray[np.int32] | None = None

    @classmethod
    def from_lists(cls, lists: list[list[int]], tokens: list[list[int]] | None = None) -> PrefixBlocks:
        """Pack one list of ids per request."""
        offsets = np.zeros(len(lists) + 1, dtype=np.int64)
        np.cumsum([len(ids) for ids in lists], out=offsets[1:])
        flat = np.fromiter((i for ids in lists for i in ids), dtype=np.int64, count=int(offsets[-1]))
        sizes = None
        if tokens is not None:
            sizes = np.fromiter((t for row in tokens for t in row), dtype=np.int32, count=int(offsets[-1]))
        return cls(offsets, flat, sizes)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, request: int) -> NDArray[np.int64]:
        """Block ids of one request, first block first."""
        return self.ids[self.offsets[request] : self.offsets[request + 1]]

    def take(self, rows: IntArray) -> PrefixBlocks:
        """The blocks of the given requests, in that order."""
        lengths = np.diff(self.offsets)[rows]
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        index = np.repeat(self.offsets[:-1][rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return PrefixBlocks(offsets, self.ids[index], None if self.tokens is None else self.tokens[index])


@dataclass(frozen=True)
class RequestTable:
    """Requests in order of arrival.

    Attributes
    ----------
    arrival
        float64 [s] from time zero, ascending. All zero for a closed loop.
    input_tokens, output_tokens
        int32 [tokens], at least 1.
    session, turn, client, priority
        Of a conversation, its turn (from 1), the client that sent it, and its urgency (greater is more urgent).
    think_time
        float64 [s] between the end of ``parent`` and the release of this request; NaN where it is released by time.
    parent
        int32, row of the request that must end first; -1 for none.
    prefix_blocks, prefix_block_tokens
        Block ids of the prompt for prefix caching, and the block size [tokens] (0: see ``prefix_blocks.tokens``).
    closed_loop_concurrency
        Requests in flight at any time, the next released when one completes; ``None`` for open-loop arrivals.

    Raises
    ------
    RequestTableError
        If the columns differ in length, times descend or are negative, or a request has no tokens.
    """

    arrival: FloatArray
    input_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]
    name: str
    provenance: TraceProvenance
    session: NDArray[np.int32] | None = None
    turn: NDArray[np.int32] | None = None
    client: NDArray[np.int32] | None = None
    priority: NDArray[np.int16] | None = None
    think_time: FloatArray | None = None
    parent: NDArray[np.int32] | None = None
    prefix_blocks: PrefixBlocks | None = None
    prefix_block_tokens: int = 0
    closed_loop_concurrency: int | None = field(default=None)

    def __post_init__(self) -> None:
        for column, kind in _COLUMN_TYPES.items():
            values = getattr(self, column)
            if values is not None:
                object.__setattr__(self, column, _as_column(column, values, kind))
        problems = list(_problems(self))
        if problems:
            raise RequestTableError(problems)

    def __len__(self) -> int:
        return len(self.arrival)

    def head(self, n: int) -> RequestTable:
        """The first ``n`` requests (all of them if there are fewer)."""
        return self._keep(np.arange(min(n, len(self))), f"kept the first {n} requests")

    def window(self, start: float, end: float) -> RequestTable:
        """Requests that arrive in [start, end) [s]; ``start`` becomes time zero."""
        if self.closed_loop_concurrency is not None:
            raise ConfigError(f"'{self.name}' is a closed loop: it has no times to take a window of; use a count")
        if not 0 <= start < end:
            raise ConfigError(f"a window needs 0 <= start < end, not [{start}, {end}) s")
        first, last = np.searchsorted(self.arrival, [start, end])
        kept = self._keep(np.arange(first, last), f"kept arrivals in [{start:g}, {end:g}) s")
        return replace(kept, arrival=kept.arrival - start)

    def with_rate(self, rate: float) -> RequestTable:
        """The same requests with all arrival times scaled to a mean of ``rate`` [req/s].

        The order, the lengths and the coefficient of variation stay; think times are not scaled.
        """
        if self.closed_loop_concurrency is not None:
            raise ConfigError(f"'{self.name}' is a closed loop: its rate is a result; set the concurrency instead")
        if not (rate > 0 and math.isfinite(rate)):
            raise ConfigError(f"a request rate must be a positive number, not {rate}")
        now = self.rate
        if math.isnan(now):
            raise ConfigError(f"'{self.name}' cannot be scaled to {rate:g} req/s: its requests span no time")
        factor = now / rate
        note = f"scaled time by {factor:.6g} from {now:.6g} to {rate:g} req/s"
        return replace(self, arrival=self.arrival * factor, provenance=self.provenance.transformed(note))

    def closed_loop(self, concurrency: int) -> RequestTable:
        """The same requests in the same order, ``concurrency`` in flight at any time: arrival times are dropped."""
        note = f"replaced arrival times by a closed loop of {concurrency} requests in flight"
        return replace(
            self,
            arrival=np.zeros(len(self)),
            closed_loop_concurrency=concurrency,
            provenance=self.provenance.transformed(note),
        )

    @property
    def span(self) -> float:
        """Time from the first to the last arrival [s]."""
        return float(self.arrival[-1] - self.arrival[0]) if len(self) else 0.0

    @property
    def rate(self) -> float:
        """Mean arrival rate [req/s]: gaps over span; NaN where the requests span no time."""
        return (len(self) - 1) / self.span if self.span > 0 else math.nan

    def statistics(self) -> dict[str, float]:
        """Count, span [s], rate [req/s], CV of the gaps, and mean, median, p90, p99, max of both lengths [tokens].

        The CV is the standard deviation of the inter-arrival times over their mean (1 for Poisson arrivals).
        """
        gaps = np.diff(self.arrival)
        cv = float(gaps.std() / gaps.mean()) if self.span > 0 else math.nan
        result = {"count": len(self), "duration_s": self.span, "rate": self.rate, "arrival_cv": cv}
        for column in ("input_tokens", "output_tokens"):
            values = getattr(self, column)
            if not len(values):
                values = np.array([math.nan])
            median, p90, p99 = np.percentile(values, [50, 90, 99])
            result |= {
                f"{column}_mean": float(values.mean()),
                f"{column}_median": float(median),
                f"{column}_p90": float(p90),
                f"{column}_p99": float(p99),
                f"{column}_max": float(values.max()),
            }
        return result

    def to_frame(self) -> pd.DataFrame:
        """The columns that are present, as a frame; prefix blocks as their number per request."""
        import pandas as pd

        columns = {c: getattr(self, c) for c in _COLUMN_TYPES if getattr(self, c) is not None}
        if self.prefix_blocks is not None:
            columns["num_prefix_blocks"] = np.diff(self.prefix_blocks.offsets)
        return pd.DataFrame(columns)

    def _keep(self, rows: IntArray, reason: str) -> RequestTable:
        """The given rows (ascending), with parents pointing to their new places."""
        columns = {c: getattr(self, c)[rows] for c in _COLUMN_TYPES if getattr(self, c) is not None}
        if self.parent is not None:
            place = np.full(len(self) + 1, -1, dtype=np.int32)  # the extra last entry serves parent == -1
            place[rows] = np.arange(len(rows), dtype=np.int32)
            columns["parent"] = place[columns["parent"]]
        blocks = None if self.prefix_blocks is None else self.prefix_blocks.take(rows)
        return replace(self, **columns, prefix_blocks=blocks, provenance=self.provenance.kept(len(rows), reason))


def _as_column(name: str, values: Any, kind: type[np.generic]) -> NDArray[Any]:
    """``values`` as a one-dimensional array of ``kind``; refuses numbers that do not fit instead of wrapping them."""
    array = np.asarray(values)
    if array.ndim != 1:
        raise RequestTableError(f"{name}: a column has one dimension, not {array.ndim}")
    if np.issubdtype(kind, np.integer) and array.size and array.dtype != kind:
        limits = np.iinfo(kind)  # type: ignore[type-var]
        if array.min() < limits.min or array.max() > limits.max:
            raise RequestTableError(f"{name}: values beyond {limits.max} do not fit; check the unit of the source")
    return array.astype(kind, copy=False)


def _problems(table: RequestTable) -> list[Issue]:
    """Everything that is wrong with the columns."""
    found: list[Issue] = []

    def check(column: str, bad: NDArray[np.bool_], what: str) -> None:
        if bad.any():
            row = int(np.argmax(bad))
            value = getattr(table, column)[row]
            found.append(Issue("", 0, 0, column, f"{what} in {int(bad.sum())} rows, first in row {row}: {value}"))

    size = len(table.arrival)
    for f in fields(table):
        values = getattr(table, f.name)
        if (f.name in _COLUMN_TYPES or f.name == "prefix_blocks") and values is not None and len(values) != size:
            found.append(Issue("", 0, 0, f.name, f"{len(values)} rows, but arrival has {size}"))
    if found:
        return found
    check("arrival", ~np.isfinite(table.arrival), "not a finite time")
    check("arrival", table.arrival < 0, "negative time")
    check("arrival", np.concatenate(([False], np.diff(table.arrival) < 0)), "time before that of the row above")
    check("input_tokens", table.input_tokens < 1, "fewer than one token")
    check("output_tokens", table.output_tokens < 1, "fewer than one token")
    if table.think_time is not None:
        check("think_time", table.think_time < 0, "negative time")
    if table.parent is not None:
        check("parent", (table.parent < -1) | (table.parent >= np.arange(size)), "no earlier row")
    if table.closed_loop_concurrency is not None and table.closed_loop_concurrency < 1:
        found.append(Issue("", 0, 0, "closed_loop_concurrency", "a closed loop needs at least one request in flight"))
    return found
