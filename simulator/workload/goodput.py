"""Goodput of an elastic training job: throughput times statistical efficiency, for any number of accelerators.

The model is Pollux's (Qiao et al., OSDI 2021; ``adaptdl/goodput.py`` of petuum/adaptdl at 084518b8), which Sia
(Jayaram Subramanya et al., SOSP 2023) uses as well. It is written in units of the job as it was asked for: its gang,
its batch M0, and the time of computing one gradient. So a table of jobs that knows run times and gang sizes only
becomes elastic with a handful of ratios.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from simulator.errors import ConfigError

__all__ = ["Goodput"]

_BATCHES = 50
"""Batch sizes that are tried between M0 and the largest, equally spaced on a logarithmic axis, as Pollux does."""


@dataclass(frozen=True)
class Goodput:
    """How a job goes faster or slower with other than the accelerators it asked for.

    Attributes
    ----------
    noise_scale
        Gradient noise scale φ over M0: efficiency(M) = (φ + M0) / (φ + M). Large: big batches lose nothing.
    synchronisation
        Time of exchanging gradients between nodes over the time of computing them, in the gang asked for.
    inside_node
        The same when the whole gang is in one node.
    retrogression
        Growth of that time per accelerator beyond the second.
    fixed
        Share of the gradient's time that does not shrink with the batch of one accelerator.
    overlap
        γ of (T_gradient^γ + T_exchange^γ)^(1/γ): 1 = none, 10 = nearly all.
    largest_batch
        Over M0.
    smallest, largest
        Accelerators over those asked for.

    Raises
    ------
    ConfigError
        If a ratio is out of range.
    """

    noise_scale: float
    synchronisation: float
    inside_node: float = 0.0
    retrogression: float = 0.0
    fixed: float = 0.0
    overlap: float = 1.0
    largest_batch: float = 16.0
    smallest: float = 0.0
    largest: float = 16.0

    def __post_init__(self) -> None:
        least = (self.noise_scale, self.synchronisation, self.inside_node, self.retrogression, self.fixed)
        if min(*least, self.smallest) < 0 or self.fixed > 1:
            raise ConfigError("elastic jobs: ratios must be at least 0, and 'fixed' at most 1")
        if self.overlap < 1 or self.largest_batch < 1 or self.largest < 1 or self.smallest > 1:
            raise ConfigError(
                "elastic jobs: overlap, largest_batch and largest must be at least 1, smallest at most 1; have "
                f"{self.overlap:g}, {self.largest_batch:g}, {self.largest:g}, {self.smallest:g}"
            )

    def step(self, accelerators: int, asked: int, batch: float, nodes: int) -> float:
        """Time of a step of ``batch`` · M0 over that of computing a gradient in the gang asked for."""
        gradient = self.fixed + (1.0 - self.fixed) * batch * asked / accelerators
        exchange = 0.0
        if accelerators > 1:
            exchange = self.inside_node if nodes == 1 else self.synchronisation
            grown = (1.0 + self.retrogression * (n - 2) for n in (accelerators, max(2, asked)))
            exchange *= next(grown) / next(grown)
        if not exchange:
            return gradient
        return float((gradient**self.overlap + exchange**self.overlap) ** (1.0 / self.overlap))

    def efficiency(self, batch: float) -> float:
        """Progress per sample with ``batch`` · M0 over that with M0."""
        if math.isinf(self.noise_scale):
            return 1.0
        return (self.noise_scale + 1.0) / (self.noise_scale + batch)

    def rate(self, accelerators: int, asked: int, per_node: int) -> float:
        """Progress per time with the best batch, in M0 per time of a gradient."""
        nodes = -(-accelerators // per_node)
        return _best(self, accelerators, asked, nodes)

    def speed(self, accelerators: int, asked: int, per_node: int) -> float:
        """Progress over that of the gang asked for with M0, whose run time the job table gives."""
        base = 1.0 / self.step(asked, asked, 1.0, -(-asked // per_node))
        return self.rate(accelerators, asked, per_node) / base

    def sizes(self, asked: int) -> tuple[int, int]:
        """Fewest and most accelerators the job may have."""
        return max(1, math.ceil(self.smallest * asked - 1e-9)), max(1, math.floor(self.largest * asked + 1e-9))


@lru_cache(maxsize=65536)
def _best(model: Goodput, accelerators: int, asked: int, nodes: int) -> float:
    growth = model.largest_batch ** (1.0 / (_BATCHES - 1))
    batches = {growth**i for i in range(_BATCHES)}
    return float(max(b * model.efficiency(b) / model.step(accelerators, asked, b, nodes) for b in batches))
