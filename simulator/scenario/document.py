"""The scenario as a tree with places: reading it, changing it from the command line, finding a place in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from simulator.errors import ConfigError, IssueCollector, did_you_mean
from simulator.workload.plan import SHORT_NAMES
from simulator.yaml_marks import MarkedNode, load_yaml

__all__ = ["Place", "apply_overrides", "dotted", "place_of"]

Loc = Sequence[str | int]


class Place(NamedTuple):
    """Where a reader should look; line 0 when the value came from the command line."""

    file: str
    line: int
    column: int


def dotted(loc: Loc) -> str:
    """``("workloads", 0, "plan")`` as ``workloads[0].plan``."""
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def place_of(tree: MarkedNode, loc: Loc, key: bool = False) -> Place:
    """The place of a value (of its key, if it is a section or ``key`` is asked for).

    A path that leaves the document ends at the nearest parent that is there: that is where a missing key belongs.
    """
    node, place = tree, Place(tree.file, tree.line, tree.column)
    for i, part in enumerate(loc):
        below = node.child(part)
        if below is None:
            if isinstance(part, int):  # one mapping where a list is allowed as well
                continue
            break
        at_key = node.keys.get(str(part))
        if at_key and (below.kind != "scalar" or (key and i == len(loc) - 1)):
            place = Place(below.file, *at_key)
        else:
            place = Place(below.file, below.line, below.column)
        node = below
    return place


def apply_overrides(tree: MarkedNode, overrides: Iterable[str], issues: IssueCollector) -> None:
    """Change the tree by ``path=value`` texts; values are YAML, paths are dotted.

    Items of a list are named by number or by their name (``workloads.chat.slo.ttft=200 ms``); the short forms of
    parallel degrees (``tp``, ``pp`` ...) are accepted inside ``plan``.
    What has no ``=``, is not YAML, or whose path does not exist goes to ``issues``.
    """
    for text in overrides:
        path, equals, value = text.partition("=")
        name = f"-s {text}"
        if not equals or not path.strip():
            issues.add("write a change as path=value, e.g. -s cluster.nodes.count=64", file=name)
            continue
        try:
            node = _from_command_line(value, name)
        except ConfigError as error:
            issues.extend(error.issues)
            continue
        _set(tree, [p for p in re.split(r"[.\[\]]+", path.strip()) if p], node, path.strip(), issues)


def _from_command_line(value: str, name: str) -> MarkedNode:
    if not value.strip():
        return MarkedNode("scalar", None, name, 0, 0)
    node = load_yaml(value, name=name)
    stack = [node]
    while stack:
        each = stack.pop()
        each.line = each.column = 0
        each.keys = dict.fromkeys(each.keys, (0, 0))
        stack.extend(each)
    return node


def _set(tree: MarkedNode, parts: list[str], value: MarkedNode, path: str, issues: IssueCollector) -> None:
    """Put ``value`` at ``parts``, making sections that are not there yet."""
    node = tree
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        if node.kind == "scalar":
            issues.add(f"'{'.'.join(parts[:depth])}' is a single value, it has no '{part}'", path, file=value.file)
            return
        if node.kind == "sequence":
            index = _index(node, part)
            if index is None:
                names = [n for item in node for n in _names(item)]
                hint = did_you_mean(part, names) or f"there are {len(node.value)}, counted from 0" + (
                    f": {', '.join(names)}" if names else ""
                )
                issues.add(f"no item '{part}' in '{'.'.join(parts[:depth])}', {hint}", path, file=value.file)
                return
            if last:
                node.value[index] = value
            node = node.value[index]
            continue
        key = SHORT_NAMES.get(part, part) if depth and parts[depth - 1] == "plan" else part
        if last:
            node.value[key], node.keys[key] = value, (value.line, value.column)
        elif key not in node.value or node.value[key].value is None:
            node.value[key] = MarkedNode("mapping", {}, value.file, 0, 0)
            node.keys[key] = (0, 0)
        node = node.value[key]


def _names(item: MarkedNode) -> list[str]:
    """Names by which an item of a list can be meant: of a workload, a storage tier."""
    found = (item.child(k) for k in ("training", "serving", "functions", "jobs", "name"))
    return [n.text for n in found if n is not None and n.kind == "scalar"]


def _index(node: MarkedNode, part: str) -> int | None:
    if part.isdigit():
        return int(part) if int(part) < len(node.value) else None
    return next((i for i, item in enumerate(node.value) if part in _names(item)), None)
