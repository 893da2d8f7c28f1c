"""Reads one mapping of a profile key by key, collecting every error with its place.

A reader never raises: a bad or missing value is recorded and a harmless stand-in returned, so that one pass
over a file finds all that is wrong with it. The caller raises at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TypeVar

from simulator.errors import ConfigError, IssueCollector, did_you_mean
from simulator.units import UnitError, parse_quantity
from simulator.yaml_marks import MarkedNode

__all__ = ["Reader"]

T = TypeVar("T")


class Reader:
    """A cursor over one mapping; ask for each key that may occur, then call :meth:`finish`."""

    def __init__(self, node: MarkedNode, issues: IssueCollector, path: str = "") -> None:
        self.node, self.issues, self.path = node, issues, path
        self.seen: list[str] = []
        if node.kind != "mapping":
            self.issues.add("must be a mapping of keys to values", path, node.line, node.column)
            self.node = MarkedNode("mapping", {}, node.file, node.line, node.column)

    def __contains__(self, key: str) -> bool:
        return key in self.node.value

    def keys(self) -> list[str]:
        """The keys that the document has here."""
        return list(self.node.value)

    def error(self, message: str, key: str = "") -> None:
        """Record an error at ``key`` (or at the mapping)."""
        line, column = self.node.position((key,)) if key else (self.node.line, self.node.column)
        self.issues.add(message, self._join(key), line, column)

    def take(self, key: str, required: bool = False) -> MarkedNode | None:
        """The node under ``key``; ``null`` counts as left out."""
        self.seen.append(key)
        node = self.node.child(key)
        if node is None or (node.kind == "scalar" and node.value is None):
            if required:
                self.error(f"'{key}' is missing", key)
            return None
        return node

    def quantity(self, key: str, dimension: str, default: float | None = None) -> float:
        """A number with a unit, in SI [of ``dimension``]; required when there is no default."""
        node = self.take(key, required=default is None)
        return (math.nan if default is None else default) if node is None else self.parse(node, key, dimension)

    def optional(self, key: str, dimension: str) -> float | None:
        """A quantity, or ``None`` when the profile leaves it out."""
        node = self.take(key)
        return None if node is None else self.parse(node, key, dimension)

    def parse(self, node: MarkedNode, key: str, dimension: str) -> float:
        """One node as a non-negative quantity; NaN and an error if it is not one."""
        try:
            value = parse_quantity(node.value if node.kind == "scalar" else node.to_plain(), dimension)
        except UnitError as error:
            self.issues.add(str(error), self._join(key), node.line, node.column)
            return math.nan
        if value < 0:
            self.issues.add(f"'{node.text}' is negative", self._join(key), node.line, node.column)
        return value

    def pair(self, key: str, dimension: str) -> tuple[float, float] | None:
        """A ``[low, high]`` range of quantities, or ``None``."""
        node = self.take(key)
        if node is None:
            return None
        if node.kind != "sequence" or len(node.value) != 2:
            self.error("must be a range: [low, high]", key)
            return None
        low, high = (self.parse(n, key, dimension) for n in node.value)
        if low > high:
            self.error("the low end of the range is above the high end", key)
        return low, high

    def text(self, key: str, default: str | None = None) -> str:
        """A text (numbers are taken as written); required when there is no default."""
        node = self.take(key, required=default is None)
        if node is None:
            return default or ""
        if node.kind != "scalar":
            self.error("must be a text", key)
            return ""
        return node.text

    def choice(self, key: str, allowed: tuple[T, ...], default: T | None = None) -> T:
        """One of a few words."""
        word = self.text(key, None if default is None else str(default))
        found = next((a for a in allowed if a == word), None)
        if found is None:
            if word:
                self.error(f"'{word}' is not one of {', '.join(map(str, allowed))}", key)
            return allowed[0]
        return found

    def integer(self, key: str, default: int | None = None, least: int = 0) -> int:
        """A whole number of at least ``least``; required when there is no default."""
        node = self.take(key, required=default is None)
        if node is None:
            return least if default is None else default
        if not isinstance(node.value, int) or isinstance(node.value, bool) or node.value < least:
            self.error(f"must be a whole number of at least {least}", key)
            return least
        return node.value

    def flag(self, key: str, default: bool = False) -> bool:
        """``true`` or ``false``."""
        node = self.take(key)
        if node is None:
            return default
        if not isinstance(node.value, bool):
            self.error("must be true or false", key)
            return default
        return node.value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts, empty when left out."""
        node = self.take(key)
        if node is None:
            return ()
        if node.kind != "sequence" or any(n.kind != "scalar" for n in node.value):
            self.error("must be a list of texts", key)
            return ()
        return tuple(n.text for n in node.value)

    def section(self, key: str, required: bool = False) -> Reader | None:
        """A reader of the mapping under ``key``, or ``None``."""
        node = self.take(key, required)
        return None if node is None else Reader(node, self.issues, self._join(key))

    def sections(self, key: str, required: bool = False) -> list[Reader]:
        """Readers of the mappings in the list under ``key``."""
        node = self.take(key, required)
        if node is None:
            return []
        if node.kind != "sequence":
            self.error("must be a list", key)
            return []
        return [Reader(n, self.issues, f"{self._join(key)}[{i}]") for i, n in enumerate(node.value)]

    def reference(self, key: str, load: Callable[[str], T], fallback: T) -> T:
        """Another profile named under ``key``; its own errors are reported with this file's."""
        name = self.text(key)
        if not name:
            return fallback
        try:
            return load(name)
        except ConfigError as error:
            for issue in error.issues:
                if issue.file:
                    self.issues.extend([issue])
                else:
                    self.error(issue.message, key)
            return fallback

    def finish(self, also: Iterable[str] = ()) -> None:
        """Report the keys that nobody asked for."""
        known = [*self.seen, *also]
        for key in self.node.value:
            if key not in known:
                line, column = self.node.key_position(key)
                hint = did_you_mean(key, known) or f"known here: {', '.join(dict.fromkeys(known))}"
                self.issues.add(f"unknown key '{key}', {hint}", self._join(key), line, column)

    def _join(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path and key else self.path or key
