"""Errors of user input: collected, all reported at once, each with its place and its cure.

Only wrong *input* raises. A plan that does not fit or does not work is a result
(``feasible=False`` with a reason), never an exception.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

__all__ = ["ConfigError", "Issue", "IssueCollector", "did_you_mean", "unknown_name"]


@dataclass(frozen=True, order=True)
class Issue:
    """One thing that is wrong in the input.

    Attributes
    ----------
    file, line, column
        Where (1-based); ``""`` and 0 when the input did not come from a file.
    path
        Dotted path inside the document, e.g. ``workloads[0].plan.tensor_parallel``.
    message
        What is wrong and how to fix it.
    """

    file: str
    line: int
    column: int
    path: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}: " if self.line else f"{self.file}: " if self.file else ""
        return f"{place}{self.path}: {self.message}" if self.path else f"{place}{self.message}"


class ConfigError(Exception):
    """One or more issues with the user's input; the command line prints them and exits with code 2."""

    def __init__(self, issues: Iterable[Issue] | str) -> None:
        self.issues: tuple[Issue, ...] = (
            (Issue("", 0, 0, "", issues),) if isinstance(issues, str) else tuple(dict.fromkeys(issues))
        )
        super().__init__("\n".join(map(str, self.issues)))


class IssueCollector:
    """Gathers issues so that the user sees all of them in one go."""

    def __init__(self, file: str = "") -> None:
        self.file = file
        self._issues: list[Issue] = []

    def add(self, message: str, path: str = "", line: int = 0, column: int = 0, file: str | None = None) -> None:
        """Record an issue; ``file`` defaults to the collector's."""
        self._issues.append(Issue(self.file if file is None else file, line, column, path, message))

    def extend(self, issues: Iterable[Issue]) -> None:
        """Record issues found elsewhere."""
        self._issues.extend(issues)

    def __bool__(self) -> bool:
        return bool(self._issues)

    def __iter__(self) -> Iterator[Issue]:
        return iter(self._issues)

    def raise_if_any(self) -> None:
        """Raise :class:`ConfigError` with everything collected, in document order."""
        if self._issues:
            raise ConfigError(sorted(self._issues, key=lambda i: (i.file, i.line, i.column)))


def did_you_mean(name: str, known: Iterable[str], limit: int = 3) -> str:
    """``"did you mean 'a' or 'b'?"``, or ``""`` when nothing is near."""
    close = difflib.get_close_matches(name, list(known), n=limit, cutoff=0.6)
    return f"did you mean {' or '.join(repr(c) for c in close)}?" if close else ""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """A message for a name that is not in ``known``: the near ones, or all when they are few."""
    names = sorted(known)
    hint = did_you_mean(name, names)
    if not hint:
        shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
        hint = f"known: {shown}" if names else "none is known"
    return f"unknown {kind} '{name}', {hint}"
