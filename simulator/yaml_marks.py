"""YAML with places: every mapping, sequence and scalar knows its file, line and column.

Error messages then point at the very key, without a second parse. The C parser composes the document into
nodes; they become :class:`MarkedNode` trees here. Differences from ``yaml.safe_load``, all to spare users a trap:

- a key that occurs twice is an error (YAML libraries silently keep the last one);
- keys stay text (``on:`` is not ``True:``, ``8:`` is ``"8"``);
- ``1e24`` is a number, ``1:30`` and dates stay text (YAML 1.1 reads the first as text, the second as 90).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from simulator.errors import ConfigError, Issue, IssueCollector

__all__ = ["MarkedNode", "load_yaml"]

Kind = Literal["mapping", "sequence", "scalar"]
PathKey = str | int

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_FLOAT = re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)([eE][-+]?\d+)?")
_BOOLS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_NAMED = {".inf": math.inf, "+.inf": math.inf, "-.inf": -math.inf, ".nan": math.nan}
_MERGE = "tag:yaml.org,2002:merge"


@dataclass(slots=True, eq=False)
class MarkedNode:
    """A piece of a YAML document with its place (line and column count from 1).

    Attributes
    ----------
    kind
        ``mapping``, ``sequence`` or ``scalar``.
    value
        ``dict[str, MarkedNode]``, ``list[MarkedNode]``, or ``str | int | float | bool | None``.
    keys
        Place of each key of a mapping.
    text
        A scalar as it is written in the document.
    """

    kind: Kind
    value: Any
    file: str
    line: int
    column: int
    keys: dict[str, tuple[int, int]] = field(default_factory=dict)
    text: str = ""

    def to_plain(self) -> Any:
        """The tree as plain dicts, lists and scalars."""
        if self.kind == "mapping":
            return {key: child.to_plain() for key, child in self.value.items()}
        if self.kind == "sequence":
            return [child.to_plain() for child in self.value]
        return self.value

    def child(self, key: PathKey) -> MarkedNode | None:
        """The node under ``key`` (a mapping's key or a sequence's index), or ``None``."""
        if self.kind == "mapping":
            found: MarkedNode | None = self.value.get(str(key))
            return found
        if self.kind == "sequence" and isinstance(key, int) and -len(self.value) <= key < len(self.value):
            item: MarkedNode = self.value[key]
            return item
        return None

    def get(self, path: Sequence[PathKey]) -> MarkedNode | None:
        """The node at ``path``, or ``None`` when the document has no such place."""
        node: MarkedNode | None = self
        for key in path:
            node = node.child(key) if node is not None else None
        return node

    def position(self, path: Sequence[PathKey] = ()) -> tuple[int, int]:
        """``(line, column)`` where a reader should look for ``path``.

        That is the value for a scalar and the key for anything larger. When the path leaves the document
        (a missing key), it is the nearest parent that is there.
        """
        node, place = self, (self.line, self.column)
        for key in path:
            below = node.child(key)
            if below is None:
                break
            at_key = node.keys.get(str(key)) if below.kind != "scalar" else None
            node, place = below, at_key or (below.line, below.column)
        return place

    def key_position(self, key: str) -> tuple[int, int]:
        """``(line, column)`` of a key of this mapping; of the mapping itself when the key is missing."""
        return self.keys.get(key, (self.line, self.column))

    def __iter__(self) -> Iterator[MarkedNode]:
        return iter(self.value.values() if self.kind == "mapping" else self.value if self.kind == "sequence" else ())


def load_yaml(source: Path | str, name: str = "") -> MarkedNode:
    """Read a YAML (or JSON) document.

    Parameters
    ----------
    source
        A :class:`~pathlib.Path` to read, or the text itself.
    name
        File name for messages; by default the path.

    Raises
    ------
    ConfigError
        If the file cannot be read, the text is not YAML, is empty, or has duplicate keys (all of them are listed).
    """
    name = name or (str(source) if isinstance(source, Path) else "")
    if isinstance(source, Path):
        try:
            source = source.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise ConfigError([Issue(name, 0, 0, "", f"cannot be read: {reason}")]) from None
    try:
        root = yaml.compose(source, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        raise ConfigError([_syntax_issue(name, error)]) from None
    except yaml.YAMLError as error:  # characters that YAML does not allow carry no mark
        raise ConfigError([Issue(name, 0, 0, "", f"is not valid YAML: {str(error).splitlines()[0]}")]) from None
    if root is None:
        raise ConfigError([Issue(name, 1, 1, "", "the document is empty: write its keys")])
    builder = _Builder(name)
    tree = builder.build(root)
    builder.issues.raise_if_any()
    return tree


def _syntax_issue(name: str, error: yaml.MarkedYAMLError) -> Issue:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
    what = " ".join(part for part in (error.context, error.problem) if part)
    hint = "; indent with spaces, not tabs" if "\\t" in what or "tab" in what else ""
    return Issue(name, line, column, "", f"is not valid YAML: {what}{hint}")


class _Builder:
    """Turns the composer's nodes into marked ones; an anchored node is built once and shared by its aliases."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.issues = IssueCollector(file)
        self._done: dict[int, MarkedNode] = {}
        self._open: set[int] = set()

    def build(self, node: Any) -> MarkedNode:
        if (known := self._done.get(id(node))) is not None:
            return known
        line, column = node.start_mark.line + 1, node.start_mark.column + 1
        if id(node) in self._open:
            self.issues.add("an alias refers to the mapping or list that contains it", line=line, column=column)
            return MarkedNode("scalar", None, self.file, line, column)
        self._open.add(id(node))
        if isinstance(node, yaml.MappingNode):
            made = self._mapping(node, line, column)
        elif isinstance(node, yaml.SequenceNode):
            made = MarkedNode("sequence", [self.build(n) for n in node.value], self.file, line, column)
        else:
            made = MarkedNode("scalar", _scalar(node), self.file, line, column, text=node.value)
        self._open.discard(id(node))
        self._done[id(node)] = made
        return made

    def _mapping(self, node: Any, line: int, column: int) -> MarkedNode:
        value: dict[str, MarkedNode] = {}
        keys: dict[str, tuple[int, int]] = {}
        merged: list[MarkedNode] = []
        for key_node, value_node in node.value:
            place = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            if not isinstance(key_node, yaml.ScalarNode):
                self.issues.add("a key must be plain text", line=place[0], column=place[1])
                continue
            if key_node.tag == _MERGE:
                below = self.build(value_node)
                merged += below.value if below.kind == "sequence" else [below]
                continue
            key = key_node.value
            if key in value:
                first = keys[key]
                self.issues.add(f"key '{key}' occurs twice (first in line {first[0]})", line=place[0], column=place[1])
                continue
            value[key], keys[key] = self.build(value_node), place
        for other in merged:
            if other.kind != "mapping":
                self.issues.add("'<<' merges mappings only", line=other.line, column=other.column)
                continue
            for key, child in other.value.items():
                if key not in value:
                    value[key], keys[key] = child, other.keys[key]
        return MarkedNode("mapping", value, self.file, line, column, keys)


def _scalar(node: Any) -> str | int | float | bool | None:
    """The Python value of a scalar; only plain (unquoted) ones can be anything but text."""
    text: str = node.value
    if node.style:
        return text
    kind = node.tag.rpartition(":")[2]
    if kind == "null":
        return None
    if kind == "bool":
        return _BOOLS[text.lower()]
    if kind == "int":
        return _integer(text)
    if text.lower() in _NAMED:
        return _NAMED[text.lower()]
    if _FLOAT.fullmatch(text):
        return float(text.replace("_", ""))
    return text


def _integer(text: str) -> int | str:
    digits = text.replace("_", "")
    try:
        return int(digits) if digits.lstrip("+-").isdigit() else int(digits, 0)
    except ValueError:  # sexagesimal (1:30)
        return text
