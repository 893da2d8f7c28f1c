"""What passes between a scenario and the arguments of an engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from simulator.scenario.deploy.flags import Arguments, Flag
from simulator.workload.framework import Framework
from simulator.workload.model import ModelSpec

__all__ = ["Engine", "Read", "Setup", "Written", "nested"]


@dataclass(frozen=True)
class Setup:
    """One workload as an engine sees it.

    Attributes
    ----------
    kind
        ``training`` or ``serving``.
    model, framework
        Resolved.
    values
        Keys below the workload in a scenario, dotted, with their values: ``plan.tensor_parallel``,
        ``deployment.max_num_seqs`` ...
    nodes, per_node
        Nodes that the workload (one replica of a deployment) needs, and accelerators of each.
    """

    kind: Literal["training", "serving"]
    model: ModelSpec
    framework: Framework
    values: Mapping[str, Any]
    nodes: int
    per_node: int

    def __getitem__(self, path: str) -> Any:
        return self.values[path]

    def get(self, path: str, default: Any = None) -> Any:
        """A value, or ``default`` where the scenario has none."""
        return self.values.get(path, default)


@dataclass
class Written:
    """Arguments that an engine module has made.

    Attributes
    ----------
    command
        Words of the command, without those of ``arguments``: program and script.
    arguments
        (flag, value) in order; None for a switch.
    said
        Paths of the set-up that the arguments express.
    files
        Further files by name (a DeepSpeed configuration ...).
    notes
        What differs from the plan, and what has to be done by hand.
    """

    command: tuple[str, ...]
    arguments: list[tuple[str, str | None]] = field(default_factory=list)
    said: set[str] = field(default_factory=set)
    files: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, flag: str, value: Any = None, *paths: str) -> None:
        """A flag, a switch where ``value`` is None, with the paths it expresses."""
        self.arguments.append((flag, None if value is None else str(value)))
        self.said.update(paths)

    def add_table(self, table: tuple[Flag, ...], setup: Setup) -> None:
        """Every flag of a table that stands for one key, where the set-up has it."""
        for flag in table:
            if flag.path and setup.get(flag.path) is not None:
                self.add(flag.name, setup[flag.path], flag.path)


@dataclass
class Read:
    """What an engine module has understood of arguments; paths as in :class:`Setup`.

    Attributes
    ----------
    model
        A shipped name or a path.
    notes
        What of the arguments is not simulated as it is written.
    assumed
        What the arguments do not tell.
    """

    model: str
    framework: str
    values: dict[str, Any] = field(default_factory=dict)
    nodes: int | None = None
    per_node: int | None = None
    notes: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Engine:
    """One engine: a module of this package.

    Attributes
    ----------
    version
        Of the engine whose documentation or code the flags were read in.
    flags, known, unmodelled
        Flags that are read; names of those without a bearing on a simulation; and those that change a plan in a way
        that is not read, with what is assumed instead.
    write
        A set-up as arguments.
    read
        Arguments as a set-up; also given what the user says the model is (or nothing) and the files they name.
    """

    name: str
    area: Literal["training", "serving"]
    version: str
    flags: tuple[Flag, ...]
    known: tuple[str, ...]
    unmodelled: Mapping[str, str]
    write: Callable[[Setup], Written]
    read: Callable[[Arguments, str, Mapping[str, str]], Read]


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """``{"plan.tensor_parallel": 8}`` as ``{"plan": {"tensor_parallel": 8}}``."""
    found: dict[str, Any] = {}
    for path, value in values.items():
        *parents, last = path.split(".")
        section = found
        for part in parents:
            section = section.setdefault(part, {})
        section[last] = value
    return found
