"""Autoscalers that look at prices and forecasts: MArk, Cocktail."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations

from simulator.errors import ConfigError
from simulator.registry import register
from simulator.strategies.autoscaling.base import FleetView
from simulator.strategies.model_scheduling.base import ModelProfile

__all__ = ["Cocktail", "Mark", "majority_accuracy"]


@register(
    "mark",
    kind="policy",
    area="serving",
    family="autoscaling",
    cites=("Zhang et al. 2019 (MArk), USENIX ATC 2019",),
    catalogue=("MArk",),
    validated_by="closed_form",
)
class Mark:
    """Instances for the rate forecast at the time they would be ready; who would wait too long goes to a function.

    Parameters
    ----------
    utilization
        Load to plan an instance for.
    slo
        A request goes to a function where the queue alone would take longer [s].
    forecast
        Arrivals per second at a time [s]; by default the line through the last two observations (the paper: an LSTM).
    """

    name: str

    def __init__(
        self, utilization: float = 0.8, slo: float = math.inf, forecast: Callable[[float], float] | None = None
    ) -> None:
        if not 0.0 < utilization <= 1.0 or slo < 0.0:
            raise ConfigError(f"mark needs a utilization in (0, 1] and an slo from 0 on: {utilization}, {slo}")
        self.utilization, self.slo, self.forecast = utilization, slo, forecast
        self._last: tuple[float, float] | None = None

    def desired(self, view: FleetView, now: float) -> int:
        """For the higher of the rate now and when an order would be ready; at least one."""
        ahead = now + view.lead
        if self.forecast is not None:
            rate = max(self.forecast(now), self.forecast(ahead))
        else:
            slope = 0.0
            # With no instance at all it is asked out of turn: such a short time says nothing of a trend.
            if view.ready + view.starting:
                if self._last is not None and now > self._last[0]:
                    slope = (view.rate - self._last[1]) / (now - self._last[0])
                self._last = now, view.rate
            rate = max(view.rate, view.rate + slope * view.lead)
        return max(1, math.ceil(rate * view.service / self.utilization - 1e-9))

    def bursts(self, view: FleetView, now: float) -> bool:
        """Whether those before it keep all ready instances busy for longer than the SLO leaves."""
        if not view.ready:
            return self.slo < math.inf
        waves = view.outstanding // view.ready
        return (waves + 1) * view.service > self.slo


def majority_accuracy(accuracies: Sequence[float]) -> float:
    """Probability that a strict majority of independent voters is right, ties decided by a coin (Condorcet)."""
    right = [1.0]
    for accuracy in accuracies:
        right = [
            (right[k] * (1.0 - accuracy) if k < len(right) else 0.0) + (right[k - 1] * accuracy if k else 0.0)
            for k in range(len(right) + 1)
        ]
    half = len(accuracies) / 2.0
    return sum(p * (1.0 if k > half else 0.5 if k == half else 0.0) for k, p in enumerate(right))


@register(
    "cocktail",
    kind="policy",
    area="serving",
    family="autoscaling",
    cites=("Gunasekaran et al. 2022 (Cocktail), NSDI 2022",),
    catalogue=("Cocktail",),
    validated_by="closed_form",
)
class Cocktail(Mark):
    """The cheapest majority-vote ensemble that reaches an accuracy, each member scaled by its share of the requests.

    Votes are taken as independent, which is optimistic: models err on the same inputs. A member whose instances are
    taken away leaves the vote to the others (:func:`majority_accuracy` of those left). Each member's fleet scales as by
    ``mark``, for its share of the rate.

    Parameters
    ----------
    importance
        Share of the requests that this member of the ensemble takes part in.
    """

    def __init__(
        self, importance: float = 1.0, utilization: float = 0.8, forecast: Callable[[float], float] | None = None
    ) -> None:
        super().__init__(utilization, math.inf, forecast)
        if not 0.0 < importance <= 1.0:
            raise ConfigError(f"an importance is a share above 0 and up to 1, not {importance}")
        self.importance = importance

    def desired(self, view: FleetView, now: float) -> int:
        """Instances for this member's share of the requests."""
        return super().desired(view._replace(service=view.service * self.importance), now)

    @staticmethod
    def ensemble(models: Sequence[ModelProfile], accuracy: float, latency: float = math.inf) -> tuple[int, ...]:
        """Indices of the cheapest models that together reach ``accuracy``, each within ``latency`` [s]; empty: none."""
        usable = [i for i, m in enumerate(models) if m.latency(1) <= latency]
        found = [
            (sum(models[i].cost for i in chosen), len(chosen), chosen)
            for size in range(1, len(usable) + 1)
            for chosen in combinations(usable, size)
            if majority_accuracy([models[i].accuracy for i in chosen]) >= accuracy
        ]
        return min(found)[2] if found else ()
