"""Measured beside predicted, as a table and as records."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulator.calibration.retimed import Retimed, by_group
from simulator.calibration.verify import Comparison, summarise
from simulator.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["comparison_rows", "print_against", "print_comparisons", "print_kernels", "print_repeats"]


def comparison_rows(found: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Plain records; what was not measured is None."""
    return [
        {
            "kind": c.kind, "name": c.name, "measured_s": c.measured, "passes_s": list(c.passes),
            "predicted_s": c.predicted, "low_s": c.low, "high_s": c.high, "error": c.error, "noise": c.noise,
            "memory_measured_B": _known(c.memory_measured), "memory_predicted_B": _known(c.memory_predicted),
            "memory_error": _known(c.memory_error), "worst_kind": c.worst_kind,
        }
        for c in found
    ]  # fmt: skip


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def print_comparisons(found: Sequence[Comparison], left_out: Sequence[str], out: Console) -> None:
    """The table, then median and worst error of each kind with the noise floor."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2), pad_edge=False, header_style="dim")
    columns = ("", "what", "measured ms", "passes differ", "predicted", "error", "memory MB", "predicted", "error")
    for column in (*columns, "worst"):
        table.add_column(column, justify="left" if column in ("", "what", "worst") else "right")
    for c in found:
        memory = ("", "", "")
        if not math.isnan(c.memory_measured):
            memory = (f"{c.memory_measured / 1e6:.1f}", f"{c.memory_predicted / 1e6:.1f}", f"{c.memory_error:+.1%}")
        measured, predicted = f"{1e3 * c.measured:.2f}", f"{1e3 * c.predicted:.2f}"
        table.add_row(c.kind, c.name, measured, f"{c.noise:.1%}", predicted, f"{c.error:+.1%}", *memory, c.worst_kind)
    out.soft_wrap = False
    out.print(table)
    for kind in dict.fromkeys(c.kind for c in found):
        s = summarise([c for c in found if c.kind == kind])
        memory_text = "" if math.isnan(s.memory) else f"; peak memory within {s.memory:.1%}"
        out.print(
            f"{kind}: {s.count} cases, median error {s.median:.1%}, worst {s.worst:.1%}; noise floor (measured against "
            f"measured) {s.noise:.1%}, worst {s.worst_noise:.1%}{memory_text}",
            markup=False,
        )
        kinds: dict[str, list[float]] = {}
        for c in found:
            for op, (got, said) in c.by_kind.items() if c.kind == kind else ():
                kinds.setdefault(op, []).append(abs(said - got) / c.measured)
        if kinds:
            parts = sorted(((statistics.median(v), op) for op, v in kinds.items()), reverse=True)
            shown = ", ".join(f"{op} {share:.1%}" for share, op in parts)
            out.print(f"  ops, median error as a share of the measured time: {shown}", markup=False)
    for line in left_out:
        out.print(line, style="yellow", markup=False)


def print_kernels(kernels: Sequence[Retimed], out: Console) -> None:
    """How far the machine has moved since its profile was measured."""
    for name, (middle, apart) in by_group(kernels).items():
        what = f"{len(kernels)} kernels of the profile timed again" if name == "all" else f"  {name}"
        out.print(f"{what}: {middle:+.1%} in the median, {apart:.1%} either way", markup=False)


def print_against(found: Sequence[Comparison], earlier: Path, out: Console) -> None:
    """The same cases measured now against those of an earlier verification: the noise floor over that time.

    Raises
    ------
    ConfigError
        If the file is no output of ``fmsim verify --json``.
    """
    known = dict[tuple[str, str], list[float]]()
    try:
        for row in json.loads(earlier.read_text(encoding="utf-8"))["comparisons"]:
            known.setdefault((row["kind"], row["name"]), []).append(float(row["measured_s"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{earlier}: not what 'fmsim verify --json' writes ({error})") from error
    for kind in dict.fromkeys(c.kind for c in found):
        moved = [
            c.measured / statistics.median(known[kind, c.name]) - 1
            for c in found
            if c.kind == kind and (kind, c.name) in known
        ]
        if moved:
            sizes = [abs(m) for m in moved]
            out.print(
                f"{kind}: {len(moved)} cases against {earlier.name} (measured against measured): "
                f"{statistics.median(moved):+.1%} in the median, {statistics.median(sizes):.1%} either way, "
                f"at most {max(sizes):.1%}",
                markup=False,
            )


def print_repeats(runs: Sequence[Sequence[Comparison]], out: Console) -> None:
    """Errors of every repeat side by side, and how far the same case moved from run to run: the machine's noise."""
    out.print(f"{len(runs)} runs, median and worst error of each:", style="bold")
    for kind in dict.fromkeys(c.kind for run in runs for c in run):
        summaries = [summarise([c for c in run if c.kind == kind]) for run in runs]
        errors = "; ".join(f"{s.median:.1%}, {s.worst:.1%}" for s in summaries)
        memory = [s.memory for s in summaries if not math.isnan(s.memory)]
        cases: dict[str, list[float]] = {}
        for run in runs:
            for c in run:
                if c.kind == kind:
                    cases.setdefault(c.name, []).append(c.measured)
        moved = [max(times) / min(times) - 1 for times in cases.values()]
        out.print(
            f"{kind}: {errors}; the same case differs between runs by {statistics.median(moved):.1%}, at most "
            f"{max(moved):.1%}" + (f"; peak memory within {max(memory):.1%}" if memory else ""),
            markup=False,
        )
