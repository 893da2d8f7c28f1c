"""Verbs on buying: bom, buy."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simulator.cli.errors import INFEASIBLE, OK
from simulator.cli.options import AsJson, Override, ScenarioName, console, print_json

if TYPE_CHECKING:
    from simulator.cluster.bom import Bom
    from simulator.cluster.buying import BuyingResult

__all__ = ["bom", "buy"]


def bom(
    scenario: ScenarioName,
    set_: Override = None,
    spares: Annotated[int, typer.Option(min=0, help="Spares of each kind of node, switch and adapter.")] = 1,
    prices: Annotated[str, typer.Option("--prices", metavar="FILE", help="Parts with your own quotes.")] = "network",
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="CSV", help="Write the rows here.")] = None,
    as_json: AsJson = False,
) -> int:
    """List what to buy for a scenario's cluster: nodes, switches, optics, cables, racks, spares; prices and power."""
    from simulator.cluster.bom import bill_of_materials
    from simulator.hardware.parts import load_parts
    from simulator.scenario.load import load_scenario

    found = bill_of_materials(load_scenario(scenario, set_ or ()).cluster, spares, load_parts(prices))
    rows = [
        {"item": r.item, "part": r.part, "count": r.count, "spares": r.spares, "unit_low": r.unit[0],
         "unit_high": r.unit[1], "usd_low": r.price[0], "usd_high": r.price[1], "power": r.power, "source": r.source}
        for r in found.rows
    ]  # fmt: skip
    if output is not None:
        _write(output, rows)
    if as_json:
        total = {"usd_low": found.price[0], "usd_high": found.price[1], "power": found.power}
        print_json({"rows": [_plain(row) for row in rows], "total": total, "rack": asdict(found.rack),
                    "problems": list(found.rack.problems), "notes": list(found.notes)})  # fmt: skip
    else:
        _print_bom(found)
        if output is not None:
            print(f"wrote {output}", file=sys.stderr)
    return INFEASIBLE if found.rack.problems else OK


def buy(
    plan: Annotated[str, typer.Argument(help="A plan file, or the name of a shipped one.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="Write plan.csv and plan.png here.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Work through a plan of purchases: demand, capacity, orders, running costs, cloud and resale month by month."""
    from simulator.cluster.buying import lot_break_even, run_plan
    from simulator.scenario.buying import load_plan

    found = run_plan(load_plan(plan))
    rows = [asdict(row) for row in found.rows]
    if output is not None:
        _save_plan(found, rows, output)
    if as_json:
        lots = [
            {"node": lot.node.name, "count": lot.count, "months": months, "load": load}
            for lot in found.plan.lots if lot.ordered >= 0
            for months, load in [lot_break_even(found.plan, lot)]
        ]  # fmt: skip
        print_json({"months": [_plain(row) for row in rows], "pays_after": found.pays_after,
                    "break_even": [_plain(lot) for lot in lots], "notes": list(found.plan.notes)})  # fmt: skip
    else:
        _print_plan(found)
        if output is not None:
            print(f"saved in {output}", file=sys.stderr)
    return OK if all(row.unmet <= 0 for row in found.rows) else INFEASIBLE


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """NaN and infinity as nothing: JSON has neither."""
    return {k: None if isinstance(v, float) and not abs(v) < float("inf") else v for k, v in row.items()}


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    from simulator.errors import ConfigError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise ConfigError(f"'{path}' cannot be written: {error.strerror or error}") from None


def _save_plan(found: BuyingResult, rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from simulator.plot.buying import buying_plan

    _write(folder / "plan.csv", rows)
    figure = buying_plan(found)
    figure.savefig(folder / "plan.png", dpi=150)
    plt.close(figure)


def _range(low: float, high: float) -> str:
    if low != low:
        return "no price known"
    return f"{low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"


def _print_bom(found: Bom) -> None:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2), pad_edge=False, header_style="dim")
    for name in ("item", "part", "count", "spares", "USD each", "USD", "kW"):
        table.add_column(name, justify="left" if name in ("item", "part") else "right")
    for row in found.rows:
        table.add_row(
            row.item, row.part, f"{row.count:,}", f"{row.spares:,}", _range(*row.unit), _range(*row.price),
            f"{row.power / 1e3:,.1f}" if row.power else "",
        )  # fmt: skip
    table.add_row("total", "", "", "", "", _range(*found.price), f"{found.power / 1e3:,.1f}", style="bold")
    out, rack = console(), found.rack
    out.print(table)
    limits = [
        f"{verb} {limit / 1e3:.0f} kW" for verb, limit in (("feeds", rack.power), ("cools", rack.cooling)) if limit
    ]
    words = "; ".join([f"{rack.nodes} nodes, rated {rack.draw / 1e3:.1f} kW", *limits, *filter(None, [rack.assumed])])
    out.print(f"{rack.racks} racks: {words}")
    for note in found.notes:
        style = "bold red" if note in rack.problems else "yellow"
        out.print(f"{'does not work' if note in rack.problems else 'note'}: {note}", style=style, markup=False)


def _print_plan(found: BuyingResult) -> None:
    from rich.table import Table

    from simulator.cluster.buying import lot_break_even

    table = Table(box=None, padding=(0, 2), pad_edge=False, header_style="dim")
    heads = ("month", "demand", "capacity", "shortfall", "nodes", "capex", "opex", "cloud", "resale", "cost so far")
    for name in heads:
        table.add_column(name, justify="right")
    for r in found.rows:
        money = (r.capex, r.opex, r.cloud, r.resale, r.present)
        cells = (str(r.month), f"{r.demand:,.0f}", f"{r.capacity:,.0f}", f"{r.shortfall:,.0f}", f"{r.nodes}")
        table.add_row(*cells, *(f"{value / 1e3:,.0f}" if value else "" for value in money))
    out, plan, last = console(), found.plan, found.rows[-1]
    out.print(f"{plan.name}: demand in {plan.unit}, money in kUSD, 'cost so far' in present value", style="bold")
    out.print(table)
    text = f"all {plan.months} months: {_range(last.present_low, last.present_high)} USD in present value"
    if plan.cloud:
        when = found.pays_after
        pays = "this plan stays dearer" if when is None else f"this plan is cheaper from month {when} on"
        text += f"; renting everything {last.cloud_only:,.0f}: {pays}, if the machines are sold then"
    out.print(text, markup=False)
    for lot in plan.lots:
        if lot.ordered < 0 or plan.cloud is None:
            continue
        months, load = lot_break_even(plan, lot)
        out.print(
            f"{lot.count} × {lot.node.name} of month {lot.ordered:.0f}: fully used, paid off after {months:.1f} "
            f"months; over its life worth buying above {load:.0%} load", markup=False,
        )  # fmt: skip
    for note in plan.notes:
        out.print(f"note: {note}", style="yellow", markup=False)
