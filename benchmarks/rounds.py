"""Rounds over cases and trees: which measurement comes next, what is known already, what is left of the time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

__all__ = ["Journal", "Measurement", "ratios", "run_rounds"]


@dataclass(frozen=True)
class Measurement:
    """CPU seconds of a case in a tree, and how long it kept us; ``seconds`` is None where the tree has no such case."""

    case: str
    tree: str
    round: int
    seconds: float | None
    wall: float


@dataclass
class Journal:
    """Measurements, each written down as soon as it is there: an interrupted run goes on where it was."""

    path: Path
    known: list[Measurement] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path, fresh: bool = False) -> Journal:
        path.parent.mkdir(parents=True, exist_ok=True)
        if fresh:
            path.unlink(missing_ok=True)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return cls(path, [Measurement(*json.loads(line)) for line in lines if line.endswith("]")])

    def add(self, found: Measurement) -> None:
        self.known.append(found)
        row = [found.case, found.tree, found.round, found.seconds, found.wall]
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def of(self, case: str, tree: str) -> list[Measurement]:
        return [m for m in self.known if (m.case, m.tree) == (case, tree)]

    def has(self, case: str, tree: str, number: int) -> bool:
        return any(m.round == number for m in self.of(case, tree))


def run_rounds(
    cases: Sequence[str], trees: Sequence[str], rounds: int, budget: float, journal: Journal,
    measure: Callable[[str, str], float | None], say: Callable[[str], None] = lambda text: None,
    clock: Callable[[], float] = time.monotonic,
) -> None:  # fmt: skip
    """Measure every case once in every tree, then again, the cheapest first, as long as ``budget`` [s] lasts.

    The trees of a case come right after each other, in turned order every other round, so that a busy machine slows
    all alike. A round of a case that would not end in time is left out; the first is always made.
    """
    begin = clock()
    for number in range(rounds):
        for place, case in enumerate(_by_cost(cases, trees, journal) if number else cases):
            missing = [tree for tree in trees if not journal.has(case, tree, number)]
            expected = _expected(case, trees, journal)
            if not missing or (number and clock() - begin + expected > budget):
                continue
            left = min(budget - (clock() - begin), _left(cases, trees, rounds, number, journal))
            say(f"round {number + 1}, case {place + 1} of {len(cases)}, {_minutes(left)} left: {case}")
            for tree in missing[:: -1 if number % 2 else 1]:
                before = clock()
                seconds = measure(tree, case)
                journal.add(Measurement(case, tree, number, seconds, clock() - before))


def _expected(case: str, trees: Sequence[str], journal: Journal) -> float:
    """How long a round of a case takes, by what it took [s]; 0 before the first."""
    walls = [[m.wall for m in journal.of(case, tree)] for tree in trees]
    return sum(median(w) for w in walls if w)


def _by_cost(cases: Sequence[str], trees: Sequence[str], journal: Journal) -> list[str]:
    return sorted(cases, key=lambda case: _expected(case, trees, journal))


def _left(cases: Sequence[str], trees: Sequence[str], rounds: int, number: int, journal: Journal) -> float:
    """Time that all rounds from this one on take, unknown cases like the mean of the known ones [s]."""
    known = [e for case in cases if (e := _expected(case, trees, journal))]
    mean = sum(known) / len(known) if known else 0.0
    each = sum(_expected(case, trees, journal) or mean for case in cases)
    unmade = [c for c in cases if not all(journal.has(c, tree, number) for tree in trees)]
    return sum(_expected(case, trees, journal) or mean for case in unmade) + (rounds - number - 1) * each


def _minutes(seconds: float) -> str:
    return f"{max(0.0, seconds) // 60:.0f} min {max(0.0, seconds) % 60:.0f} s"


def ratios(journal: Journal, case: str, now: str, before: str) -> list[float]:
    """Seconds now over seconds before, round by round."""
    base = {m.round: m.seconds for m in journal.of(case, before)}
    return list(_quotients(journal.of(case, now), base))


def _quotients(now: Sequence[Measurement], base: dict[int, float | None]) -> Iterator[float]:
    for measured in now:
        before = base.get(measured.round)
        if measured.seconds is not None and before:
            yield measured.seconds / before
