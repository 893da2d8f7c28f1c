"""Pages that are generated are up to date."""

from __future__ import annotations

import io
from fnmatch import fnmatch
from pathlib import Path

from rich.console import Console

import simulator
from simulator import registry
from simulator.report.results_page import LINES, results_page
from simulator.report.strategy_page import strategy_page
from simulator.report.terminal import print_result
from simulator.results.tables import schema

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_strategy_page_is_that_of_the_register() -> None:
    assert (DOCS / "strategies.md").read_text(encoding="utf-8") == strategy_page(), "run `make docs`"


def test_the_page_of_results_is_that_of_the_schema() -> None:
    assert (DOCS / "results.md").read_text(encoding="utf-8") == results_page(), "run `make docs`"


def test_lines_of_a_run_name_columns_that_there_are_in_words_that_are_printed() -> None:
    columns = {column for table, column in schema() if table == "summary"}
    for _, named, _ in LINES:
        for name in named.split(", "):
            assert any(fnmatch(column, name) for column in columns), name
    printed = io.StringIO()
    print_result(simulator.run("quickstart", ["workloads.1.requests.count=50"]), Console(file=printed, width=160))
    said = printed.getvalue().lower()
    missing = [word for line, _, _ in LINES for word in line.lower().split(", ") if word not in said]
    assert missing == ["effective time"]  # of a job with failures or checkpoints


def test_every_strategy_says_what_it_follows_and_how_it_was_checked() -> None:
    bare = [r.name for r in registry.strategies() if not r.summary or (r.catalogue and not r.cites)]
    assert not bare, f"without summary or citation: {bare}"
