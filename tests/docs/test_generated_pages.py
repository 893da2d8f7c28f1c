"""Pages that are generated are up to date."""

from __future__ import annotations

from pathlib import Path

from simulator import registry
from simulator.report.strategy_page import strategy_page

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_strategy_page_is_that_of_the_register() -> None:
    assert (DOCS / "strategies.md").read_text(encoding="utf-8") == strategy_page(), "run `make docs`"


def test_every_strategy_says_what_it_follows_and_how_it_was_checked() -> None:
    bare = [r.name for r in registry.strategies() if not r.summary or (r.catalogue and not r.cites)]
    assert not bare, f"without summary or citation: {bare}"
