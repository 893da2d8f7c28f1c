"""Verbs on saved runs: explain, plot, trace."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simulator.cli.errors import OK
from simulator.cli.options import AsJson, RunFolder, console, print_json

if TYPE_CHECKING:
    from simulator.results.tables import Result

__all__ = ["explain", "plot", "trace"]


class Topic(StrEnum):
    """What can be explained."""

    memory = "memory"
    time = "time"
    traffic = "traffic"
    source = "source"


_TABLES = {Topic.memory: "memory", Topic.time: "time", Topic.traffic: "traffic", Topic.source: "sources"}


def explain(
    run: RunFolder,
    topic: Annotated[Topic, typer.Argument(help="What to explain.")],
    workload: Annotated[str | None, typer.Option("--workload", "-w", help="Only this workload.")] = None,
    as_json: AsJson = False,
) -> int:
    """Say where the memory, time or traffic of a saved run goes, or which constants and sources it rests on."""
    from simulator.errors import ConfigError, unknown_name
    from simulator.report.explain import print_topic
    from simulator.results.storage import load_result

    result = load_result(run)
    names = [row["workload"] for row in result.rows("summary")]
    if workload is not None and workload not in names:
        raise ConfigError(unknown_name("workload", workload, names))
    table = _TABLES[topic]
    if as_json:
        rows = result.to_json((table,)).get(table, [])
        print_json({table: [r for r in rows if workload in (None, r["workload"])]})
        return OK
    out = console()
    for name in names if workload is None else [workload]:
        print_topic(result, name, topic.value, out)
    return OK


def plot(
    run: RunFolder,
    figure: Annotated[
        str | None, typer.Argument(help="Name of a figure; without it, all that the run has data for.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="DIR", help="Folder for the images.")] = None,
    image: Annotated[str, typer.Option("--format", help="png, svg or pdf.")] = "png",
) -> int:
    """Draw figures of a saved run."""
    from simulator.errors import ConfigError, unknown_name
    from simulator.results.storage import load_result

    if image not in (kinds := ("png", "svg", "pdf")):
        raise ConfigError(f"'{image}' is not an image format, use {', '.join(kinds)}")
    result = load_result(run)
    import matplotlib

    matplotlib.use("Agg")  # files only: there may be no display
    figures: Mapping[str, Callable[[Result], Any]] = importlib.import_module("simulator.plot").FIGURES
    if figure is not None and figure not in figures:
        raise ConfigError(unknown_name("figure", figure, figures))
    folder = run if output is None else output
    folder.mkdir(parents=True, exist_ok=True)
    left_out = []
    for name in figures if figure is None else [figure]:
        try:
            axes = figures[name](result)
        except ConfigError as error:  # the run has no data for it
            if figure is not None:
                raise
            left_out.append(f"{name}: {error}")
            continue
        path = folder / f"{name}.{image}"
        axes.figure.savefig(path, bbox_inches="tight")
        print(path)
    for text in left_out:
        print(f"left out {text}", file=sys.stderr)
    return OK


def trace(
    run: RunFolder,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Default: RUN/trace.json.")
    ] = None,
) -> int:
    """Write the timeline of a saved run for chrome://tracing or ui.perfetto.dev."""
    import json

    from simulator.errors import ConfigError
    from simulator.report.chrome_trace import trace_events
    from simulator.results.storage import load_result

    document: dict[str, Any] = trace_events(load_result(run))
    target = run / "trace.json" if output is None else output
    try:
        target.write_text(json.dumps(document, separators=(",", ":")) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"'{target}' cannot be written: {error.strerror}") from None
    print(f"wrote {target} ({len(document['traceEvents']):,} events); open it in https://ui.perfetto.dev")
    return OK
