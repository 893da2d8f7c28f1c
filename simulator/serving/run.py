"""What a served request list gave: columns per request, usage per replica, gaps between tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from simulator.serving.limits import EngineLimits
from simulator.serving.usage import ReplicaUsage

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["REJECTIONS", "ServingRun"]

REJECTIONS = ("", "longer than max_model_len", "longer than the KV cache", "prompt longer than the token budget")
"""Reasons of rejection; a request's ``rejected`` is an index into it, 0 = accepted."""

_COLUMNS = (
    "arrival", "scheduled", "first_token", "finish", "input_tokens", "output_tokens", "preemptions", "replica",
    "rejected", "cached_tokens",
)  # fmt: skip


@dataclass(frozen=True)
class ServingRun:
    """Outcome of a deployment.

    Attributes
    ----------
    arrival, scheduled, first_token, finish
        Times of every request [s]; NaN for what has not happened (rejected, or cut off by the end of the run).
        ``arrival`` is the time of release in a closed loop.
    input_tokens, output_tokens, preemptions
        int64 per request.
    replica
        Number of the replica, -1 where none.
    rejected
        Index into ``reasons``.
    cached_tokens
        Prompt tokens that the prefix cache had, over all admissions of the request.
    reasons
        :data:`REJECTIONS`, and those of the admission policy.
    gaps
        float64 [n, 4]: gaps between consecutive tokens of a request as (first [s], slope [s], iterations, requests):
        gap i of a row is first + slope·i and is seen by that many requests.
    replicas
        Usage of every replica.
    limits
        Sizes the engines ran with.
    """

    arrival: NDArray[np.float64]
    scheduled: NDArray[np.float64]
    first_token: NDArray[np.float64]
    finish: NDArray[np.float64]
    input_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    preemptions: NDArray[np.int64]
    replica: NDArray[np.int64]
    rejected: NDArray[np.int64]
    gaps: NDArray[np.float64]
    replicas: tuple[ReplicaUsage, ...]
    limits: EngineLimits
    cached_tokens: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    reasons: tuple[str, ...] = REJECTIONS

    def __len__(self) -> int:
        return len(self.arrival)

    @property
    def completed(self) -> NDArray[np.bool_]:
        """Requests that got all their tokens."""
        return ~np.isnan(self.finish)

    @property
    def ttft(self) -> NDArray[np.float64]:
        """Time to first token [s]."""
        return self.first_token - self.arrival

    @property
    def e2e(self) -> NDArray[np.float64]:
        """End-to-end latency [s]."""
        return self.finish - self.arrival

    @property
    def tpot(self) -> NDArray[np.float64]:
        """(e2e − ttft) / (output_tokens − 1) [s]; NaN for requests of a single token."""
        steps = np.where(self.output_tokens > 1, self.output_tokens - 1.0, np.nan)
        return (self.finish - self.first_token) / steps

    @property
    def queueing(self) -> NDArray[np.float64]:
        """Arrival to first being in a batch [s]."""
        return self.scheduled - self.arrival

    @property
    def iterations(self) -> int:
        """Iterations of all replicas."""
        return sum(r.iterations for r in self.replicas)

    def rejections(self) -> dict[str, int]:
        """Number of rejected requests by reason."""
        counts = np.bincount(self.rejected, minlength=len(self.reasons))
        return {reason: int(n) for reason, n in zip(self.reasons[1:], counts[1:], strict=True) if n}

    def to_frame(self) -> pd.DataFrame:
        """One row per request."""
        import pandas as pd

        return pd.DataFrame({name: getattr(self, name) for name in _COLUMNS})

    def history(self) -> pd.DataFrame:
        """Sampled state over time: replica, time [s], waiting, running, kv_blocks."""
        import pandas as pd

        rows: list[tuple[Any, ...]] = [(r.index, *sample) for r in self.replicas for sample in r.samples]
        return pd.DataFrame(rows, columns=["replica", "time", "waiting", "running", "kv_blocks"])
