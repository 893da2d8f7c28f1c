"""Weights that a device fetches again in every iteration: how long a stage waits for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["RESIDENT", "WeightStream"]


@dataclass(frozen=True)
class WeightStream:
    """Streamed weights of one replica.

    Attributes
    ----------
    seconds
        Transfer time of an iteration, per pipeline stage [s]; empty where all weights are resident.
    overlaps
        Whether the next layer's weights arrive while a layer computes; otherwise transfers add to the compute.
    traffic
        Bytes fetched per iteration by link class, over one rank of each stage together.
    resident
        Share of the layers' weights that stays in device memory.
    buffered
        Weight bytes in flight that device memory has to hold per stage [B].
    """

    seconds: tuple[float, ...] = ()
    overlaps: bool = True
    traffic: Mapping[str, float] = field(default_factory=dict, hash=False)
    resident: float = 1.0
    buffered: tuple[float, ...] = ()

    def hidden(self, stage: int) -> float:
        """Seconds that compute can hide: the stage takes at least this long."""
        return self.seconds[stage] if self.seconds and self.overlaps else 0.0

    def exposed(self, stage: int) -> float:
        """Seconds that add to the compute."""
        return self.seconds[stage] if self.seconds and not self.overlaps else 0.0


RESIDENT = WeightStream()
"""All weights stay in device memory."""
