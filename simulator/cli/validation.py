"""The verb ``validate``: predictions against published measurements."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simulator.cli.errors import OK
from simulator.cli.options import AsJson

if TYPE_CHECKING:
    from collections.abc import Sequence

    from simulator.validation.rows import RowRecord

__all__ = ["validate"]


def validate(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE…", help="Files of measurements, or folders that hold some.")
    ],
    split: Annotated[str, typer.Option(help="Only records of this split, e.g. dev.")] = "",
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Folder for rows.csv and what is kept.")
    ] = Path("validation"),
    doc: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the tables and plots as a document.")] = None,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Also score each source without constants fitted on it.")
    ] = False,
    against: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Show what moved since a former validation.")
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=0, help="Processes; 0 takes one per core.")] = 0,
    as_json: AsJson = False,
) -> int:
    """Simulate published measurements and show the errors by source, device, model, scale and strategy."""
    from simulator.validation.document import write_document
    from simulator.validation.rows import read_rows, write_rows, write_skipped
    from simulator.validation.run import validate as run

    show = _progress if sys.stderr.isatty() else None
    former = read_rows(against / "rows.csv") if against is not None else []
    outcome = run(files, split, output / "kept", workers, show)
    rows = outcome.rows
    output.mkdir(parents=True, exist_ok=True)
    write_rows(rows, output / "rows.csv")
    write_skipped(outcome.skipped, output / "skipped.csv")
    others: Sequence[RowRecord] = ()
    if held_out:
        others = run(files, split, output / "kept", workers, show, held_out=True).rows
        write_rows(others, output / "rows-held-out.csv")
    if doc is not None:
        write_document(doc, rows, outcome.skipped, others)
    if as_json:
        _print_json(rows, others, len(outcome.skipped), former)
        return OK
    _print_summary(rows, others, len(outcome.skipped))
    if former:
        _print_changes(former, rows)
    print(f"rows: {output / 'rows.csv'}" + (f", document: {doc}" if doc else ""))
    return OK


def _print_json(
    rows: Sequence[RowRecord], others: Sequence[RowRecord], skipped: int, former: Sequence[RowRecord]
) -> None:
    from dataclasses import asdict

    from simulator.cli.options import print_json
    from simulator.validation.changes import changes
    from simulator.validation.ratios import ratio_summaries
    from simulator.validation.summary import fits_summary, group_summaries

    print_json(
        {
            "figures": len(rows),
            "skipped": skipped,
            "errors": [_finite(asdict(g)) for g in group_summaries(rows)],
            "held_out": [_finite(asdict(g)) for g in group_summaries(others, ())],
            "ratios": [_finite(asdict(r)) for r in ratio_summaries(rows)],
            "fits": _finite(asdict(fits_summary(rows))),
            "moved": len(changes(former, rows)) if former else 0,
        }
    )


def _finite(record: dict[str, object]) -> dict[str, object]:
    """JSON has no infinities: what has no answer is null."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}


def _progress(done: int, total: int) -> None:
    print(f"\r{done} of {total} configurations", end="\n" if done == total else "", file=sys.stderr, flush=True)


def _print_summary(rows: Sequence[RowRecord], others: Sequence[RowRecord], skipped: int) -> None:
    from rich.table import Table

    from simulator.cli.options import console
    from simulator.validation.document import NAMES, percent
    from simulator.validation.summary import fits_summary, group_summaries, rank_summary

    held = {g.kind: g for g in group_summaries(others, ()) if g.value == "grades A and B"}
    shown = Table(title=f"{len(rows)} figures compared, {skipped} records not simulated", title_justify="left")
    for name in ("", "group", "points", "median", "p90", "bias", "baseline", *(["median held out"] if held else [])):
        shown.add_column(name)
    for g in group_summaries(rows, ("source",)):
        last = [percent(held[g.kind].median) if g.value == "grades A and B" and g.kind in held else ""] if held else []
        name = NAMES[g.kind] if not g.column else ""
        shown.add_row(
            name,
            g.value,
            str(g.points),
            percent(g.median),
            percent(g.p90),
            percent(g.bias, True),
            percent(g.baseline),
            *last,
        )
    console().print(shown)
    ranks, fits = rank_summary(rows, "training_step_time"), fits_summary(rows)
    if ranks.sweeps:
        print(
            f"ranking of training layouts: tau {ranks.tau:.2f}, regret {percent(ranks.regret)}, {ranks.sweeps} sweeps"
        )
    if fits.ran:
        print(
            f"fits or not: {fits.false_out_of_memory} of {fits.ran} runs wrongly out of memory, "
            f"recall {percent(fits.recall_out_of_memory)} of {fits.failed} failures, balanced {percent(fits.balanced)}"
        )


def _print_changes(old: Sequence[RowRecord], new: Sequence[RowRecord]) -> None:
    from simulator.validation.changes import changes
    from simulator.validation.document import percent

    moved = changes(old, new)
    print(f"{len(moved)} predictions moved by more than 0.1 %")
    for change in moved[:20]:
        row = change.row
        print(
            f"  {row.id} {row.kind} {row.quantity}: {percent(change.moved, True)}, "
            f"error {percent(change.before, True)} → {percent(change.after, True)}"
        )
