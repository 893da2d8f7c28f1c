"""What a cluster costs and where it stands: prices, terms of payment, sites with their electricity, racks.

Part of :mod:`simulator.hardware.types`, which offers these names as its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["HOUR", "Price", "Rack", "Site", "Terms", "mean_of_hours"]

HOUR = 3600.0


@dataclass(frozen=True)
class Price:
    """A dated price range.

    Attributes
    ----------
    purchase
        Low and high [USD] per device, or ``None`` when unknown.
    rental
        Low and high [USD/s] per device, or ``None``.
    as_of, source
        When and where the figures were read.
    """

    purchase: tuple[float, float] | None = None
    rental: tuple[float, float] | None = None
    as_of: str = ""
    source: str = ""


@dataclass(frozen=True)
class Terms:
    """How machines are paid for.

    Attributes
    ----------
    mode
        ``auto``: rented where a rent is known, else bought; ``on-demand``, ``reserved`` and ``spot`` are rents.
    rent
        Low and high [USD/s] per accelerator, of this mode; ``None``: the profile's.
    node_price
        Low and high [USD] per node when bought; ``None``: the profile's.
    lifetime
        Straight-line depreciation [s], down to the share ``residual`` of the price.
    maintenance
        Share of the price of machines and network per year, low and high.
    hosting
        Space, cooling plant and staff, per rated power [USD/(W·s)], low and high.
    network
        Price of switches, cables and optics per accelerator, low and high [USD]; ``None``: from the bill of materials.
    source
        Where the figures were read, and when; empty where they are the profile's.
    """

    mode: Literal["auto", "on-demand", "reserved", "spot", "purchase"] = "auto"
    rent: tuple[float, float] | None = None
    node_price: tuple[float, float] | None = None
    lifetime: float = 4 * 31557600.0
    residual: float = 0.0
    maintenance: tuple[float, float] = (0.0, 0.0)
    hosting: tuple[float, float] = (0.0, 0.0)
    network: tuple[float, float] | None = None
    source: str = ""


@dataclass(frozen=True)
class Site:
    """A place with its power: price [USD/J], carbon intensity [g/J], power usage effectiveness.

    Attributes
    ----------
    power_price, carbon
        Means.
    prices, carbons
        One value per hour from the begin of the run on, repeated; empty: always the mean.
    """

    name: str = "site"
    power_price: float = 0.0
    carbon: float = 0.0
    pue: float = 1.0
    prices: tuple[float, ...] = ()
    carbons: tuple[float, ...] = ()

    def mean_price(self, begin: float, end: float) -> float:
        """Price of electricity over a time [USD/J]."""
        return mean_of_hours(self.prices, begin, end) if self.prices else self.power_price

    def mean_carbon(self, begin: float, end: float) -> float:
        """Carbon intensity over a time [g/J]."""
        return mean_of_hours(self.carbons, begin, end) if self.carbons else self.carbon


def mean_of_hours(values: tuple[float, ...], begin: float, end: float) -> float:
    """Mean over [begin, end] [s] of a curve that takes one value per hour and begins anew after the last.

    At a single moment it is the value then.
    """
    if end <= begin:
        return values[int(begin // HOUR) % len(values)]
    return (_sum_of_hours(values, end) - _sum_of_hours(values, begin)) / (end - begin)


def _sum_of_hours(values: tuple[float, ...], time: float) -> float:
    """Integral of the curve from 0 to ``time`` [value·s]."""
    hours, rest = divmod(time, HOUR)
    rounds, left = divmod(int(hours), len(values))
    return HOUR * (rounds * sum(values) + sum(values[:left])) + rest * values[left]


@dataclass(frozen=True)
class Rack:
    """What a rack takes: nodes, and the power and heat it can feed and remove [W]; 0 where it is not known."""

    nodes: int = 0
    power: float = 0.0
    cooling: float = 0.0
