"""Where the rows of a request table come from, and what became of every one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

__all__ = ["TraceProvenance"]


@dataclass(frozen=True)
class TraceProvenance:
    """The record that keeps a trace honest: no row is dropped and nothing is scaled without an entry here.

    Attributes
    ----------
    source
        File, or description of the generator.
    format
        Name of the trace format, ``generated`` for synthetic requests.
    rows_read, rows_emitted
        Rows (generated: requests) that came in and that the table holds.
    dropped
        Reason -> count. Always ``rows_read == rows_emitted + sum(dropped.values())``.
    transforms
        What was done to the rows, in order.
    synthetic_fields
        Columns, or parts of them, that were invented: not observed on the source system.
    time_resolution_s
        Grid of the source's time stamps [s]; ``None`` when unknown, 0 for generated requests.
    seed
        Of every random number that went into the table; ``None`` when none did.
    """

    source: str
    format: str
    rows_read: int
    rows_emitted: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    transforms: tuple[str, ...] = ()
    synthetic_fields: tuple[str, ...] = ()
    time_resolution_s: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.rows_read != self.rows_emitted + sum(self.dropped.values()):
            parts = f"{self.rows_emitted} emitted and {dict(self.dropped)} dropped"
            raise ValueError(f"{self.rows_read} rows read, but {parts} do not add up to that")

    def transformed(self, note: str) -> TraceProvenance:
        """The same rows after a transform."""
        return replace(self, transforms=(*self.transforms, note))

    def kept(self, rows: int, reason: str) -> TraceProvenance:
        """The record after all but ``rows`` rows were dropped for ``reason``."""
        gone = self.rows_emitted - rows
        dropped = {**self.dropped, reason: self.dropped.get(reason, 0) + gone} if gone else self.dropped
        return replace(self, rows_emitted=rows, dropped=dropped, transforms=(*self.transforms, reason))
