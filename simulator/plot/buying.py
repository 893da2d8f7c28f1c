"""A plan of purchases over time: demand against capacity, and what owning and renting cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulator.cluster.buying import BuyingResult, MonthRow
from simulator.plot.style import OKABE_ITO, STYLE, finish, legend, lighter, titles

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["buying_plan"]


def _low(row: MonthRow) -> float:
    return row.present_low


def _high(row: MonthRow) -> float:
    return row.present_high


def buying_plan(result: BuyingResult) -> Figure:
    """Above, demand and own capacity by month with the gap that is rented; below, cost so far in present value."""
    import matplotlib.pyplot as plt

    plan, rows = result.plan, result.rows
    months = [row.month for row in rows]
    with plt.rc_context(STYLE):  # type: ignore[arg-type]
        figure, (above, below) = plt.subplots(2, 1, figsize=(8.5, 6.4), sharex=True, layout="constrained")
        demand, capacity = [row.demand for row in rows], [row.capacity for row in rows]
        top = [max(d, c) for d, c in zip(demand, capacity, strict=True)]
        missing = "rented" if plan.cloud else "not served"
        shade = lighter(OKABE_ITO["vermillion"], 0.6)
        above.fill_between(months, capacity, top, step="post", color=shade, linewidth=0, label=missing)
        above.step(months, capacity, where="post", color=OKABE_ITO["blue"], linewidth=2, label="own capacity")
        above.step(
            months, demand, where="post", color=OKABE_ITO["black"], linewidth=1.5, linestyle="--", label="demand"
        )
        orders = [lot for lot in plan.lots if 0 <= lot.ordered < plan.months]
        for number, lot in enumerate(orders):
            above.axvline(lot.ordered, color=OKABE_ITO["grey"], linewidth=1, zorder=0)
            above.annotate(
                f"{lot.count} × {lot.node.name} ordered", (lot.ordered, 1 - 0.07 * (number % 5)),
                xycoords=("data", "axes fraction"), xytext=(3, -2), textcoords="offset points", fontsize=8, va="top",
            )  # fmt: skip
        above.set_ylim(bottom=0)
        above.set_ylabel(plan.unit)
        above.yaxis.set_major_formatter("{x:,g}")
        note = f"orders take their lead time to arrive; {plan.target:.0%} of the capacity of a node may be used"
        titles(above, f"{plan.name}: demand and capacity", note)
        spent = [row.present / 1e6 for row in rows]
        net = [(row.present - row.value) / 1e6 for row in rows]
        ends = [[(end(row) - row.value) / 1e6 for row in rows] for end in (_low, _high)]
        below.fill_between(months, *ends, color=lighter(OKABE_ITO["blue"], 0.7), linewidth=0)
        below.plot(months, spent, color=OKABE_ITO["blue"], linewidth=1, linestyle=":", label="paid so far")
        below.plot(months, net, color=OKABE_ITO["blue"], linewidth=2, label="less value of machines\n(range of prices)")
        if plan.cloud:
            rented = [row.cloud_only / 1e6 for row in rows]
            # What is there at the start is sold then, so this begins below zero.
            sold = ",\nsell what is there" if any(lot.ordered < 0 for lot in plan.lots) else ""
            label = f"rent everything{sold}"
            below.plot(months, rented, color=OKABE_ITO["vermillion"], linewidth=1.5, linestyle="--", label=label)
        below.set_ylabel("cost so far [MUSD]")
        below.set_xlabel("month")
        below.set_ylim(bottom=min(0.0, *ends[0]))
        note = (
            f"present value at {plan.discount:.0%} a year; machines lose {plan.loss:.0%} a year and are sold at the end"
        )
        titles(below, "cost of the plan against renting everything", note)
        for axes in (above, below):
            legend(axes)
            finish(axes)
    return figure
