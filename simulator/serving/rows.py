"""The columns of a serving run while it goes on: one row per request, filled as things happen."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.serving.arrivals import ColumnWindow
from simulator.serving.run import REJECTIONS
from simulator.strategies.protocols import RequestState
from simulator.workload.requests.table import RequestTable

__all__ = ["RequestRows", "RequestSource"]


class RequestSource:
    """Makes the state of a request of the table when it arrives.

    Parameters
    ----------
    table
        The requests.
    block_size
        KV block of the engine where prefixes are cached, else 0 [tokens].
    """

    def __init__(self, table: RequestTable, block_size: int = 0) -> None:
        self._inputs = ColumnWindow(table.input_tokens)
        self._outputs = ColumnWindow(table.output_tokens)
        extra = (table.priority, table.client, table.session)
        self._extra = [None if c is None else ColumnWindow(c) for c in extra]
        self._plain = all(c is None for c in extra)
        self._blocks = table.prefix_blocks if block_size else None
        self._block_tokens = table.prefix_block_tokens
        self.reasons = list(REJECTIONS)
        """Why requests are rejected, by number."""

    def state(self, row: int, now: float) -> RequestState:
        """The request of ``row``, which arrives ``now``."""
        request = RequestState(row, now, self._inputs[row], self._outputs[row])
        if not self._plain:
            priority, client, session = (None if c is None else c[row] for c in self._extra)
            request.priority = priority or 0
            request.client = client or 0
            request.session = -1 if session is None else session
        if self._blocks is not None:
            request.prefix = self._prefix(row)
        return request

    def _prefix(self, row: int) -> tuple[list[int], list[int]]:
        """Ids of the prompt's blocks and the tokens up to the end of each; the last ends with the prompt at most."""
        blocks = self._blocks
        assert blocks is not None
        ids = blocks[row].tolist()
        if blocks.tokens is None:
            size = self._block_tokens
            ends = list(range(size, size * len(ids) + 1, size))
        else:
            ends = list(accumulate(blocks.tokens[blocks.offsets[row] : blocks.offsets[row + 1]].tolist()))
        # A prompt's own last block is usually begun only: its id stands for what there is of it.
        length: int = self._inputs[row]
        return ids, [min(end, length) for end in ends]

    def reason(self, text: str) -> int:
        """Number of a reason for rejection."""
        if text not in self.reasons:
            self.reasons.append(text)
        return self.reasons.index(text)


class RequestRows(RequestSource):
    """One row per request, filled as things happen.

    Parameters
    ----------
    table, block_size
        As of :class:`RequestSource`.
    """

    def __init__(self, table: RequestTable, block_size: int = 0) -> None:
        super().__init__(table, block_size)
        size = len(table)
        self._table = table
        nan = array("d", [math.nan])
        self._arrival, self._scheduled, self._first, self._finish = nan * size, nan * size, nan * size, nan * size
        self._preemptions, self._replica = array("q", [0]) * size, array("q", [-1]) * size
        self._rejected = bytearray(size)
        self._cached = array("q", [0]) * size
        self._live: dict[int, RequestState] = {}

    def state(self, row: int, now: float) -> RequestState:
        """The request of ``row``, which arrives ``now``."""
        request = super().state(row, now)
        self._arrival[row] = now
        self._live[row] = request
        return request

    def reject(self, row: int, now: float, reason: int) -> None:
        """Request ``row`` is refused for the reason of that number."""
        self._rejected[row] = reason
        del self._live[row]

    def finish(self, request: RequestState, now: float) -> None:
        """``request`` has all its tokens."""
        row = request.index
        self._finish[row] = now
        self._note(request)
        del self._live[row]

    def _note(self, request: RequestState) -> None:
        row = request.index
        if request.scheduled >= 0.0:
            self._scheduled[row] = request.scheduled
        if request.first_token >= 0.0:
            self._first[row] = request.first_token
        self._preemptions[row] = request.preemptions
        self._replica[row] = request.replica
        self._cached[row] = request.cached_tokens

    def finish_many(self, ended: NDArray[np.float64]) -> None:
        """Rows of ``(number, arrival, scheduled, first token, finish [s], input, output, preemptions, replica)``."""
        row = ended[:, 0].astype(np.int64)
        times = (self._arrival, self._scheduled, self._first, self._finish)
        for column, place in zip(times, (1, 2, 3, 4), strict=True):
            np.frombuffer(column)[row] = ended[:, place]
        np.frombuffer(self._preemptions, dtype=np.int64)[row] = ended[:, 7].astype(np.int64)
        np.frombuffer(self._replica, dtype=np.int64)[row] = ended[:, 8].astype(np.int64)

    def adopt(self, live: Sequence[RequestState], arrived: int, rejected: bytes) -> None:
        """The first ``arrived`` rows have come, were refused for these reasons or ended, and ``live`` are left."""
        np.frombuffer(self._arrival)[:arrived] = self._table.arrival[:arrived]
        self._rejected[:arrived] = rejected[:arrived]
        self._live = {request.index: request for request in live}

    def columns(self) -> dict[str, Any]:
        """The columns of :class:`~simulator.serving.run.ServingRun`."""
        for request in self._live.values():
            self._note(request)
        return {
            "arrival": np.array(self._arrival),
            "scheduled": np.array(self._scheduled),
            "first_token": np.array(self._first),
            "finish": np.array(self._finish),
            "input_tokens": self._table.input_tokens.astype(np.int64),
            "output_tokens": self._table.output_tokens.astype(np.int64),
            "preemptions": np.array(self._preemptions),
            "replica": np.array(self._replica),
            "cached_tokens": np.array(self._cached),
            "reasons": tuple(self.reasons),
            "rejected": np.frombuffer(bytes(self._rejected), dtype=np.uint8).astype(np.int64),
        }
