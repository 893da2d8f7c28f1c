"""Verbs on many variants: sweep, compare, recommend, report."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simulator.cli.errors import INFEASIBLE, OK
from simulator.cli.options import AsJson, ScenarioName, SkipBadRows, console, print_json

if TYPE_CHECKING:
    from simulator.results.tables import Result
    from simulator.scenario.sweep_table import Sweep

__all__ = ["compare", "recommend", "report", "sweep"]

Alternatives = Annotated[
    list[str] | None,
    typer.Option(
        "-s", "--set", metavar="PATH=V1,V2",
        help="Alternatives, e.g. -s cluster.nodes.count=1:16 or -s workloads.0.plan.tp=1,2,4; repeatable. "
        "One value is a change that holds everywhere.",
    ),
]  # fmt: skip
Jobs = Annotated[int | None, typer.Option("-j", "--jobs", min=1, help="Processes; default: all cores.")]


class Depth(StrEnum):
    """How deep a point is computed."""

    estimate = "estimate"
    step = "step"
    run = "run"


class Where(StrEnum):
    """Where points are computed."""

    local = "local"
    ray = "ray"


@contextmanager
def progress_bar(quiet: bool, what: str = "points") -> Iterator[Callable[[int, int], None] | None]:
    """A bar with the time that is left, on the terminal only; nothing into files and pipes."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def sweep(
    scenario: ScenarioName,
    set_: Alternatives = None,
    depth: Annotated[Depth, typer.Option(help="Bounds, one step, or everything on the clock.")] = Depth.run,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="DIR", help="Keep finished points here; run again to go on."),
    ] = None,
    jobs: Jobs = None,
    executor: Annotated[Where, typer.Option(help="Local processes, or a Ray cluster.")] = Where.local,
    skip_bad_rows: SkipBadRows = False,
    as_json: AsJson = False,
) -> int:
    """Compute every variant of a scenario: its what_if section and the alternatives given here."""
    from simulator.scenario.sweep import sweep as run_sweep

    with progress_bar(as_json) as progress:
        found = run_sweep(
            scenario, set_ or (), depth=depth.value, output=output, jobs=jobs, executor=executor.value,
            progress=progress, skip_bad_rows=skip_bad_rows,
        )  # fmt: skip
    if as_json:
        print_json(found.to_json())
    else:
        from simulator.report.variants import print_sweep

        print_sweep(found, console())
        if output is not None:
            print(f"saved in {output}", file=sys.stderr)
    return OK if any(row["status"] == "ok" for row in found.rows) else INFEASIBLE


def compare(
    variants: Annotated[
        list[str], typer.Argument(help="Saved runs, rows of saved sweeps (DIR#3), scenario files or shipped names.")
    ],
    set_: Alternatives = None,
    depth: Annotated[Depth, typer.Option(help="How deep scenarios are computed.")] = Depth.run,
    workload: Annotated[str | None, typer.Option("--workload", "-w", help="Which workload.")] = None,
    draws: Annotated[int, typer.Option(min=100, help="Draws of constants and prices.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Of these draws.")] = 0,
    traffic_draws: Annotated[
        int, typer.Option(min=0, help="Runs with requests, failures, constants, prices drawn.")
    ] = 0,
    jobs: Jobs = None,
    as_json: AsJson = False,
) -> int:
    """Explain how variants differ: time, memory, bytes and cost, and in how many draws one beats the other."""
    from simulator.scenario.compare import compare as compared

    found = compared(
        variants, set_ or (), depth=depth.value, workload=workload, draws=draws, seed=seed,
        traffic_draws=traffic_draws, jobs=jobs,
    )  # fmt: skip
    if as_json:
        print_json(found.to_json())
    else:
        from simulator.report.comparison import print_comparison

        print_comparison(found, console())
    return OK


class Goal(StrEnum):
    """What is minimised."""

    gpus = "gpus"
    cost = "cost"
    energy = "energy"
    time = "time"


