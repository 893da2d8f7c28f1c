"""Every training strategy has a test from outside this project's own output: ``tests/strategy_evidence.csv`` names it.

``state`` is the register's ``validated_by``; ``test`` is a golden value, a closed form, a published figure, an ordering
against a published ratio, or a limit in which the strategy is a known baseline. Planners are among them.
"""

from __future__ import annotations

import ast
import csv
import re
from functools import cache
from pathlib import Path

import pytest

from simulator.registry import StrategyRecord, lookup, strategies
from simulator.strategies.compile import DEFAULTS

TESTS = Path(__file__).parents[2]
RECORDS = strategies("training")
READ_SOMEWHERE = re.compile(r"arXiv|abstract|table|figure|catalogue|profile-data", re.IGNORECASE)
PLAIN = {*DEFAULTS.items(), ("recompute", "none"), ("precision", "bf16"), ("pipeline", "1f1b")}
"""What a plan has when it names nothing else: their tests need not name them."""


@cache
def evidence() -> dict[tuple[str, str], dict[str, str]]:
    with (TESTS / "strategy_evidence.csv").open(encoding="utf-8") as file:
        return {(row["family"], row["strategy"]): row for row in csv.DictReader(file)}


@cache
def parts(path: Path) -> tuple[str, dict[str, str], dict[str, set[str]]]:
    """Docstring of a test module, and of each top-level name its source and the names it uses."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    sources: dict[str, str] = {}
    used: dict[str, set[str]] = {}
    for node in tree.body:
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        source = "\n".join(text.splitlines()[first - 1 : node.end_lineno])
        targets = [t.id for t in getattr(node, "targets", []) if isinstance(t, ast.Name)]
        names = [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else targets
        for name in names:
            sources[name] = source
            used[name] = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    return ast.get_docstring(tree) or "", sources, used


def source_of(test: str) -> tuple[str, str]:
    """Source of a test with what it uses of its module, and the module's docstring."""
    name, _, function = test.partition("::")
    document, sources, used = parts(TESTS / name)
    assert function in sources, f"tests/{name} has no {function}"
    return "\n".join(sources[n] for n in sources if n == function or n in used[function]), document


def test_the_table_is_the_register() -> None:
    known = {(r.family, r.name) for r in strategies("training")}
    assert set(evidence()) == known


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: f"{r.family}-{r.name}")
def test_the_named_test_is_there_and_is_about_the_strategy(record: StrategyRecord) -> None:
    row = evidence()[record.family, record.name]
    assert row["state"] == record.validated_by
    source, document = source_of(row["test"])
    if (record.family, record.name) not in PLAIN:
        names = (record.name, lookup(record.family, record.name).__name__)
        assert any(name.lower() in source.lower() for name in names), f"{row['test']} does not mention {record.name}"
    if record.validated_by in ("published", "ratio"):
        assert record.claims
        assert READ_SOMEWHERE.search(source + document), f"{row['test']} does not say where its figure was read"
