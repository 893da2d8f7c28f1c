"""Verbs on saved runs: explain, plot, trace."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simulator.cli.errors import OK
from simulator.cli.options import AsJson, RunFolder, SavedFolder, console, print_json

if TYPE_CHECKING:
    from simulator.results.tables import Result
    from simulator.scenario.sweep_table import Sweep

__all__ = ["explain", "load_saved", "plot", "trace", "workloads_of"]


class Topic(StrEnum):
    """What can be explained."""

    memory = "memory"
    time = "time"
    traffic = "traffic"
    power = "power"
    source = "source"
    plans = "plans"


def explain(
    run: RunFolder,
    topic: Annotated[Topic, typer.Argument(help="What to explain.")],
    workload: Annotated[str | None, typer.Option("--workload", "-w", help="Only this workload.")] = None,
    as_json: AsJson = False,
) -> int:
    """Say where the memory, time, traffic or power of a saved run goes, what it rests on, and how its plan changed."""
    from simulator.report.explain import explain as explained
    from simulator.report.explain import print_topic
    from simulator.report.explanation import to_json
    from simulator.results.storage import load_result

    result = load_result(run)
    names = workloads_of(result, workload)
    if as_json:
        print_json({topic.value: [row for name in names for row in to_json(explained(result, topic.value, name))]})
        return OK
    out = console()
    for name in names:
        print_topic(result, name, topic.value, out)
    return OK


def workloads_of(result: Result | Sweep, wanted: str | None = None) -> list[str]:
    """Names of all workloads of a run or sweep, or the one that was asked for."""
    from simulator.errors import ConfigError, unknown_name
    from simulator.results.tables import Result

    rows = result.rows("summary") if isinstance(result, Result) else result.rows
    names = list(dict.fromkeys(str(row["workload"]) for row in rows if row["workload"]))
    if wanted is None:
        return names
    if wanted not in names:
        raise ConfigError(unknown_name("workload", wanted, names))
    return [wanted]


def plot(
    run: SavedFolder,
    figure: Annotated[
        str | None, typer.Argument(help="Name of a figure; without it, all that the run has data for.")
    ] = None,
    workload: Annotated[str | None, typer.Option("--workload", "-w", help="Only this workload.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="DIR", help="Folder for the images.")] = None,
    image: Annotated[str, typer.Option("--format", help="png, svg or pdf.")] = "png",
    as_json: AsJson = False,
) -> int:
    """Draw figures of a saved run or sweep."""
    from simulator.errors import ConfigError

    if image not in (kinds := ("png", "svg", "pdf")):
        raise ConfigError(f"'{image}' is not an image format, use {', '.join(kinds)}")
    source = load_saved(run)
    import matplotlib

    matplotlib.use("Agg")  # files only: there may be no display
    from simulator.plot import pictures, save

    folder = run if output is None else output
    folder.mkdir(parents=True, exist_ok=True)
    workloads = workloads_of(source, workload)
    drawn, left_out = [], dict[str, str]()
    for name, each in pictures(source, workloads, asked=workload is not None, only=figure):
        alone = each is None or len(workloads) == 1
        path = folder / (f"{name}.{image}" if alone else f"{name}-{_file_name(str(each))}.{image}")
        try:
            drawn.append(save(source, name, path, each))
        except ConfigError as error:  # the run has no data for it
            left_out[f"{name} of {each}" if each else name] = str(error)
    if not drawn:
        reasons = list(dict.fromkeys(left_out.values()))
        more = f" (and {len(reasons) - 1} more; its tables are CSV files in '{run}')" if len(reasons) > 1 else ""
        raise ConfigError(f"nothing to draw: {reasons[0]}{more}")
    if as_json:
        print_json({"figures": [str(path) for path in drawn], "left_out": left_out})
        return OK
    for path in drawn:
        print(path)
    return OK


def load_saved(folder: Path) -> Result | Sweep:
    """What a folder holds: a sweep, or else a run."""
    from simulator.results.storage import load_result
    from simulator.scenario.sweep_table import ABOUT, load_sweep

    return load_sweep(folder) if (folder / ABOUT).is_file() else load_result(folder)


def _file_name(workload: str) -> str:
    """The name with what file systems dislike replaced."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in workload)


def trace(
    run: RunFolder,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Default: RUN/trace.json.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Write the timeline of a saved run for chrome://tracing or ui.perfetto.dev."""
    from simulator.errors import ConfigError
    from simulator.report.trace import write_trace
    from simulator.results.storage import load_result

    target = run / "trace.json" if output is None else output
    try:
        path = write_trace(load_result(run), target)
    except OSError as error:
        raise ConfigError(f"'{target}' cannot be written: {error.strerror}") from None
    if as_json:
        print_json({"trace": str(path)})
    else:
        print(f"wrote {path}; open it in https://ui.perfetto.dev")
    return OK
