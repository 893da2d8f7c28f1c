"""The verbs put together, in the order in which a newcomer needs them."""

from __future__ import annotations

from typing import Annotated

import typer

from simulator.cli import buying, calibration, catalogue, deploy, results, scenarios, validation, whatif

__all__ = ["app"]

app = typer.Typer(
    name="fmsim",
    help="Simulate foundation-model clusters: training, serving, memory, bandwidth, energy and cost.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from simulator import __version__

        print(f"fmsim {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Exit codes: 0 done, 1 a plan does not work, 2 wrong input, 130 interrupted."""


app.command()(scenarios.run)
app.command()(scenarios.estimate)
app.command()(scenarios.check)
app.command()(scenarios.new)
app.command()(scenarios.schema)
app.command()(whatif.sweep)
app.command()(whatif.compare)
app.command()(whatif.recommend)
app.command()(whatif.report)
app.command()(buying.bom)
app.command()(buying.buy)
app.command()(deploy.export)
app.command()(validation.validate)
app.command()(results.explain)
app.command()(results.plot)
app.command()(results.trace)
app.command("list")(catalogue.list_)
app.command()(catalogue.show)
app.command()(calibration.calibrate)
app.command()(calibration.verify)
app.command()(calibration.profile)
app.command("import")(calibration.import_)
app.command()(calibration.fit)
