"""Buying over time: a fleet, orders with lead times, growing demand, the cloud for what is missing, and resale.

Month by month, in money of the day and in present value. An order is paid when it is placed and works when it has
arrived; machines retire after their life and are sold for what is left of their value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from simulator.hardware.power import node_power
from simulator.hardware.types import Node

__all__ = [
    "MONTH", "BuyingPlan", "BuyingResult", "Cloud", "Demand", "Lot", "MonthRow", "break_even", "break_even_load",
    "discounted_break_even", "lot_break_even", "run_plan",
]  # fmt: skip

YEAR = 31557600.0
MONTH = YEAR / 12


@dataclass(frozen=True)
class Demand:
    """What has to be served, in the plan's unit.

    Attributes
    ----------
    points
        (month, demand), joined by straight lines; the first holds before it, the last grows on.
    growth
        Per month after the last point.
    """

    points: tuple[tuple[float, float], ...]
    growth: float = 0.0

    def at(self, month: float) -> float:
        """Demand in a month."""
        first, last = self.points[0], self.points[-1]
        if month >= last[0]:
            return float(last[1] * (1.0 + self.growth) ** (month - last[0]))
        if month <= first[0]:
            return first[1]
        for (a, low), (b, high) in zip(self.points, self.points[1:], strict=False):
            if month <= b:
                return low + (high - low) * (month - a) / (b - a)
        raise AssertionError("the points cover every month up to the last")


@dataclass(frozen=True)
class Lot:
    """Equal nodes that are bought together, or that are already there.

    Attributes
    ----------
    node, count
        What and how many.
    capacity
        Of one node, in the plan's unit.
    price
        Low and high [USD] per node, its share of the network included; (0, 0) of what is there.
    ordered, arrives
        Months from the begin of the plan; at or before 0 for what is there.
    age
        Of what is there when the plan begins [months].
    life
        Months from arrival until it is sold.
    """

    node: Node
    count: int
    capacity: float
    price: tuple[float, float]
    ordered: float
    arrives: float
    age: float = 0.0
    life: float = 60.0
    source: str = ""

    def retires(self) -> float:
        """Month of the sale."""
        return self.arrives - self.age + self.life

    def works(self, month: float) -> bool:
        """Whether it serves in the month that begins then."""
        return self.arrives <= month < self.retires()


@dataclass(frozen=True)
class Cloud:
    """Capacity that is rented by the month where the own one does not reach; ``price`` [USD/s] per unit of demand."""

    price: tuple[float, float]
    source: str = ""


@dataclass(frozen=True)
class BuyingPlan:
    """A plan.

    Attributes
    ----------
    months
        How far it looks.
    loss
        Share of its value that a machine loses per year.
    discount
        Of future money, per year.
    power_price, pue
        [USD/J] and power usage effectiveness.
    hosting, maintenance
        [USD/(W·s)] per rated power, and share of the price per year.
    target
        Share of the capacity that may be used before it counts as full.
    """

    name: str
    months: int
    demand: Demand
    lots: tuple[Lot, ...]
    cloud: Cloud | None = None
    unit: str = "tokens/s"
    loss: float = 0.35
    discount: float = 0.0
    power_price: float = 0.0
    pue: float = 1.0
    hosting: float = 0.0
    maintenance: float = 0.0
    target: float = 1.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class MonthRow:
    """One month.

    Attributes
    ----------
    shortfall
        Demand beyond the own capacity; ``unmet`` of it neither the cloud serves.
    capex, opex, cloud, resale
        [USD], the middle of the ranges; ``cost`` is capex + opex + cloud − resale.
    present
        Sum of all costs so far in money of the first month [USD]; ``cloud_only``: of renting everything instead
        and selling what is there in the first month.
    value
        What the machines there can be sold for at the end of the month, in the same money [USD].
    """

    month: int
    demand: float
    capacity: float
    shortfall: float
    unmet: float
    nodes: int
    power: float
    capex: float
    opex: float
    cloud: float
    resale: float
    cost: float
    present: float
    present_low: float
    present_high: float
    cloud_only: float
    value: float


@dataclass(frozen=True)
class BuyingResult:
    """A plan worked through: a row per month, and when owning has paid for itself against renting everything."""

    plan: BuyingPlan
    rows: tuple[MonthRow, ...]

    @property
    def pays_after(self) -> int | None:
        """The first month from which on owning, if all were sold then, stays cheaper than renting; ``None``: never."""
        if self.plan.cloud is None:
            return None
        cheaper = [row.present - row.value <= row.cloud_only for row in self.rows]
        if not cheaper[-1]:
            return None
        last = max((i for i, good in enumerate(cheaper) if not good), default=-1)
        return self.rows[last + 1].month


def _value(plan: BuyingPlan, lot: Lot, month: float) -> float:
    """What a lot can be sold for at a month [USD]."""
    years = (month - lot.arrives + lot.age) / 12
    return float(lot.count * sum(lot.price) / 2 * (1.0 - plan.loss) ** max(years, 0.0))


def run_plan(plan: BuyingPlan) -> BuyingResult:
    """Every month of a plan; in the last one, everything that is left is sold."""
    rows = list[MonthRow]()
    present = low = high = 0.0
    # Who rents everything sells at once what is there.
    rented = -sum(_value(plan, lot, 0.0) for lot in plan.lots if lot.ordered < 0)
    for month in range(plan.months):
        working = [lot for lot in plan.lots if lot.works(month)]
        demand, capacity = plan.demand.at(month), plan.target * sum(lot.count * lot.capacity for lot in working)
        shortfall = max(0.0, demand - capacity)
        used = min(1.0, demand / capacity) if capacity else 0.0
        watts = plan.pue * sum(lot.count * _draw(lot, used * plan.target) for lot in working)
        bought = [lot for lot in plan.lots if month <= lot.ordered < month + 1 and lot.ordered >= 0 and any(lot.price)]
        capex = [sum(lot.count * lot.price[end] for lot in bought) for end in (0, 1)]
        opex = watts * MONTH * plan.power_price + sum(_upkeep(plan, lot) for lot in working)
        clouds = [shortfall * p * MONTH for p in plan.cloud.price] if plan.cloud else [0.0, 0.0]
        last = month == plan.months - 1
        gone = [lot for lot in plan.lots if month < lot.retires() <= month + 1 or (last and lot in working)]
        resale = sum(_value(plan, lot, min(lot.retires(), month + 1)) for lot in gone)
        # Ordered machines that have not arrived are worth what they cost.
        kept = [lot for lot in plan.lots if lot.ordered <= month and lot not in gone and lot.retires() > month + 1]
        # Paid at the begin of the month; what is sold brings its money at the end.
        factor, later = (1 + plan.discount) ** (-month / 12), (1 + plan.discount) ** (-(month + 1) / 12)
        for end in (0, 1):
            net = factor * (capex[end] + opex + clouds[end]) - later * resale
            low, high = (low + net, high) if end == 0 else (low, high + net)
        cost = sum(capex) / 2 + opex + sum(clouds) / 2
        present += factor * cost - later * resale
        rented += factor * demand * sum(plan.cloud.price) / 2 * MONTH if plan.cloud else math.nan
        rows.append(
            MonthRow(
                month,
                demand,
                capacity,
                shortfall,
                0.0 if plan.cloud else shortfall,
                sum(lot.count for lot in working),
                watts,
                sum(capex) / 2,
                opex,
                sum(clouds) / 2,
                resale,
                cost - resale,
                present,
                low,
                high,
                rented,
                later * sum(_value(plan, lot, month + 1) for lot in kept),
            )
        )
    return BuyingResult(plan, tuple(rows))


def _draw(lot: Lot, used: float) -> float:
    return node_power(lot.node, used)


def _upkeep(plan: BuyingPlan, lot: Lot) -> float:
    """Maintenance and hosting of a lot in a month [USD]."""
    maintenance = plan.maintenance * lot.count * sum(lot.price) / 2 / 12
    return maintenance + plan.hosting * lot.count * lot.node.power_peak * MONTH


# -- closed forms -------------------------------------------------------------------------------------------------


def break_even(price: float, opex: float, rent: float) -> float:
    """Months until a machine has paid for itself: price / (rent − running costs), both per month; ∞ if never."""
    return price / (rent - opex) if rent > opex else math.inf


def discounted_break_even(price: float, opex: float, rent: float, discount: float) -> float:
    """The same with money discounted by ``discount`` per year: −ln(1 − price·(1 − q)/(rent − opex)) / ln(1/q).

    q = (1 + discount)^(−1/12) is the factor of a month, payments are at its begin.
    """
    if discount == 0:
        return break_even(price, opex, rent)
    q = (1 + discount) ** (-1 / 12)
    left = 1 - price * (1 - q) / (rent - opex) if rent > opex else 0.0
    return math.log(left) / math.log(q) if left > 0 else math.inf


def break_even_load(price: float, resale: float, opex: float, rent: float, months: float) -> float:
    """Share of the time that a machine must be needed so that buying it for ``months`` costs what renting does."""
    return (price - resale + opex * months) / (rent * months) if rent > 0 else math.inf


def lot_break_even(plan: BuyingPlan, lot: Lot) -> tuple[float, float]:
    """(months, load): when a fully used lot has paid for itself, and the load at which it does so over its life."""
    if plan.cloud is None:
        return math.inf, math.inf
    price = lot.count * sum(lot.price) / 2
    rent = lot.count * lot.capacity * plan.target * sum(plan.cloud.price) / 2 * MONTH
    opex = lot.count * plan.pue * _draw(lot, plan.target) * MONTH * plan.power_price + _upkeep(plan, lot)
    resale = price * (1 - plan.loss) ** (lot.life / 12)
    return discounted_break_even(price, opex, rent, plan.discount), break_even_load(price, resale, opex, rent, lot.life)
