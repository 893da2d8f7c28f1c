"""The seam of replanning: a plan for the machines that are there, and what a change of it keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Layout", "Replanner"]


@dataclass(frozen=True)
class Layout:
    """A parallel plan of a whole fleet: D pipelines of P stages of M tensor-parallel ranks.

    Attributes
    ----------
    throughput, latency
        Of the fleet [requests/s], of a request [s].
    """

    data: int
    pipeline: int
    tensor: int
    throughput: float = 0.0
    latency: float = 0.0

    @property
    def accelerators(self) -> int:
        """D · P · M."""
        return self.data * self.pipeline * self.tensor

    @property
    def shape(self) -> tuple[int, int]:
        """(P, M): equal ones differ in the number of pipelines alone."""
        return self.pipeline, self.tensor

    def position(self, rank: int) -> tuple[int, int, int]:
        """(pipeline, stage, shard) of a rank; shards are numbered first."""
        rest, shard = divmod(rank, self.tensor)
        return (*divmod(rest, self.pipeline), shard)

    def __str__(self) -> str:
        return f"{self.data} × (pipeline {self.pipeline} × tensor {self.tensor})"


class Replanner(Protocol):
    """Chooses the plan of a fleet, and says what becomes of the old one."""

    name: str
    carries: bool
    """Whether weights, keys and values that accelerators hold go to where the new plan needs them, and requests go on;
    else weights are loaded anew and requests begin again."""
    spares: bool
    """Whether pipelines that lose nothing serve on during a change."""

    def choose(self, layouts: Sequence[Layout], rate: float, current: Layout | None) -> Layout | None:
        """One of the layouts that fit the machines, for ``rate`` [requests/s]; ``None``: there is none."""
