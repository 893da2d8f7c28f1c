"""Energy, carbon and money of a workload, from its utilisation and from dated price ranges."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from simulator.hardware.power import node_power, utilisation
from simulator.hardware.types import Cluster, Price, Terms

__all__ = ["Bill", "Draw", "bill", "item_rows", "mean_draw", "money_columns", "with_item"]

YEAR = 31557600.0
LIFETIME = 4 * YEAR
"""Straight-line depreciation of purchased machines where the scenario names no other (an assumption, and said so)."""
MONTH = YEAR / 12
HORIZON = 36 * MONTH
"""Of the total cost of ownership."""

RENT_SHARE = {"on-demand": (1.0, 1.0), "reserved": (0.5, 0.75), "spot": (0.3, 0.6)}
"""Rent over the on-demand rent where the scenario gives none for its mode: assumed, no list price stands behind it."""


@dataclass(frozen=True)
class Draw:
    """Power at the wall [W], PUE included: ``busy`` while work is done, ``idle`` otherwise."""

    busy: float
    idle: float

    def energy(self, busy_seconds: float, idle_seconds: float) -> float:
        """[J]"""
        return self.busy * busy_seconds + self.idle * idle_seconds

    def metered(self, seconds: float, dynamic: float, pue: float) -> float:
        """[J] over ``seconds`` in which devices drew ``dynamic`` [J] beyond idling."""
        return self.idle * seconds + pue * dynamic


def mean_draw(cluster: Cluster, accelerators: int, compute: float, memory: float) -> Draw:
    """Draw of the nodes that hold ``accelerators`` of the cluster, and of their share of the network.

    Parameters
    ----------
    compute, memory
        Shares of peak FLOP/s and of memory bandwidth in use while busy, 0..1.
    """
    total = cluster.accelerator_count
    part = accelerators / total if total else 0.0
    busy = idle = 0.0
    for group in cluster.groups:
        # The same FLOP/s are a larger share of what a lower clock, or a device with other burdens, can do.
        device = group.node.accelerator
        share = utilisation(device.power, compute / (device.clock * device.pace), memory)
        network = group.node.nics * cluster.port_power
        busy += group.count * (node_power(group.node, share) + network)
        idle += group.count * (node_power(group.node, 0.0, active=0) + network)
    return Draw(part * cluster.site.pue * busy, part * cluster.site.pue * idle)


@dataclass(frozen=True)
class Bill:
    """What a workload costs: the middle of the price range, its ends [USD], energy [J], carbon [g], and the items.

    ``capital`` is what the machines cost when bought, the middle of its range; NaN where they are rented.
    """

    usd: float
    low: float
    high: float
    energy: float
    carbon: float
    items: tuple[dict[str, Any], ...]
    capital: float = math.nan


def bill(
    workload: str,
    cluster: Cluster,
    accelerators: int,
    seconds: float,
    energy: float,
    share: float = 1.0,
    hours: tuple[float, float] | None = None,
) -> Bill:
    """Machines for ``seconds`` and ``energy`` [J], paid for under the terms of the cluster.

    Rents include power. Bought machines and their network are written off in a straight line, and electricity,
    maintenance and hosting are charged. NaN where no price is known.

    Parameters
    ----------
    share
        Of the usual price that is charged for the machines.
    hours
        Begin and end of the work [s]: electricity and carbon are those of these hours, the energy spread evenly over
        them. By default it begins at 0 and takes ``seconds``.
    """
    site, terms = cluster.site, cluster.terms
    begin, end = hours or (0.0, seconds)
    price = site.mean_price(begin, end)
    rent = _rent(cluster) if terms.mode != "purchase" else None
    unit, capital = share * accelerators * seconds, math.nan
    if rent is not None:
        low, high, source = rent
        items = [
            _item(workload, f"machines rented{_of_mode(terms)}", unit * low, unit * high, source),
            _item(workload, "electricity (included in the rent)", 0.0, 0.0, _power_source(price)),
        ]
    else:
        items, capital = _owned(workload, cluster, accelerators, share * seconds)
        items.append(_item(workload, "electricity", energy * price, energy * price, _power_source(price)))
    if share != 1.0:
        items[0]["source"] = f"{100 * share:g} % of {items[0]['source']}"
    months = MONTH / (end - begin) if end > begin else math.nan
    items = [
        item | {"usd_per_month": item["usd"] * months, "usd_36_months": 36 * item["usd"] * months} for item in items
    ]
    low, high = (sum(item[key] for item in items) for key in ("usd_low", "usd_high"))
    carbon = energy * site.mean_carbon(begin, end)
    return Bill((low + high) / 2, low, high, energy, carbon, tuple(items), capital)


def with_item(charge: Bill, workload: str, item: str, usd: float, source: str, seconds: float) -> Bill:
    """A bill with something more that cost ``usd`` over ``seconds`` [s]."""
    monthly = usd * MONTH / seconds if seconds else math.nan
    row = _item(workload, item, usd, usd, source) | {"usd_per_month": monthly, "usd_36_months": 36 * monthly}
    return replace(
        charge, usd=charge.usd + usd, low=charge.low + usd, high=charge.high + usd, items=(*charge.items, row)
    )


def _of_mode(terms: Terms) -> str:
    return "" if terms.mode in ("auto", "on-demand") else f", {terms.mode}"


def _power_source(price: float) -> str:
    return f"site: {price * 3.6e6:.3g} USD/kWh"


def _item(workload: str, item: str, low: float, high: float, source: str) -> dict[str, Any]:
    money = {"usd": (low + high) / 2, "usd_low": low, "usd_high": high}
    return {"workload": workload, "item": item, **money, "source": source}


def _rent(cluster: Cluster) -> tuple[float, float, str] | None:
    """(low, high) [USD/s] per accelerator and source; ``None`` where machines are bought."""
    terms, node = cluster.terms, cluster.groups[0].node
    if terms.rent is not None:
        return (*terms.rent, terms.source or "scenario")
    device, share = node.accelerator.price, RENT_SHARE.get(terms.mode, (1.0, 1.0))
    assumed = "" if share == (1.0, 1.0) else f"; {share[0]:.0%} to {share[1]:.0%} of it assumed for {terms.mode}"
    for price, count in ((device, 1), (node.price, node.accelerators)):
        if price.rental is not None:
            low, high = price.rental
            return share[0] * low / count, share[1] * high / count, f"{_source(price)}{assumed}"
    if terms.mode == "auto" and (node.price.purchase or device.purchase or terms.node_price):
        return None
    return math.nan, math.nan, "no price is known for this device"


def _source(price: Price) -> str:
    return f"{price.source} ({price.as_of})"


def _owned(workload: str, cluster: Cluster, accelerators: int, seconds: float) -> tuple[list[dict[str, Any]], float]:
    """Items of bought machines beside electricity, and what was paid for them [USD]."""
    terms, node = cluster.terms, cluster.groups[0].node
    years = terms.lifetime / YEAR
    machine, source = _purchase(cluster)
    share = (1.0 - terms.residual) * seconds / terms.lifetime
    low, high = (accelerators * price for price in machine)
    network = [accelerators * price for price in terms.network] if terms.network is not None else [0.0, 0.0]
    written = f"machines written off over {years:.3g} years"
    items = [_item(workload, written, low * share, high * share, source)]
    if any(network):
        at = terms.source if terms.source else "bill of materials (fmsim bom)"
        name = f"network written off over {years:.3g} years"
        items.append(_item(workload, name, network[0] * share, network[1] * share, at))
    if any(terms.maintenance):
        yearly = [m * (a + b) * seconds / YEAR for m, a, b in zip(terms.maintenance, (low, high), network, strict=True)]
        items.append(_item(workload, "maintenance", yearly[0], yearly[1], terms.source or "scenario"))
    if any(terms.hosting):
        watts = accelerators / node.accelerators * node.power_peak
        hosting = [h * watts * seconds for h in terms.hosting]
        items.append(_item(workload, "hosting", hosting[0], hosting[1], terms.source or "scenario"))
    return items, (low + high + sum(network)) / 2


def _purchase(cluster: Cluster) -> tuple[tuple[float, float], str]:
    """Low and high [USD] per accelerator of bought machines, and the source."""
    terms, node = cluster.terms, cluster.groups[0].node
    if terms.node_price is not None:
        low, high = terms.node_price
        return (low / node.accelerators, high / node.accelerators), terms.source or "scenario"
    for price, count in ((node.price, node.accelerators), (node.accelerator.price, 1)):
        if price.purchase is not None:
            low, high = price.purchase
            return (low / count, high / count), _source(price)
    return (math.nan, math.nan), "no price is known for this device"


def money_columns(charge: Bill, seconds: float, tokens: float) -> dict[str, float]:
    """Summary columns of energy and cost of a bill over ``seconds`` [s] and so many tokens."""
    per_token = 1.0 / tokens if tokens else math.nan
    monthly = charge.usd * MONTH / seconds if seconds else math.nan
    return {
        "power_mean": charge.energy / seconds if seconds else math.nan,
        "energy": charge.energy,
        "energy_per_token": charge.energy * per_token,
        "carbon": charge.carbon,
        "usd": charge.usd,
        "usd_per_month": monthly,
        "tco_36_months": 36 * monthly,
        "tco_36_months_low": 36 * monthly * charge.low / charge.usd if charge.usd else 36 * monthly,
        "tco_36_months_high": 36 * monthly * charge.high / charge.usd if charge.usd else 36 * monthly,
        "capital": charge.capital,
        "usd_per_million_tokens": charge.usd * per_token * 1e6,
        "usd_per_million_tokens_low": charge.low * per_token * 1e6,
        "usd_per_million_tokens_high": charge.high * per_token * 1e6,
    }


def item_rows(items: tuple[dict[str, Any], ...]) -> dict[str, list[Any]]:
    """Items of a bill as columns."""
    return {key: [item[key] for item in items] for key in items[0]} if items else {}
