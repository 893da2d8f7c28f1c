"""Autoscalers that follow what is there: the Kubernetes rule, and scaling to zero."""

from __future__ import annotations

import math
from collections import deque

from simulator.errors import ConfigError
from simulator.registry import register
from simulator.strategies.autoscaling.base import FleetView

__all__ = ["HorizontalPodAutoscaler", "ScaleToZero"]


@register(
    "hpa",
    kind="policy",
    area="serving",
    family="autoscaling",
    cites=("Kubernetes documentation, Horizontal Pod Autoscaling, algorithm details",),
    validated_by="closed_form",
)
class HorizontalPodAutoscaler:
    """desired = ⌈ready · metric / target⌉ on requests per instance, with tolerance and a slow way down.

    Parameters
    ----------
    target
        Requests that wait or run, per instance.
    minimum, maximum
        Instances.
    tolerance
        No change while metric / target is this close to 1 (0.1 in Kubernetes).
    stabilization
        Downwards the largest of the recommendations of this long counts [s] (300 in Kubernetes).
    """

    name: str

    def __init__(
        self, target: float = 1.0, minimum: int = 1, maximum: int = 1 << 30, tolerance: float = 0.1,
        stabilization: float = 300.0,
    ) -> None:  # fmt: skip
        if target <= 0.0 or not 1 <= minimum <= maximum:
            raise ConfigError(f"hpa needs a target above 0 and 1 ≤ minimum ≤ maximum: {target}, {minimum}, {maximum}")
        self.target, self.minimum, self.maximum = target, minimum, maximum
        self.tolerance, self.stabilization = tolerance, stabilization
        self._past: deque[tuple[float, int]] = deque()

    def recommendation(self, ready: int, metric: float) -> int:
        """The rule alone: ``metric`` is the mean per ready instance."""
        ratio = metric / self.target
        return ready if abs(ratio - 1.0) <= self.tolerance else math.ceil(ready * ratio - 1e-9)

    def desired(self, view: FleetView, now: float) -> int:
        """The largest recommendation of the stabilisation window, within the limits."""
        current = view.ready + view.starting
        wanted = current
        if view.ready:
            wanted = self.recommendation(view.ready, view.outstanding / view.ready)
            if wanted == view.ready:
                wanted = current
        self._past.append((now, wanted))
        while self._past[0][0] < now - self.stabilization:
            self._past.popleft()
        highest = max(number for _, number in self._past)
        # Upwards the newest counts, downwards the highest.
        wanted = wanted if wanted >= current else min(current, highest)
        return max(self.minimum, min(self.maximum, wanted))

    def bursts(self, view: FleetView, now: float) -> bool:
        """Never."""
        return False


@register(
    "scale-to-zero",
    kind="policy",
    area="serving",
    family="autoscaling",
    cites=("Knative documentation, autoscaling: concurrency target and scale to zero",),
    validated_by="closed_form",
)
class ScaleToZero:
    """As many instances as the requests need at ``target`` each; none once nothing has come for ``patience`` [s]."""

    name: str

    def __init__(self, target: float = 1.0, patience: float = 60.0, maximum: int = 1 << 30) -> None:
        if target <= 0.0 or patience < 0.0 or maximum < 1:
            raise ConfigError(
                f"scale-to-zero needs target > 0, patience ≥ 0, maximum ≥ 1: {target}, {patience}, {maximum}"
            )
        self.target, self.patience, self.maximum = target, patience, maximum

    def desired(self, view: FleetView, now: float) -> int:
        """What the outstanding requests need; all stay until the patience is over."""
        needed = min(self.maximum, math.ceil(view.outstanding / self.target))
        return needed if view.idle >= self.patience else max(needed, view.ready + view.starting)

    def bursts(self, view: FleetView, now: float) -> bool:
        """Never."""
        return False
