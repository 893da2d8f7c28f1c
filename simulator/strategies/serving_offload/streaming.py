"""Weights that a device fetches again in every iteration: how long a stage waits for them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from simulator.strategies.sparsity.weights import union_density

__all__ = ["RESIDENT", "NeuronStream", "WeightStream"]


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
    cache, cache_rate
        Share of the keys and values in device memory; the rest is read from the host in every iteration at this
        rate [B/s].
    """

    seconds: tuple[float, ...] = ()
    overlaps: bool = True
    traffic: Mapping[str, float] = field(default_factory=dict, hash=False)
    resident: float = 1.0
    buffered: tuple[float, ...] = ()
    cache: float = 1.0
    cache_rate: float = math.inf

    def taken(self, stage: int, tokens: int) -> float:
        """Transfer time of an iteration over so many tokens [s]."""
        return self.seconds[stage] if self.seconds else 0.0

    def hidden(self, stage: int, tokens: int = 1) -> float:
        """Seconds that compute can hide: the stage takes at least this long."""
        return self.taken(stage, tokens) if self.overlaps else 0.0

    def exposed(self, stage: int, tokens: int = 1) -> float:
        """Seconds that add to the compute."""
        return 0.0 if self.overlaps else self.taken(stage, tokens)


@dataclass(frozen=True)
class NeuronStream(WeightStream):
    """Neurons outside device memory, of which an iteration uses those that any of its tokens activates.

    Attributes
    ----------
    cold
        Bytes of the neurons outside, per pipeline stage [B].
    active
        Share of them that one token uses.
    rate
        At which they are read: computed on the host beside the device, or loaded [B/s].
    fixed
        Added per iteration and stage [s].
    """

    cold: tuple[float, ...] = ()
    active: float = 1.0
    rate: float = math.inf
    fixed: tuple[float, ...] = ()

    def taken(self, stage: int, tokens: int) -> float:
        """The union over the tokens, at the rate of the memory they are in [s]."""
        return self.cold[stage] * union_density(self.active, tokens) / self.rate

    def exposed(self, stage: int, tokens: int = 1) -> float:
        """What no compute hides, and the joining of both sides' results [s]."""
        return super().exposed(stage, tokens) + (self.fixed[stage] if self.fixed else 0.0)


RESIDENT = WeightStream()
"""All weights stay in device memory."""
