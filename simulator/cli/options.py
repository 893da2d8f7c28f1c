"""Arguments and options that several verbs share, and printing of JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "AsJson", "Override", "RunFolder", "SavedFolder", "ScenarioName", "SkipBadRows", "complete_name",
    "complete_scenario", "console", "print_json",
]  # fmt: skip


def complete_scenario(incomplete: str) -> list[str]:
    """Shipped scenarios and scenario files of the working folder that begin so, for the shell."""
    from simulator.data import names

    files = [str(path) for path in sorted(Path().glob("*.y*ml"))]
    return [name for name in (*names("scenarios"), *files) if name.startswith(incomplete)]


def complete_name(incomplete: str) -> list[str]:
    """Shipped profiles, models, frameworks and request workloads that begin so, for the shell."""
    from simulator.data import names

    folders = ("accelerators", "nodes", "clusters", "networks")
    places = [f"hardware_profiles/{folder}" for folder in folders]
    places += [f"workloads/{folder}" for folder in ("models", "frameworks", "requests")]
    return sorted({name for place in places for name in names(place) if name.startswith(incomplete)})


ScenarioName: TypeAlias = Annotated[
    str,
    typer.Argument(help="A scenario file, or the name of a shipped one.", autocompletion=complete_scenario),
]
RunFolder: TypeAlias = Annotated[Path, typer.Argument(help="A folder that 'fmsim run -o' wrote.")]
SavedFolder: TypeAlias = Annotated[
    Path, typer.Argument(metavar="RUN", help="A folder that 'fmsim run -o' or 'fmsim sweep -o' wrote.")
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")]
Override: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "-s", "--set", metavar="PATH=VALUE", help="Change a value, e.g. -s workloads.0.plan.tp=4; repeatable."
    ),
]
SkipBadRows: TypeAlias = Annotated[
    bool, typer.Option("--skip-bad-rows", help="Go on without the bad rows of request traces, and count them.")
]


def console() -> Console:
    """Where results go; rich is imported only when something is printed."""
    import sys

    from rich.console import Console

    # Into a file or pipe nothing is folded to the 80 columns that rich assumes there.
    width = None if sys.stdout.isatty() else 160
    return Console(highlight=False, soft_wrap=True, width=width)


def print_json(value: Any) -> None:
    """JSON that every parser takes: NaN and infinities are not allowed in it."""
    import json

    print(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False, default=str))
