"""Verbs that touch real hardware and other people's measurements: calibrate, verify, import, fit."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from simulator.cli.errors import BAD_INPUT, INTERRUPTED, OK
from simulator.cli.options import AsJson, console, print_json

__all__ = ["calibrate", "fit", "import_", "profile", "verify"]

Device = Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:N, as PyTorch calls it.")]
Clock = Annotated[str, typer.Option("--clock", help="wall, or cpu: processor seconds, for one thread on a busy host.")]
Threads = Annotated[int, typer.Option("--threads", help="CPU threads; 0 leaves PyTorch's choice.")]


def calibrate(
    device: Device = "cpu",
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Gets accelerators/, nodes/, networks/.")] = Path(
        "hardware_profiles"
    ),
    budget: Annotated[str, typer.Option("--budget", help="Time to spend, e.g. '120 s'.")] = "120 s",
    name: Annotated[str, typer.Option("--name", help="Of the profile; by default made from the device's.")] = "",
    base: Annotated[str, typer.Option("--base", help="Shipped accelerator whose datasheet holds here.")] = "",
    threads: Threads = 0,
    clock: Clock = "wall",
    ranks: Annotated[int, typer.Option("--ranks", help="CPU: processes that share it; 0 for none.")] = 2,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")] = False,
    as_json: AsJson = False,
) -> int:
    """Measure this machine with PyTorch microbenchmarks and write a hardware profile of it."""
    from simulator.calibration.calibrate import calibrate as run

    seconds = _seconds(budget)
    _use_threads(threads)
    with _progress("measuring", as_json) as told:
        done = run(device, out, seconds, name, base, resume, ranks, clock, told)
    curves = [
        {
            "profile": profile, "curve": curve, "points": fit.points, "median_error": fit.median_error,
            "p90_error": fit.p90_error, **fit.constants,
        }
        for profile, fits in done.fits.items()
        for curve, fit in fits.items()
    ]  # fmt: skip
    if as_json:
        files = [str(f) for f in done.files]
        print_json({"name": done.name, "files": files, "curves": curves, "left_out": done.left_out})
        return INTERRUPTED if done.outcome.interrupted else OK
    out_ = console()
    out_.print(f"{done.info.describe()}: {len(done.outcome.rows)} kernels", markup=False)
    for row in curves:
        out_.print(
            f"  {row['profile']} {row['curve']}: {row['points']} points, curve alone off by {row['median_error']:.1%} "
            f"(p90 {row['p90_error']:.0%})",
            markup=False,
        )
    out_.print(f"  {done.outcome.how()}", markup=False)
    if done.sequence is not None:
        plain, recorded = (1e6 * s for s in (done.sequence.between, done.sequence.between_recorded))
        out_.print(f"  between two kernels of a model: {plain:.0f} us, {recorded:.0f} us under autograd", markup=False)
        for probe in done.sequence.probes:
            out_.print(f"    {probe}", markup=False)
    for line in done.left_out:
        out_.print(f"  {line}", style="yellow", markup=False)
    for file in done.files:
        out_.print(f"wrote {file}", markup=False)
    return INTERRUPTED if done.outcome.interrupted else OK


def verify(
    device: Device = "cpu",
    node: Annotated[
        str, typer.Option("--profile", help="Node profile that 'fmsim calibrate' wrote: a name or a file.")
    ] = "",
    quick: Annotated[bool, typer.Option("--quick", help="A few small cases only.")] = False,
    seconds: Annotated[float, typer.Option("--seconds", help="For one training case.")] = 2.0,
    threads: Threads = 0,
    clock: Clock = "wall",
    parallel: Annotated[bool, typer.Option("--parallel/--no-parallel", help="Also two processes over gloo.")] = True,
    repeat: Annotated[int, typer.Option("--repeat", min=1, help="Run everything so often; each run is printed.")] = 1,
    against: Annotated[
        Path | None,
        typer.Option("--against", metavar="FILE", help="Earlier --json output: measured now against measured then."),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Run real models on this machine and print measured time and memory beside predicted."""
    from simulator.calibration import report
    from simulator.calibration.timing import the_clock
    from simulator.calibration.torch_setup import device_info
    from simulator.calibration.verify_all import verify_all

    _use_threads(threads)
    info = device_info(device)
    the_clock(clock, info.threads)
    runs = []
    for number in range(1, repeat + 1):
        with _progress(f"run {number} of {repeat}:" if repeat > 1 else "running", as_json) as told:
            found = verify_all(device, node or info.slug, quick, seconds, parallel, clock, told)
        runs.append(found)
        if not as_json:
            if repeat > 1:
                console().print(f"run {number} of {repeat}", style="bold")
            report.print_comparisons(found.comparisons, found.left_out, console())
            report.print_kernels(found.kernels, console())
            if against is not None:
                report.print_against(found.comparisons, against, console())
    if as_json:
        rows = [{"run": i, **row} for i, one in enumerate(runs, 1) for row in report.comparison_rows(one.comparisons)]
        kernels = [
            {"run": i, "group": k.group, "profile_s": k.profile, "now_s": k.now}
            for i, one in enumerate(runs, 1)
            for k in one.kernels
        ]
        print_json({"comparisons": rows, "kernels": kernels, "left_out": runs[-1].left_out})
    elif repeat > 1:
        report.print_repeats([one.comparisons for one in runs], console())
    return OK


