"""Arguments and options that several verbs share, and printing of JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["AsJson", "Override", "RunFolder", "SavedFolder", "ScenarioName", "SkipBadRows", "console", "print_json"]

ScenarioName: TypeAlias = Annotated[str, typer.Argument(help="A scenario file, or the name of a shipped one.")]
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
