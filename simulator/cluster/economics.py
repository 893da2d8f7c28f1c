"""Energy, carbon and money of a workload, from its utilisation and from dated price ranges."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from simulator.hardware.power import node_power, utilisation
from simulator.hardware.types import Cluster, Price

__all__ = ["Bill", "Draw", "bill", "item_rows", "mean_draw", "money_columns"]

YEAR = 31557600.0
LIFETIME = 4 * YEAR
"""Straight-line depreciation of purchased machines where no rental price is known (an assumption, and said so)."""


@dataclass(frozen=True)
class Draw:
    """Power at the wall [W], PUE included: ``busy`` while work is done, ``idle`` otherwise."""

    busy: float
    idle: float

    def energy(self, busy_seconds: float, idle_seconds: float) -> float:
        """[J]"""
        return self.busy * busy_seconds + self.idle * idle_seconds


def mean_draw(cluster: Cluster, accelerators: int, compute: float, memory: float) -> Draw:
    """Draw of the nodes that hold ``accelerators`` of the cluster.

    Parameters
    ----------
    compute, memory
        Shares of peak FLOP/s and of memory bandwidth in use while busy, 0..1.
    """
    total, share = cluster.accelerator_count, utilisation(compute, memory)
    part = accelerators / total if total else 0.0
    busy = sum(g.count * node_power(g.node, share) for g in cluster.groups)
    idle = sum(g.count * node_power(g.node, 0.0, active=0) for g in cluster.groups)
    return Draw(part * cluster.site.pue * busy, part * cluster.site.pue * idle)


@dataclass(frozen=True)
class Bill:
    """What a workload costs: the middle of the price range, its ends [USD], energy [J], carbon [g], and the items."""

    usd: float
    low: float
    high: float
    energy: float
    carbon: float
    items: tuple[dict[str, Any], ...]


def bill(workload: str, cluster: Cluster, accelerators: int, seconds: float, energy: float, share: float = 1.0) -> Bill:
    """Machines for ``seconds`` and ``energy`` [J]; ``share`` of the usual price is charged for the machines.

    Machines are charged at rental prices, which include power; where only purchase prices are known they are written
    off over four years and electricity is charged at the site's price. NaN where no price is known.
    """
    node = cluster.groups[0].node
    price = node.accelerator.price
    low, high, source, rented = _rate(price, node.price, node.accelerators)
    machine_low, machine_high = (share * rate * accelerators * seconds for rate in (low, high))
    electricity = 0.0 if rented else energy * cluster.site.power_price
    items = [
        {
            "workload": workload,
            "item": "machines rented" if rented else "machines written off over 4 years",
            "usd": (machine_low + machine_high) / 2,
            "usd_low": machine_low,
            "usd_high": machine_high,
            "source": source if share == 1.0 else f"{100 * share:g} % of {source}",
        },
        {
            "workload": workload,
            "item": "electricity (included in the rent)" if rented else "electricity",
            "usd": electricity,
            "usd_low": electricity,
            "usd_high": electricity,
            "source": f"site: {cluster.site.power_price * 3.6e6:.3g} USD/kWh",
        },
    ]
    return Bill(
        (machine_low + machine_high) / 2 + electricity,
        machine_low + electricity,
        machine_high + electricity,
        energy,
        energy * cluster.site.carbon,
        tuple(items),
    )


def _rate(device: Price, node: Price, per_node: int) -> tuple[float, float, str, bool]:
    """(low, high) [USD/s] per accelerator, source, and whether it is a rent."""
    if device.rental is not None:
        return (*device.rental, f"{device.source} ({device.as_of})", True)
    if node.rental is not None:
        return (node.rental[0] / per_node, node.rental[1] / per_node, f"{node.source} ({node.as_of})", True)
    if node.purchase is not None:
        return (
            node.purchase[0] / per_node / LIFETIME,
            node.purchase[1] / per_node / LIFETIME,
            f"{node.source} ({node.as_of})",
            False,
        )
    if device.purchase is not None:
        return (
            device.purchase[0] / LIFETIME,
            device.purchase[1] / LIFETIME,
            f"{device.source} ({device.as_of})",
            False,
        )
    return (float("nan"), float("nan"), "no price is known for this device", True)


def money_columns(charge: Bill, seconds: float, tokens: float) -> dict[str, float]:
    """Summary columns of energy and cost of a bill over ``seconds`` [s] and so many tokens."""
    per_token = 1.0 / tokens if tokens else math.nan
    return {
        "power_mean": charge.energy / seconds if seconds else math.nan,
        "energy": charge.energy,
        "energy_per_token": charge.energy * per_token,
        "carbon": charge.carbon,
        "usd": charge.usd,
        "usd_per_million_tokens": charge.usd * per_token * 1e6,
        "usd_per_million_tokens_low": charge.low * per_token * 1e6,
        "usd_per_million_tokens_high": charge.high * per_token * 1e6,
    }


def item_rows(items: tuple[dict[str, Any], ...]) -> dict[str, list[Any]]:
    """Items of a bill as columns."""
    return {key: [item[key] for item in items] for key in items[0]} if items else {}
