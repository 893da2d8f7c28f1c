"""Records of the partition strategies against the catalogue they serve."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from simulator.registry import strategies

FAMILIES = ("tensor", "context", "expert")


def test_rows_are_written_as_in_the_catalogue(shared: Path) -> None:
    text = (shared / "reference" / "strategy_catalogue.md").read_text(encoding="utf-8")
    rows = {re.sub(r"\s*[●○◇+]", "", line.split("|")[1]).strip() for line in text.splitlines() if line.startswith("| ")}
    served = {row for family in FAMILIES for record in strategies(family=family) for row in record.catalogue}
    assert served <= rows, served - rows


@pytest.mark.parametrize("family", FAMILIES)
def test_records_are_complete(family: str) -> None:
    for record in strategies(area="training", family=family):
        assert record.kind == "pass" and record.cites and record.summary.endswith(".")
        assert record.validated_by != "none"
