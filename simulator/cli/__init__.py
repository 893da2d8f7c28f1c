"""``fmsim``: the command line. Verbs only; what they do lives in the floors below.

Exit codes: 0 done, 1 a plan does not work (its reason is printed), 2 wrong input (every error with its place),
130 interrupted. Nothing heavy is imported here: ``fmsim --help`` must come at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]

_INTERRUPTED = 130
"""What the parser returns after Ctrl-C, without a word."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``fmsim`` with ``arguments`` (the process's own by default) and return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        from simulator.cli.app import app

        code = app(args=given, prog_name="fmsim", standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:
        from simulator.cli.errors import report

        verb = next((word for word in given if not word.startswith("-")), "")
        return report(error, as_json="--json" in given, verb=verb)
    if code == _INTERRUPTED:
        print("fmsim: interrupted", file=sys.stderr)
    return code if isinstance(code, int) else 0
