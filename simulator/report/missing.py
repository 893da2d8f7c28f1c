"""Which rows of a catalogue of systems (markdown tables) no registered strategy serves yet."""

from __future__ import annotations

import re
from pathlib import Path

from simulator import registry
from simulator.errors import ConfigError

__all__ = ["catalogue_rows", "missing_rows", "normalise", "theme_rows"]

_HEADING = re.compile(r"^#+\s+(\d+[a-z]?)\.?\s+(.*)$")
_MARKS = re.compile(r"\s*[●○◇*]+|[+\s]+$")
"""Evidence marks stand behind any name of a row; a plus only at its end, where it is not part of a name."""
_FIRST, _LAST = 1, 11
"""Sections whose tables list systems; the others hold formulas, golden values and sources."""
_THEMES = 13
"""Section of what the literature leaves open, and what a simulator should offer for it."""


def normalise(name: str) -> str:
    """A row name without evidence marks, emphasis, doubled blanks and case."""
    return _clean(name).casefold()


def _clean(name: str) -> str:
    return re.sub(r"\s+", " ", _MARKS.sub("", name.replace("`", ""))).strip()


def catalogue_rows(text: str) -> list[tuple[str, str]]:
    """(section, name) of every system: the first cells of tables headed ``system`` in sections 1 to 11."""
    rows: list[tuple[str, str]] = []
    section, number, table = "", 0, False
    for line in text.splitlines():
        if heading := _HEADING.match(line):
            section, number = f"{heading[1]}. {heading[2]}", int(re.match(r"\d+", heading[1])[0])  # type: ignore[index]
        if not line.startswith("|"):
            table = False
            continue
        first = re.split(r"(?<!\\)\|", line)[1].strip()
        if first.casefold() == "system":
            table = True
        elif table and not set(first) <= set("-: ") and _FIRST <= number <= _LAST:
            rows.append((section, _clean(first)))
    return rows


def theme_rows(text: str) -> list[str]:
    """Themes of section 13 (tables headed ``theme``) and its numbered items, as ``CNC brain: Policies``."""
    found, inside, table = list[str](), False, False
    for line in text.splitlines():
        if heading := _HEADING.match(line):
            inside = heading[1] == str(_THEMES)
        if not inside:
            continue
        first = re.split(r"(?<!\\)\|", line)[1].strip() if line.startswith("|") else ""
        table = first.casefold() == "theme" or (table and line.startswith("|"))
        if table and first.casefold() != "theme" and not set(first) <= set("-: "):
            found.append(_clean(first))
        elif item := re.match(r"\d+\. \*([^*]+)\*", line):
            found.append(f"CNC brain: {item[1]}")
    return found


def missing_rows(path: Path) -> list[tuple[str, str]]:
    """Rows of the catalogue at ``path`` that no strategy names in its ``catalogue``.

    Raises
    ------
    ConfigError
        If the file cannot be read or has no such table.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"'{path}' cannot be read: {getattr(error, 'strerror', None) or error}") from None
    rows = catalogue_rows(text)
    if not rows:
        raise ConfigError(f"'{path}' has no table with a first column 'system' in its sections {_FIRST} to {_LAST}")
    served = {normalise(name) for record in registry.strategies() for name in record.catalogue}
    return [row for row in rows if normalise(row[1]) not in served]