def profile(
    name: Annotated[str, typer.Argument(help="Accelerator profile with measured kernels: a name or a file.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="DIR", help="Draw figures there.")] = None,
    image: Annotated[str, typer.Option("--format", help="png, svg or pdf.")] = "png",
    as_json: AsJson = False,
) -> int:
    """Show a measured profile: curves, kernels, how well each point follows from the others; and draw it."""
    from simulator.calibration.figures import FIGURES, coverage
    from simulator.errors import ConfigError
    from simulator.hardware.profiles import load_accelerator

    if image not in (kinds := ("png", "svg", "pdf")):
        raise ConfigError(f"'{image}' is not an image format, use {', '.join(kinds)}")
    accelerator = load_accelerator(name)
    rows = coverage(accelerator)
    if as_json:
        print_json(rows)
    else:
        console().print("; ".join(accelerator.sources), markup=False)
        _table(rows)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        for title, draw in FIGURES.items():
            path = output / f"{accelerator.name}-{title}.{image}"
            figure: Any = draw(accelerator).figure
            figure.savefig(path, bbox_inches="tight")
            print(path, file=sys.stderr)
    return OK


class Source(StrEnum):
    """Measurements of others that can be read."""

    aiconfigurator = "aiconfigurator"
    tables = "tables"
    nccl_tests = "nccl-tests"
    kineto = "kineto"


def import_(
    source: Annotated[Source, typer.Argument(help="Whose measurements.")],
    paths: Annotated[list[Path] | None, typer.Argument(help="Files or folders; none for aiconfigurator.")] = None,
    device: Annotated[str, typer.Option("--device", help="Device in the source, e.g. h200_sxm.")] = "",
    engine: Annotated[str, typer.Option("--engine", help="Engine whose kernels to take.")] = "",
    base: Annotated[str, typer.Option("--base", help="Shipped accelerator with the datasheet.")] = "",
    share: Annotated[float, typer.Option("--share", help="Share of the points to keep in the profile.")] = 0.1,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Write a profile there.")] = None,
    name: Annotated[str, typer.Option("--name", help="Of the profile.")] = "",
    report: Annotated[bool, typer.Option("--report", help="Errors on points that were not used.")] = False,
    as_json: AsJson = False,
) -> int:
    """Build a measured profile from published or your own measurements, and say how well it predicts the rest."""
    from simulator.calibration.importing import import_measurements

    with _progress("reading", as_json) as told:
        lines, table = import_measurements(
            source.value, paths or [], device, engine, base, share, out, name, report, told
        )
    if as_json:
        print_json({"notes": lines, "rows": table})
        return OK
    out_ = console()
    for line in lines:
        out_.print(line, markup=False)
    _table(table)
    return OK


def fit(
    logs: Annotated[list[Path], typer.Argument(help="CSV of training steps, or JSON of vLLM or SGLang benchmarks.")],
    node: Annotated[str, typer.Option("--node", help="Node profile that they ran on.")] = "",
    framework: Annotated[str, typer.Option("--framework", help="Preset to start from.")] = "",
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write the fitted framework there.")] = None,
    out_node: Annotated[
        Path | None, typer.Option("--out-node", metavar="FILE", help="Write the node with what was learnt there.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Fit constants of framework and node to your own run logs and say how much that narrows the interval."""
    from simulator.calibration.user_logs import fit_logs

    found = fit_logs(logs, node, framework, out, out_node)
    if as_json:
        print_json(found.rows())
        return OK
    out_ = console()
    for line in found.lines():
        out_.print(line, markup=False)
    return OK if found.points else BAD_INPUT


def _seconds(text: str) -> float:
    from simulator.errors import ConfigError
    from simulator.units import UnitError, parse_quantity

    try:
        value = parse_quantity(text, "time")
    except UnitError as error:
        raise ConfigError(f"--budget: {error}") from None
    if value <= 0:
        raise ConfigError("--budget must be more than 0 s")
    return value


def _use_threads(threads: int) -> None:
    if threads > 0:
        from simulator.calibration.torch_setup import require_torch

        require_torch().set_num_threads(threads)


def _table(rows: list[dict[str, object]]) -> None:
    from rich.table import Table

    if not rows:
        return
    table = Table(box=None, padding=(0, 2), pad_edge=False, header_style="dim")
    for column in rows[0]:
        table.add_column(column.replace("_", " "), justify="left")
    for row in rows:
        table.add_row(*(_cell(column, v) for column, v in row.items()))
    out = console()
    out.soft_wrap = False
    out.print(table)


_SHARES = {
    "share", "profile", "p90", "curve", "roofline", "held", "borrowed", "in interval",
    "spread", "curve alone", "left out",
}  # fmt: skip
"""Columns of relative errors and shares, printed in per cent."""


def _cell(column: str, value: object) -> str:
    if column in _SHARES and isinstance(value, float):
        return f"{value:.1%}"
    return f"{value:.3g}" if isinstance(value, float) else "" if value is None else str(value)


@contextmanager
def _progress(verb: str, quiet: bool) -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar on standard error; silent when the output is for programs or no terminal is there."""
    if quiet or not sys.stderr.isatty():
        yield lambda done, all_, what: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(verb, total=None)
        yield lambda done, all_, what: bar.update(task, completed=done, total=all_, description=f"{verb} {what}")
