"""Verbs on what there is: list and show."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from simulator.cli.errors import OK
from simulator.cli.options import AsJson, Override, complete_name, console, print_json

__all__ = ["list_", "show"]


class Kind(StrEnum):
    """What can be listed."""

    strategies = "strategies"
    models = "models"
    accelerators = "accelerators"
    nodes = "nodes"
    clusters = "clusters"
    networks = "networks"
    frameworks = "frameworks"
    scenarios = "scenarios"
    requests = "requests"
    topologies = "topologies"


def list_(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    area: Annotated[str | None, typer.Option("--area", help="Strategies of training, serving or cluster only.")] = None,
    missing: Annotated[
        Path | None,
        typer.Option(
            "--missing", metavar="FILE", help="Rows of this catalogue (Markdown tables) that no strategy serves."
        ),
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Strategies as the page docs/strategies.md.")] = False,
    as_json: AsJson = False,
) -> int:
    """List strategies, models, hardware and other things that a scenario can name."""
    from simulator.errors import ConfigError
    from simulator.report import inventory

    if kind is not Kind.strategies and (area is not None or missing is not None or markdown):
        raise ConfigError("--area, --missing and --markdown are for 'fmsim list strategies'")
    if markdown:
        from simulator.report.strategy_page import strategy_page

        print(strategy_page(area), end="")
        return OK
    if missing is not None:
        from simulator.report.missing import missing_rows

        rows = [{"section": section, "system": system} for section, system in missing_rows(missing)]
    elif kind is Kind.strategies:
        rows = inventory.strategy_rows(area)
        if not as_json:
            rows = [_short(row) for row in rows]
    else:
        rows = inventory.rows_of(kind.value)
    if as_json:
        print_json(rows)
    else:
        _table(rows)
    return OK


def _short(row: dict[str, Any]) -> dict[str, Any]:
    """What fits on a line of a terminal: name, family, state, rows served, citations."""
    joined = {key: "; ".join(row[key]) for key in ("catalogue", "cites")}
    return {
        "name": row["name"],
        "family": row["family"],
        "validated_by": row["validated_by"],
        "serves": joined["catalogue"],
        "citation": joined["cites"],
    }


def _table(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    hidden = {"cites", "catalogue", "claims", "kind"}
    names = [n for n in dict.fromkeys(key for row in rows for key in row) if n not in hidden]
    table = Table(box=None, padding=(0, 2), pad_edge=False, header_style="dim")
    for name in names:
        table.add_column(name.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(row.get(name, ""))) for name in names))
    out = console()
    out.soft_wrap = False
    out.print(table)
    out.print(f"{len(rows)} rows", style="dim")


def show(
    name: Annotated[
        str,
        typer.Argument(
            help="Name or file of a profile, model, framework or strategy; or: topology SCENARIO.",
            autocompletion=complete_name,
        ),
    ],
    scenario: Annotated[str | None, typer.Argument(help="After 'topology': a scenario, by name or file.")] = None,
    as_json: AsJson = False,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Topology: a picture (png, svg, pdf) or all links (csv)."),
    ] = None,
    set_: Override = None,
) -> int:
    """Show every figure of a profile, model, framework or strategy with its source; or how a scenario is wired."""
    if name == "topology":
        return _show_topology(scenario, as_json, output, set_)
    if scenario is not None or output is not None:
        from simulator.errors import ConfigError

        raise ConfigError("only 'show topology' takes a scenario and --output")
    from simulator.report.inventory import facts_of

    found = facts_of(name)
    if as_json:
        print_json(dict(found))
        return OK
    out = console()
    for title, rows in found:
        out.print(title, style="bold", markup=False)
        _table(rows)
    if any(row["field"] == "kernel_table" for _, rows in found for row in rows):
        out.print(
            f"Measured kernels, their errors, and figures of efficiency, roofline and residuals: "
            f"fmsim profile {name} -o figures",
            markup=False,
        )
    return OK


def _show_topology(name: str | None, as_json: bool, output: Path | None, changes: list[str] | None) -> int:
    """The wiring of a scenario's cluster: classes of links; all links, or a picture, as a file."""
    from simulator.errors import ConfigError
    from simulator.network.topology import build
    from simulator.report.wiring import link_classes, link_table
    from simulator.scenario.load import load_scenario
    from simulator.units import format_quantity

    if name is None:
        raise ConfigError("say of which scenario: fmsim show topology SCENARIO")
    topology = build(load_scenario(name, changes or ()).cluster)
    if output is not None:
        if output.suffix == ".csv":
            import csv

            table = link_table(topology)
            with output.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(table)
                writer.writerows(zip(*table.values(), strict=True))
        elif output.suffix in (".png", ".svg", ".pdf"):
            import matplotlib

            matplotlib.use("Agg")  # files only: there may be no display
            from simulator.plot.wiring import topology_diagram

            topology_diagram(topology).get_figure(root=True).savefig(output, dpi=150)  # type: ignore[union-attr]
        else:
            raise ConfigError(f"'{output.name}': give a picture (png, svg, pdf) or a table (csv)")
        print(output)
        return OK
    rows = link_classes(topology)
    if as_json:
        print_json(rows)
        return OK
    for row in rows:
        for key, dimension in (("bandwidth", "bandwidth"), ("least", "bandwidth"), ("total", "bandwidth")):
            row[key] = format_quantity(row[key], dimension)
        row["latency"] = format_quantity(row["latency"], "time")
    _table(rows)
    return OK
