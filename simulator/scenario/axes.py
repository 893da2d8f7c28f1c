"""What a sweep varies: alternatives from the command line and the ``what_if:`` section, multiplied out into points.

``what_if`` maps paths to lists of values (a grid), with four keys of its own::

    what_if:
      cluster.nodes.profile: [dgx-h100, hgx-h200]        # grid: every combination
      cluster.nodes.count: 1:16:x2                       # a range: 1, 2, 4, 8, 16
      zip:                                               # these move together
        workloads.0.plan.tp: [8, 4]
        workloads.0.plan.pp: [1, 2]
      list:                                              # exactly these combinations
        - {workloads.0.plan.recompute: none, workloads.0.plan.zero_stage: 3}
        - {workloads.0.plan.recompute: full}
      when:                                              # more axes, but only where a point matches
        - if: {cluster.nodes.profile: hgx-h200}
          then: {workloads.0.batch.micro_batch_size: [1, 2]}
      skip:                                              # combinations that are left out
        - {cluster.nodes.profile: dgx-h100, cluster.nodes.count: [8, 16]}
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from simulator.errors import ConfigError, IssueCollector
from simulator.workload.plan import SHORT_NAMES
from simulator.yaml_marks import load_yaml

__all__ = ["Axes", "Point", "alternatives", "changes_of", "parse_axes", "point_texts"]

Point: TypeAlias = dict[str, Any]
"""Values by path, in the order of the axes."""

MOST_POINTS = 1_000_000
_RANGE = re.compile(r"\s*(-?\d+):(-?\d+)(?::(x?)(\d+))?\s*")
_OWN = ("zip", "list", "when", "skip")


@dataclass(frozen=True)
class Axes:
    """Alternatives before they are multiplied out.

    Attributes
    ----------
    groups
        Each a list of partial points; the points are the product of the groups, the last group fastest.
    when
        (match, groups): further groups for points that match.
    skip
        Matches that are left out.
    """

    groups: tuple[tuple[Point, ...], ...] = ()
    when: tuple[tuple[Point, tuple[tuple[Point, ...], ...]], ...] = ()
    skip: tuple[Point, ...] = ()

    @property
    def names(self) -> list[str]:
        """Every path that some point sets, in order."""
        groups = [*self.groups, *(g for _, more in self.when for g in more)]
        return list(dict.fromkeys(path for group in groups for part in group for path in part))

    def points(self) -> list[Point]:
        """Every point once, in a fixed order.

        Raises
        ------
        ConfigError
            If there are more than a million, or none is left.
        """
        found: list[Point] = []
        seen: set[str] = set()
        for point in self._expanded():
            key = json.dumps(point, sort_keys=True)
            if key not in seen and not any(_matches(point, match) for match in self.skip):
                seen.add(key)
                found.append(point)
            if len(found) > MOST_POINTS:
                raise ConfigError(f"the sweep has more than {MOST_POINTS:,} points: take fewer values")
        if not found:
            raise ConfigError("what_if.skip leaves no point of the sweep")
        return found

    def _expanded(self) -> Iterable[Point]:
        for parts in itertools.product(*self.groups):
            point = _joined(parts)
            more = [group for match, groups in self.when if _matches(point, match) for group in groups]
            for extra in itertools.product(*more):
                yield _joined((point, *extra))


def _joined(parts: Iterable[Point]) -> Point:
    point: Point = {}
    for part in parts:
        point |= part
    return point


def _matches(point: Point, match: Point) -> bool:
    """Whether every path of ``match`` has in ``point`` the value, or one of the values, that is written there."""
    return all(
        path in point and (point[path] in wanted if isinstance(wanted, list) else point[path] == wanted)
        for path, wanted in match.items()
    )


def alternatives(text: str) -> list[Any]:
    """The values of ``v1,v2`` or ``1:16[:step]`` (``:x2`` doubles); brackets and quotes protect commas.

    >>> alternatives("2:8:2"), alternatives("1:16:x4"), alternatives("a,[1, 2]")
    ([2, 4, 6, 8], [1, 4, 16], ['a', [1, 2]])

    Raises
    ------
    ConfigError
        If a range is empty or a value is not YAML.
    """
    found: list[Any] = []
    for part in _split(text):
        numbers = _range(part)
        if numbers is not None:
            found += numbers
        else:
            found.append(load_yaml(part, name=f"-s ...={text}").to_plain() if part.strip() else None)
    return found


def _range(text: str) -> list[int] | None:
    matched = _RANGE.fullmatch(text)
    if matched is None:
        return None
    first, last, times, step = int(matched[1]), int(matched[2]), bool(matched[3]), int(matched[4] or 1)
    if first > last or step < 1 or (times and (step < 2 or first < 1)):
        raise ConfigError(f"'{text.strip()}' is an empty range: write FIRST:LAST[:STEP], or FIRST:LAST:xFACTOR")
    if not times:
        return list(range(first, last + 1, step))
    numbers = []
    while first <= last:
        numbers.append(first)
        first *= step
    return numbers


def _split(text: str) -> list[str]:
    """At commas outside of brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "[{(":
            depth += 1
        elif letter in ")}]":
            depth -= 1
        elif letter == "," and depth == 0:
            parts.append("")
            continue
        parts[-1] += letter
    return parts


