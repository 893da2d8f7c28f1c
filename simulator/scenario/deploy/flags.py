"""Flags of an engine as a table, and reading a command by it: unknown flags are errors, known ones that have no
bearing on a simulation are listed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from simulator.errors import ConfigError, Issue, IssueCollector, did_you_mean

__all__ = ["Arguments", "Flag", "parse", "require"]


@dataclass(frozen=True)
class Flag:
    """One flag.

    Attributes
    ----------
    name
        As it is written here; ``aliases`` are read as well.
    path
        The key of a scenario that has the very same meaning and unit, or nothing where an engine's own rule applies.
    kind
        ``int``, ``float`` or ``str``; ``None`` for a switch, ``list`` for any number of words.
    """

    name: str
    path: str = ""
    kind: type | None = int
    aliases: tuple[str, ...] = ()


@dataclass
class Arguments:
    """A command, read.

    Attributes
    ----------
    values
        By flag: a number, a text, True for a switch, or a list of words.
    positional
        Words that belong to no flag.
    ignored
        Flags of the engine that a simulation has no use for, as they were written.
    """

    engine: str
    values: dict[str, object] = field(default_factory=dict)
    positional: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)

    def __contains__(self, flag: str) -> bool:
        return flag in self.values

    def number(self, flag: str, default: int) -> int:
        """A whole number."""
        value = self.values.get(flag, default)
        assert isinstance(value, int)
        return value

    def text(self, flag: str, default: str = "") -> str:
        """A text."""
        return str(self.values.get(flag, default))

    def by_path(self, flags: Iterable[Flag]) -> dict[str, object]:
        """Values of the flags that stand for one key of a scenario."""
        return {flag.path: self.values[flag.name] for flag in flags if flag.path and flag.name in self.values}


def parse(engine: str, words: Sequence[str], flags: Iterable[Flag], known: Iterable[str]) -> Arguments:
    """Words of a command by a table of flags.

    Parameters
    ----------
    engine
        Its name, for messages.
    words
        After the program: ``--tensor-parallel-size 8 --quantization=fp8``; ``-`` and ``_`` in names are the same.
    flags, known
        The flags that are understood, and the names of those that are not and do not matter.

    Raises
    ------
    ConfigError
        With every flag that the engine does not have, and every value that is none.
    """
    table = {_plain(name): flag for flag in flags for name in (flag.name, *flag.aliases)}
    others = {_plain(name): name for name in known}
    found = Arguments(engine)
    issues = IssueCollector()
    for name, values in _groups(words, found.positional):
        flag = table.get(_plain(name))
        if flag is not None:
            _take(found, flag, name, values, issues)
        elif _plain(name) in others:
            found.ignored.append(" ".join([name, *values]))
        else:
            spelled = dict.fromkeys((*(f.name for f in table.values()), *others.values()))
            hint = did_you_mean(name, spelled) or "it is neither read nor known to be without effect here"
            issues.extend([Issue("", 0, 0, name, f"{engine} has no flag '{name}', {hint}")])
    issues.raise_if_any()
    return found


def _plain(name: str) -> str:
    return name.lstrip("-").replace("_", "-") if name.startswith("--") else name


def _groups(words: Sequence[str], positional: list[str]) -> Iterator[tuple[str, list[str]]]:
    """(flag, its words); words before the first flag are positional."""
    name, values = "", list[str]()
    for word in words:
        if re.match(r"--?[A-Za-z]", word):
            if name:
                yield name, values
            name, equals, value = word.partition("=")
            values = [value] if equals else []
        elif name:
            values.append(word)
        else:
            positional.append(word)
    if name:
        yield name, values


def _take(found: Arguments, flag: Flag, name: str, values: list[str], issues: IssueCollector) -> None:
    if flag.kind is list:
        found.values[flag.name] = values
        return
    if flag.kind is None:
        found.values[flag.name] = True
        found.positional += values
        return
    if not values:
        issues.extend([Issue("", 0, 0, name, f"{name} needs a value")])
        return
    found.positional += values[1:]
    try:
        found.values[flag.name] = flag.kind(values[0])
    except ValueError:
        what = {int: "a whole number", float: "a number"}.get(flag.kind, "a text")
        unset = " (a shell variable that is not set here)" if "$" in values[0] else ""
        issues.extend([Issue("", 0, 0, name, f"{name} needs {what}, have '{values[0]}'{unset}")])


def require(given: Mapping[str, object], names: Sequence[str], engine: str) -> None:
    """Refuse arguments that lack what a plan cannot do without.

    Raises
    ------
    ConfigError
        Naming all that are missing.
    """
    if missing := [name for name in names if name not in given]:
        raise ConfigError(f"the arguments of {engine} lack {', '.join(missing)}")
