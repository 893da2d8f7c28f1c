"""Which predictions moved between two validations, and by how much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simulator.validation.rows import RowRecord

__all__ = ["Change", "changes"]


@dataclass(frozen=True)
class Change:
    """A row whose prediction moved: relative change, and error before and after."""

    row: RowRecord
    moved: float
    before: float
    after: float


def changes(old: Sequence[RowRecord], new: Sequence[RowRecord], least: float = 1e-3) -> list[Change]:
    """Rows that moved by more than ``least``, largest first; new and vanished answers count as infinite."""
    known = {(r.id, r.kind, r.quantity): r for r in old}
    found = []
    for row in new:
        before = known.get((row.id, row.kind, row.quantity))
        if before is None or (not before.answered and not row.answered):
            continue
        if before.answered and row.answered:
            scale = abs(before.predicted)
            moved = (row.predicted - before.predicted) / scale if scale else row.predicted
        else:
            moved = float("inf")
        if abs(moved) > least:
            found.append(Change(row, moved, before.error, row.error))
    return sorted(found, key=lambda c: (-abs(c.moved), c.row.id))
