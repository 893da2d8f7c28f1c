"""What a deployment writes down: a row per request and every gap between tokens, or sketches of both."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Literal

from simulator.serving.limits import EngineLimits
from simulator.serving.replica import Replica
from simulator.serving.rows import RequestRows
from simulator.serving.run import ServingRun
from simulator.serving.summary import ServingSummary, SummaryRows, add_segments
from simulator.serving.token_gaps import gap_rows
from simulator.workload.jobs import ServiceLevel
from simulator.workload.requests.table import RequestTable

__all__ = ["ServingBooks"]


class ServingBooks:
    """Rows of requests, and the gaps that its replicas have recorded.

    Parameters
    ----------
    requests, block_size
        What is served; tokens of a block of cached prefixes, 0 without.
    record, slo
        As of :class:`~simulator.serving.deployment.DeploymentProcess`.

    Attributes
    ----------
    elsewhere
        Gaps between tokens that came from none of the replicas.
    """

    def __init__(
        self, requests: RequestTable, block_size: int, record: Literal["full", "summary"], slo: ServiceLevel | None
    ) -> None:
        self.rows: RequestRows | SummaryRows = (
            SummaryRows(requests, block_size, slo) if record == "summary" else RequestRows(requests, block_size)
        )
        self.elsewhere = array("d")

    def take_stock(self, replicas: Sequence[Replica]) -> None:
        """Gaps between tokens enter their sketch where no rows are kept."""
        if isinstance(self.rows, SummaryRows):
            columns = self._gaps(replicas)
            add_segments(self.rows.sketches["itl"], gap_rows(columns))
            for gaps in columns:
                del gaps[:]

    def summary(self, replicas: Sequence[Replica]) -> ServingSummary:
        """What has happened to the requests so far, of books without rows; gaps as of the last stock-taking."""
        if not isinstance(self.rows, SummaryRows):
            raise ValueError("a deployment that records rows gives a result(), not a summary()")
        return self.rows.summary(tuple(r.usage for r in replicas))

    def result(self, replicas: Sequence[Replica], limits: EngineLimits) -> ServingRun:
        """What has happened to every request so far."""
        if isinstance(self.rows, SummaryRows):
            raise ValueError("a deployment that records a summary has no rows; ask for its summary()")
        usages = tuple(r.usage for r in replicas)
        return ServingRun(**self.rows.columns(), gaps=gap_rows(self._gaps(replicas)), replicas=usages, limits=limits)

    def _gaps(self, replicas: Sequence[Replica]) -> list[array[float]]:
        return [self.elsewhere, *(replica.gaps for replica in replicas)]
