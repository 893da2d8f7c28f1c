"""Sweeps and recommendations on the terminal: what varies, the figures people decide by, and why points fail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from simulator.report.grids import change_text, print_grid
from simulator.results.markup import figure_text
from simulator.scenario.recommend_plans import TIMES
from simulator.scenario.recommendation import Candidate, Recommendation, metric_of
from simulator.scenario.sweep_table import Sweep, short_names, value_text
from simulator.units import format_quantity

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["FIGURES_OF_MERIT", "figure_text", "print_recommendation", "print_sweep", "reasons_of"]

FIGURES_OF_MERIT = (
    "accelerators", "seconds", "floor_seconds", "tokens_per_s_per_gpu", "mfu", "memory_peak", "training_seconds",
    "ttft_p90", "tpot_p90", "slo_attainment", "slo_goodput", "output_tokens_per_s_per_gpu", "energy_per_token",
    "usd_per_million_tokens",
)  # fmt: skip
"""Columns of a summary that are shown where they are known, in this order."""

_MOST_ROWS = 60


def print_sweep(sweep: Sweep, console: Console) -> None:
    """One line per point and workload, in the order of the points, a table for each kind; then reasons, each once."""
    console.soft_wrap = False
    kinds = dict.fromkeys(str(row.get("kind") or "") for row in sweep.rows if row.get("kind"))
    several = len({row["workload"] for row in sweep.rows if row["workload"]}) > 1
    first = next(iter(kinds), "")
    for kind in kinds or [""]:
        rows = [row for row in sweep.rows[:_MOST_ROWS] if str(row.get("kind") or first) == kind]
        console.print(_table(rows, short_names(sweep.axes), several))
    if len(sweep.rows) > _MOST_ROWS:
        console.print(f"... and {len(sweep.rows) - _MOST_ROWS} more rows; -o DIR saves all as sweep.csv", style="dim")
    for reason, which in list(reasons_of(sweep).items())[:12]:
        console.print(Text(f"{which}: {reason}", style="yellow"))
    said = ", ".join(f"{n} {state}" for state, n in sweep.states.items() if n)
    many = "point" if len(sweep.points) == 1 else "points"
    console.print(f"{len(sweep.points)} {many} at depth {sweep.depth}: {said}", style="bold", markup=False)
    if not sweep.axes:
        console.print("nothing varies: give alternatives with -s path=v1,v2 or in a what_if section", style="yellow")


def reasons_of(sweep: Sweep) -> dict[str, str]:
    """Why points are infeasible or wrong, each reason once, and which points those are."""
    found: dict[str, list[int]] = {}
    for row in sweep.rows:
        if row["status"] != "ok":
            found.setdefault(f"{row['status']}: {row.get('reason', '')}", []).append(int(row["point"]))
    return {
        reason: ", ".join(f"#{p}" for p in points[:6]) + (f" and {len(points) - 6} more" if len(points) > 6 else "")
        for reason, points in found.items()
    }


def _table(rows: Sequence[Mapping[str, Any]], names: Mapping[str, str], several: bool) -> Table:
    """Points of one kind of workload, with the figures that some of them have."""
    shown = [c for c in FIGURES_OF_MERIT if any(figure_text(c, row.get(c)) for row in rows)]
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    for head in ("#", *names.values(), *(["workload"] if several else [])):
        table.add_column(head, overflow="fold")
    for column in shown:
        table.add_column(column.replace("_", " "), justify="right", overflow="fold")
    table.add_column("", overflow="fold")
    for row in rows:
        table.add_row(*_line(row, list(names), shown, several), style="dim" if row["status"] != "ok" else "")
    return table


def _line(row: Mapping[str, Any], axes: Sequence[str], shown: Sequence[str], several: bool) -> list[Text]:
    values = [str(row["point"]), *("" if row.get(a) is None else value_text(row[a]) for a in axes)]
    values += [str(row["workload"])] if several else []
    values += [figure_text(column, row.get(column)) for column in shown]
    return [Text(v) for v in (*values, "" if row["status"] == "ok" else str(row["status"]))]


def print_recommendation(found: Recommendation, console: Console) -> None:
    """The best, the runners-up, what binds, what one less and one more would do, and why the others fell."""
    console.soft_wrap = False
    if found.best is None:
        console.print(Text("nothing keeps the limits", style="bold red"))
    else:
        console.print(Text(f"best by {found.metric}: {_named(found.best.point)}", style="bold"))
        shown = [c for c in FIGURES_OF_MERIT if any(figure_text(c, r.row.get(c)) for r in found.ranked)]
        shown = list(dict.fromkeys([found.metric, *(x.metric for x in found.limits if x.metric != "unstable"), *shown]))
        heads = ["", *("best" if not i else f"#{i + 1}" for i in range(len(found.ranked)))]
        lines = [["", *("\n".join(_parts(c.point)) for c in found.ranked)]]
        lines += [[c.replace("_", " "), *(figure_text(c, metric_of(r.row, c)) for r in found.ranked)] for c in shown]
        print_grid("the best and the runners-up", heads, lines, console)
    _plans(found, console)
    for row in found.binding:
        value, limit = figure_text(row["metric"], row["value"]), figure_text(row["metric"], row["limit"])
        console.print(Text(f"{row['metric']} {value} of {limit}: {100 * row['slack']:.1f} % left"))
    if found.best is not None:
        _neighbour("one step less", found, found.fewer, console)
        _neighbour("one step more", found, found.more, console)
    for row in found.dropped[:20]:
        point = {k: v for k, v in row.items() if k != "reason"}
        console.print(Text(f"{_named(point)}: {row['reason']}", style="dim"))
    for note in found.notes:
        console.print(Text(f"note: {note}", style="yellow"))
    console.print(f"{found.considered:,} variants considered, {found.simulated} simulated", style="bold")


def _plans(found: Recommendation, console: Console) -> None:
    """The plans of the best size: where their time goes, what they hold, what they move."""
    links = dict.fromkeys(column for row in found.plans for column in row if column.startswith("bytes_"))
    heads = ["", *TIMES, "memory", *(f"{link.removeprefix('bytes_').replace('_', ' ')} bytes" for link in links)]
    lines = [
        [
            row["plan"], *(format_quantity(row[part], "time") for part in TIMES),
            f"{format_quantity(row['memory_peak'], 'data')} of {format_quantity(row['memory_capacity'], 'data')}",
            *(format_quantity(row[link], "data") if link in row else "" for link in links),
        ]
        for row in found.plans
    ]  # fmt: skip
    print_grid("plans of the best size: time, memory and traffic of a step, per accelerator", heads, lines, console)


def _neighbour(what: str, found: Recommendation, other: Candidate | None, console: Console) -> None:
    """What a smaller or larger variant would do to limits, objective and size."""
    best = found.best
    if other is None or best is None:
        return
    gpus = int(other.row["accelerators"]) - int(best.row["accelerators"])
    said = [f"{gpus:+d} accelerators"]
    said += [
        f"breaks {limit.metric}: {figure_text(limit.metric, metric_of(other.row, limit.metric))}"
        for limit in found.limits
        if limit in other.broken
    ]
    for metric in dict.fromkeys([found.metric, *(x.metric for x in found.limits), "slo_goodput", "training_seconds"]):
        ours, theirs = metric_of(best.row, metric), metric_of(other.row, metric)
        if ours and theirs is not None and metric != "accelerators":
            said.append(f"{metric} {change_text(ours, theirs)}")
    console.print(Text(f"{what}: {', '.join(said)}"))


def _parts(point: Mapping[str, Any]) -> list[str]:
    """The values of a point, a plan in short form."""
    parts = []
    for path, value in point.items():
        if isinstance(value, Mapping):
            shown = {k: v for k, v in value.items() if v not in (1, False, "none")}
            parts += [f"{k} {v}" for k, v in shown.items()]
        elif isinstance(value, list) and all(isinstance(v, Mapping) and "plan" in v for v in value):
            parts += [_group(v) for v in value]
        else:
            parts.append(f"{path.rpartition('.')[2]} {value}")
    return parts


def _group(group: Mapping[str, Any]) -> str:
    """Equal replicas of a division, such as ``4 × dgx-h100 tp2 pp1``."""
    plan = group["plan"]
    return f"{group['count']} × {group['profile']} tp{plan['tensor_parallel']} pp{plan['pipeline_parallel']}"


def _named(point: Mapping[str, Any]) -> str:
    return ", ".join(_parts(point))