def changes_of(texts: Iterable[str]) -> tuple[list[str], dict[str, list[Any]]]:
    """Command-line changes: those with one value (as written), and axes by path.

    Raises
    ------
    ConfigError
        With every change that cannot be read.
    """
    fixed: list[str] = []
    axes: dict[str, list[Any]] = {}
    issues = IssueCollector()
    for text in texts:
        path, equals, value = text.partition("=")
        if not equals or not path.strip():
            issues.add("write alternatives as path=v1,v2 or path=1:16[:step]", file=f"-s {text}")
            continue
        try:
            values = alternatives(value)
        except ConfigError as error:
            issues.extend(error.issues)
            continue
        if len(values) == 1:
            fixed.append(text)
        else:
            axes[path.strip()] = values
    issues.raise_if_any()
    return fixed, axes


def parse_axes(what_if: Mapping[str, Any], given: Mapping[str, Sequence[Any]], fixed: Iterable[str] = ()) -> Axes:
    """Axes of a ``what_if`` section and of the command line, which wins where both name a path.

    Parameters
    ----------
    what_if
        The section as plain data.
    given
        Values by path from the command line.
    fixed
        Changes ``path=value`` that take their path out of the section.

    Raises
    ------
    ConfigError
        With everything in the section that cannot be read.
    """
    issues = IssueCollector()
    taken = {_canonical(p) for p in (*given, *(text.partition("=")[0].strip() for text in fixed))}

    def kept(groups: list[tuple[Point, ...]]) -> tuple[tuple[Point, ...], ...]:
        left = [tuple({p: v for p, v in part.items() if _canonical(p) not in taken} for part in g) for g in groups]
        return tuple(g for g in left if any(g))

    groups = kept(_groups({k: v for k, v in what_if.items() if k not in ("when", "skip")}, "what_if", issues))
    when = []
    for i, entry in enumerate(_sections(what_if.get("when"), "what_if.when", issues)):
        if set(entry) != {"if", "then"} or not all(isinstance(v, Mapping) for v in entry.values()):
            issues.add("write {if: {path: value}, then: {path: [values]}}", f"what_if.when[{i}]")
            continue
        when.append((dict(entry["if"]), kept(_groups(entry["then"], f"what_if.when[{i}].then", issues))))
    skip = tuple(dict(entry) for entry in _sections(what_if.get("skip"), "what_if.skip", issues))
    issues.raise_if_any()
    axes = Axes(groups + tuple(tuple({p: v} for v in values) for p, values in given.items()), tuple(when), skip)
    known = {_canonical(name) for name in axes.names}
    for match in (*(m for m, _ in axes.when), *axes.skip):
        for path in match:
            if _canonical(path) not in known | taken:
                issues.add(f"'{path}' is not varied by this sweep, so nothing can match it", "what_if")
    issues.raise_if_any()
    return axes


def _canonical(path: str) -> str:
    """A path whose spelling differs (short forms, brackets) is the same path."""
    parts = [p for p in re.split(r"[.\[\]]+", path) if p]
    return ".".join(SHORT_NAMES.get(p, p) if i and parts[i - 1] == "plan" else p for i, p in enumerate(parts))


def _sections(value: Any, path: str, issues: IssueCollector) -> list[Mapping[str, Any]]:
    """A list of mappings, or a single one."""
    found = [value] if isinstance(value, Mapping) else value or []
    if not isinstance(found, list) or not all(isinstance(item, Mapping) for item in found):
        issues.add("needs a mapping or a list of mappings", path)
        return []
    return found


def _groups(section: Mapping[str, Any], path: str, issues: IssueCollector) -> list[tuple[Point, ...]]:
    groups: list[tuple[Point, ...]] = []
    for key, value in section.items():
        where = f"{path}.{key}"
        if key == "zip":
            groups += [_zipped(entry, where, issues) for entry in _sections(value, where, issues)]
        elif key == "list":
            entries = _sections(value, where, issues)
            groups += [tuple(dict(entry) for entry in entries)] if entries else []
        elif key in _OWN:
            issues.add(f"'{key}' belongs to the top of what_if", where)
        else:
            groups.append(tuple({key: v} for v in _values(value, where, issues)))
    return [group for group in groups if group]


def _zipped(entry: Mapping[str, Any], path: str, issues: IssueCollector) -> tuple[Point, ...]:
    values = {key: _values(value, f"{path}.{key}", issues) for key, value in entry.items()}
    lengths = {key: len(v) for key, v in values.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{key} has {n}" for key, n in lengths.items())
        issues.add(f"zipped lists need one length: {shown}", path)
        return ()
    return tuple(dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True))


def _values(value: Any, path: str, issues: IssueCollector) -> list[Any]:
    """A list as it is; a text ``1:16`` as a range."""
    if isinstance(value, list) and value:
        return value
    numbers = None
    if isinstance(value, str):
        try:
            numbers = _range(value)
        except ConfigError as error:
            issues.add(error.issues[0].message, path)
            return []
    if numbers is None:
        issues.add("needs a list of values, or a range like 1:16:x2", path)
    return numbers or []


def point_texts(point: Point) -> list[str]:
    """A point as changes of the command line: ``path=value``."""
    return [f"{path}={json.dumps(value, ensure_ascii=False)}" for path, value in point.items()]
