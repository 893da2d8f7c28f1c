"""Which catalogue rows nobody serves."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulator import registry
from simulator.errors import ConfigError
from simulator.report.missing import catalogue_rows, missing_rows, normalise, theme_rows

TEXT = """\
# Catalogue

## 0. Formulas

| system | formula |
|---|---|
| not a system | 1 |

## 2. Pipelines

### 2a. Synchronous

| system | year |
|---|---|
| 1F1B / PipeDream-Flush, DAPPLE ○ | 2020 |
| **Nobody's  Pipe** ◇ + | 2030 |

| quantity | value |
|---|---|
| not a system either | 2 |

## 12. Golden values

| system | value |
|---|---|
| nor this | 3 |
"""


def test_rows_of_sections_1_to_11_with_a_system_column(tmp_path: Path) -> None:
    assert [name for _, name in catalogue_rows(TEXT)] == ["1F1B / PipeDream-Flush, DAPPLE", "Nobody's Pipe"]
    path = tmp_path / "catalogue.md"
    path.write_text(TEXT, encoding="utf-8")
    assert missing_rows(path) == [("2a. Synchronous", "Nobody's Pipe")]


def test_names_are_compared_without_marks_and_emphasis() -> None:
    assert normalise("**Zero  Bubble** ◇ +") == normalise("zero bubble")


def test_a_file_without_a_catalogue_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "notes.md"
    path.write_text("# nothing here\n")
    with pytest.raises(ConfigError, match="no table"):
        missing_rows(path)


def test_every_row_a_strategy_claims_to_serve_is_in_the_reference(shared: Path) -> None:
    text = (shared / "reference" / "strategy_catalogue.md").read_text(encoding="utf-8")
    rows = {normalise(name) for _, name in catalogue_rows(text)}
    assert len(rows) > 100
    themes = theme_rows(text)
    assert len(themes) == 8 + 6
    rows |= {normalise(name) for name in themes}
    unknown = {(r.name, n) for r in registry.strategies() for n in r.catalogue if normalise(n) not in rows}
    assert not unknown
