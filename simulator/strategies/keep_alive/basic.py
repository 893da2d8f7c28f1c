"""Keep-alive of containers: a fixed time, and a time learned from the gaps between calls."""

from __future__ import annotations

import math

from simulator.errors import ConfigError
from simulator.registry import register

__all__ = ["FixedKeepAlive", "HistogramKeepAlive"]


@register(
    "fixed", kind="policy", area="cluster", family="keep_alive",
    cites=("Shahrad et al. 2020, Serverless in the Wild, USENIX ATC 2020",), catalogue=("CNC brain: FaaS layer",),
    validated_by="closed_form",
)  # fmt: skip
class FixedKeepAlive:
    """The same time for all; 0: scaled to zero after every call.

    Parameters
    ----------
    seconds
        [s]; infinity keeps every container.
    """

    name: str

    def __init__(self, seconds: float = 600.0) -> None:
        if not seconds >= 0:
            raise ConfigError(f"a keep-alive is a time from 0 s on, not {seconds}")
        self.seconds = seconds

    def arrived(self, key: int, idle: float | None) -> None:
        """Nothing is learned."""

    def window(self, key: int) -> float:
        """The fixed time."""
        return self.seconds


@register(
    "histogram", kind="policy", area="cluster", family="keep_alive",
    cites=("Shahrad et al. 2020, Serverless in the Wild, USENIX ATC 2020",),
    catalogue=("CNC brain: FaaS layer",), validated_by="closed_form",
)  # fmt: skip
class HistogramKeepAlive:
    """Per function, the 99th percentile of the gaps seen so far in bins of a minute, at most four hours.

    The part of the hybrid histogram policy that keeps; its other part, which unloads at once and loads again before
    the next call, is not modelled. Before ``least`` gaps were seen, ``seconds`` hold.

    Parameters
    ----------
    seconds
        While too little is known [s].
    percentile
        Of the gaps.
    least
        Gaps from which on the histogram is trusted.
    """

    name: str
    BIN, LONGEST = 60.0, 4 * 3600.0

    def __init__(self, seconds: float = 600.0, percentile: float = 99.0, least: int = 10) -> None:
        if not (seconds >= 0 and 0 < percentile <= 100):
            raise ConfigError(f"needs a time from 0 s on and a percentile up to 100, have {seconds} and {percentile}")
        self.seconds, self.percentile, self.least = seconds, percentile, least
        self._bins: dict[int, dict[int, int]] = {}
        self._seen: dict[int, int] = {}

    def arrived(self, key: int, idle: float | None) -> None:
        """Count the gap; one that outlived the container is at least as long as it stayed."""
        gap = self.window(key) if idle is None else idle
        bins = self._bins.setdefault(key, {})
        number = min(math.floor(gap / self.BIN), math.ceil(self.LONGEST / self.BIN)) if math.isfinite(gap) else 0
        bins[number] = bins.get(number, 0) + 1
        self._seen[key] = self._seen.get(key, 0) + 1

    def window(self, key: int) -> float:
        """Up to the end of the bin that holds the percentile."""
        seen = self._seen.get(key, 0)
        if seen < self.least:
            return self.seconds
        wanted, below = self.percentile / 100 * seen, 0
        for number in sorted(self._bins[key]):
            below += self._bins[key][number]
            if below >= wanted - 1e-9:
                return min((number + 1) * self.BIN, self.LONGEST)
        return self.LONGEST
