"""Clocks behind a feeder: the same for all, by urgency, or the same watts for every device."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from simulator.registry import Claim, register
from simulator.strategies.power_protocols import FeederView, Levels

__all__ = ["EqualWatts", "ServingLast", "Uniform"]

POLCA = "Patel et al. 2024, POLCA, ASPLOS 2024, arXiv 2308.12908"


def _largest(low: int, high: int, keeps: Callable[[int], bool]) -> int:
    """The largest whole number of ``low .. high`` that keeps the limit, ``low`` where none does."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if keeps(middle) else (low, middle - 1)
    return low


@register("uniform", kind="policy", area="cluster", family="power_sharing", validated_by="closed_form")
class Uniform:
    """All devices behind the feeder get the same clock."""

    name: str

    def levels(self, view: FeederView) -> Levels:
        """The highest common clock that keeps the limit."""
        top = int(view.highest.max(initial=view.lowest))
        common = _largest(view.lowest, top, lambda level: view.draw(np.minimum(view.highest, level)) <= view.limit)
        return np.minimum(view.highest, common)


@register(
    "serving-last", kind="policy", area="cluster", family="power_sharing", cites=(POLCA,), validated_by="ratio",
    claims=(
        Claim(
            "inference leaves room to oversubscribe the power of a row by 30 % with little loss, training does not",
            "arXiv 2308.12908, abstract: 30 % more servers in the same cluster for inference, simulated",
        ),
    ),
)  # fmt: skip
class ServingLast:
    """Clocks of the least urgent work fall first, those of deployments only when that is not enough."""

    name: str

    def levels(self, view: FeederView) -> Levels:
        """One group of equal urgency after the other, down to the lowest clock."""
        found = view.highest.copy()
        for urgency in np.unique(view.urgency).tolist():
            group = view.urgency == urgency
            top = int(view.highest[group].max())
            found = _lowered(found, group, _largest(view.lowest, top, partial(_keeps, view, found, group)))
            if view.draw(found) <= view.limit:
                break
        return found


def _lowered(levels: Levels, group: NDArray[np.bool_], level: int) -> Levels:
    """The same with a group at no more than ``level``."""
    return np.where(group, np.minimum(levels, level), levels)


def _keeps(view: FeederView, levels: Levels, group: NDArray[np.bool_], level: int) -> bool:
    return view.draw(_lowered(levels, group, level)) <= view.limit


@register("equal-watts", kind="policy", area="cluster", family="power_sharing", validated_by="closed_form")
class EqualWatts:
    """Every device may draw as much as every other: what draws less than that is not slowed."""

    name: str

    def levels(self, view: FeederView) -> Levels:
        """The largest equal share that keeps the limit; it is reached by filling up, level by level."""
        clocks = np.arange(view.lowest, int(view.highest.max(initial=view.lowest)) + 1)
        watts = np.array([view.device(np.minimum(view.highest, clock)) for clock in clocks])

        def under(cap: float) -> Levels:
            count = (watts <= cap * (1 + 1e-12)).sum(axis=0)
            found: Levels = np.minimum(view.highest, clocks[np.maximum(count, 1) - 1])
            return found

        caps = np.unique(watts)
        best = _largest(0, len(caps) - 1, lambda i: view.draw(under(float(caps[i]))) <= view.limit)
        return under(float(caps[best]))