def recommend(
    scenario: ScenarioName,
    set_: Alternatives = None,
    objective: Annotated[Goal, typer.Option(help="Fewest GPUs, lowest cost or energy, or shortest time.")] = Goal.cost,
    limit: Annotated[
        list[str] | None,
        typer.Option("--limit", metavar="METRIC=VALUE", help="E.g. ttft_p90=300ms or usd_per_hour=200; repeatable."),
    ] = None,
    max_gpus: Annotated[int, typer.Option(min=1, help="Largest variant.")] = 1024,
    keep: Annotated[int, typer.Option(min=1, help="The best and runners-up to show.")] = 5,
    planner: Annotated[
        str,
        typer.Option(metavar="NAME", help="See 'fmsim list strategies --family planner'; hexgen divides a mixed pool."),
    ] = "exhaustive",
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Write the best as a scenario; 'fmsim export' takes it."),
    ] = None,
    jobs: Jobs = None,
    as_json: AsJson = False,
) -> int:
    """Find the best hardware, layout and size under limits; say what binds and what one more would buy."""
    from simulator.scenario.recommend import recommend as recommended

    with progress_bar(as_json, "searching") as progress:
        found = recommended(
            scenario, set_ or (), objective=objective.value, limits=limit or (), max_accelerators=max_gpus, keep=keep,
            jobs=jobs, planner=planner, progress=progress,
        )  # fmt: skip
    if output is not None and found.scenario is not None:
        write_scenario(found.scenario, output)
    if as_json:
        print_json(found.to_json())
    else:
        from simulator.report.variants import print_recommendation

        print_recommendation(found, console())
    return OK if found.best is not None else INFEASIBLE


def write_scenario(document: Mapping[str, Any], path: Path) -> None:
    """A scenario as YAML."""
    import yaml

    from simulator.errors import ConfigError

    try:
        path.write_text(yaml.safe_dump(dict(document), sort_keys=False, width=110), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"'{path}' cannot be written: {error.strerror or error}") from None
    print(f"wrote {path}", file=sys.stderr)


def report(
    source: Annotated[Path, typer.Argument(help="A folder that 'fmsim run -o' or 'fmsim sweep -o' wrote.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE", help="Default: report.html.")] = None,
    figures: Annotated[bool, typer.Option(help="Also draw the figures of 'fmsim plot' into the page.")] = True,
    as_json: AsJson = False,
) -> int:
    """Write one self-contained HTML page of a saved run or sweep; it opens offline and prints."""
    from simulator.cli.results import load_saved
    from simulator.report.html import result_page, sweep_page, write_page
    from simulator.results.tables import Result

    target = Path("report.html") if output is None else output
    found = load_saved(source)
    drawn = drawings(found) if figures else None
    text = result_page(found, drawn) if isinstance(found, Result) else sweep_page(found, drawn)
    path = write_page(text, target)
    if as_json:
        print_json({"report": str(path), "bytes": path.stat().st_size})
    else:
        print(f"wrote {path}")
    return OK


def drawings(source: Result | Sweep) -> dict[str, str]:
    """The figures that a result or sweep has data for, as images that live in the page."""
    import base64
    import tempfile
    from html import escape

    import matplotlib

    matplotlib.use("Agg")
    from simulator.cli.results import workloads_of
    from simulator.errors import ConfigError
    from simulator.plot import pictures, save

    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, workload in pictures(source, workloads_of(source)):
            if name in ("memory_bars", "step_waterfall", "traffic_bars"):
                continue  # the page has its own, which answer to the mouse
            try:
                path = save(source, name, Path(folder) / f"{name}.png", workload)
            except ConfigError:  # there is no data for it
                continue
            caption = escape(name.replace("_", " ") + (f" of {workload}" if workload else ""), quote=True)
            image = path.read_bytes()
            width = int.from_bytes(image[16:20], "big") * 72 // 150  # of a PNG, at its size on paper
            data = base64.b64encode(image).decode()
            wide = ' class="wide"' if width > 560 else ""
            found[caption] = f'<img alt="{caption}"{wide} width="{width}" src="data:image/png;base64,{data}">'
    return found
