"""The one place where errors become text and exit codes."""

from __future__ import annotations

import os
import sys

from simulator.errors import ConfigError

__all__ = ["BAD_INPUT", "INFEASIBLE", "INTERRUPTED", "OK", "report"]

OK, INFEASIBLE, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def report(error: BaseException, as_json: bool = False, verb: str = "") -> int:
    """Print an error that ended a command and return the exit code; an error of the program itself is raised again."""
    import typer
    from typer.exceptions import TyperException

    if isinstance(error, ConfigError):
        return _bad_input(error, as_json)
    if isinstance(error, typer.Exit):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        print("fmsim: interrupted", file=sys.stderr)
        return INTERRUPTED
    if isinstance(error, TyperException):  # unknown verbs and options
        show = getattr(error, "show", None)
        if show is not None:
            show()
        if help_text := _help_of(error, verb):
            print(help_text, file=sys.stderr)
        return BAD_INPUT
    if isinstance(error, BrokenPipeError):
        # The reader (head, less) went away; keep Python from complaining when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    raise error


def _help_of(error: BaseException, verb: str) -> str:
    """What the option of a verb is for that was given without its value."""
    name = getattr(error, "option_name", None)
    if not name:
        return ""
    import typer

    from simulator.cli.app import app

    command = getattr(typer.main.get_command(app), "commands", {}).get(verb)
    for option in getattr(command, "params", ()):
        if name in option.opts and getattr(option, "help", None):
            return f"{name} {option.metavar or ''}: {option.help}"
    return ""


def _bad_input(error: ConfigError, as_json: bool) -> int:
    for issue in error.issues:
        print(f"error: {issue}", file=sys.stderr)
    if len(error.issues) > 1:
        print(f"{len(error.issues)} errors", file=sys.stderr)
    if as_json:
        import json
        from dataclasses import asdict

        print(json.dumps({"errors": [asdict(issue) for issue in error.issues]}, indent=1, ensure_ascii=False))
    return BAD_INPUT
