"""Shell scripts: writing one with a long command, and finding the command of an engine in one that somebody wrote."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence

from simulator.errors import ConfigError

__all__ = ["MARK", "marked", "script", "statements"]

MARK = "#: "
"""Begins a line that says ``path=value``: what the arguments of the engine cannot say, for reading them again."""

_STATEMENT_ENDS = {";", "&", "&&", "|", "||", "\n"}
_VARIABLE = re.compile(r"\$(?:\{(\w+)(?:\[[@*]\])?(?::?-([^}]*))?\}|(\w+))")


def script(title: Sequence[str], marks: Iterable[str], command: Sequence[str], arguments: Iterable[str]) -> str:
    """A script with comments, marked lines and one command, an argument per line."""
    lines = ["#!/bin/sh", *(f"# {line}" for line in title), *(f"{MARK}{mark}" for mark in marks)]
    lines.append(" \\\n    ".join([shlex.join(command), *arguments]))
    return "\n".join(lines) + "\n"


def marked(text: str) -> list[str]:
    """The ``path=value`` texts of the marked lines."""
    return [line[len(MARK) :].strip() for line in text.splitlines() if line.startswith(MARK)]


def statements(text: str) -> list[list[str]]:
    """The commands of a script as words, with the variables that it sets itself filled in.

    Arrays (``ARGS=(--a 1)`` and ``${ARGS[@]}``) and defaults (``${TP:-8}``) are known; what a shell would have to
    compute stays as it is written.

    Raises
    ------
    ConfigError
        If a quote is left open.
    """
    lines = (line for line in text.replace("\\\n", " ").splitlines() if not line.lstrip().startswith("#"))
    lexer = shlex.shlex("\n".join(lines), posix=True, punctuation_chars="();&|\n")
    lexer.whitespace, lexer.commenters, lexer.whitespace_split = " \t\r", "", True
    try:
        tokens = [part for token in lexer for part in _ends(token)]
    except ValueError as error:
        raise ConfigError(f"the command cannot be read: {error}") from None
    known: dict[str, list[str]] = {}
    found: list[list[str]] = []
    words: list[str] = []
    stream = iter([*tokens, "\n"])
    for token in stream:
        name, equals, value = token.partition("=")
        if token in _STATEMENT_ENDS:
            if words:
                found.append(words)
            words = []
        elif equals and name.isidentifier() and not [w for w in words if w != "export"]:
            known[name] = _filled([value], known) if value else _array(stream, known)
        elif re.fullmatch(r"[0-9&]*>+[0-9&]*|<", token):
            next(stream, "")  # where output goes to
        elif not re.match(r"[0-9&]*>", token):
            words += _filled([token], known)
    return found


def _ends(token: str) -> Iterator[str]:
    """Runs of line ends and semicolons come as one token; so may a bracket and a line end."""
    if token and not set(token) - set("();&|\n"):
        yield from re.findall(r"&&|\|\||[();&|\n]", token)
    else:
        yield token


def _array(stream: Iterator[str], known: Mapping[str, list[str]]) -> list[str]:
    """The words of ``(...)`` after ``NAME=``; nothing for an empty value."""
    words: list[str] = []
    if next(stream, "\n") == "(":
        for token in stream:
            if token == ")":
                break
            if token != "\n":
                words += _filled([token], known)
    return words


def _filled(words: Iterable[str], known: Mapping[str, list[str]]) -> list[str]:
    """Words with their variables; one that is a whole word may become several."""
    found: list[str] = []
    for word in words:
        whole = _VARIABLE.fullmatch(word)
        name = (whole[1] or whole[3]) if whole else ""
        if name in known:
            parts = known[name]
            found += parts if len(parts) != 1 or "--" not in parts[0] else shlex.split(parts[0])
            continue

        def value(match: re.Match[str]) -> str:
            name = match[1] or match[3]
            if name in known:
                return " ".join(known[name])
            return match[2] if match[2] is not None else match[0]

        found.append(_VARIABLE.sub(value, word))
    return found
