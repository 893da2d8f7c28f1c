"""Comparisons: where the time, memory, bytes and money of two variants differ, why, and how sure it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from simulator.errors import ConfigError, unknown_name
from simulator.results.storage import load_result
from simulator.results.tables import Result
from simulator.scenario.compare_draws import Side, better_when_higher, draw, odds_against
from simulator.scenario.compare_spread import redrawn
from simulator.scenario.sweep import Variants, plan_sweep
from simulator.scenario.sweep_points import Depth, Recipe, result_of
from simulator.scenario.sweep_table import load_sweep
from simulator.scenario.types import Scenario

__all__ = ["METRICS", "Comparable", "Comparison", "compare"]

Comparable: TypeAlias = str | Path | Mapping[str, Any] | Scenario | Result
"""A result, a saved run, a row of a saved sweep (``FOLDER#3``), or a scenario in any of its forms."""

METRICS = (
    "seconds", "floor_seconds", "training_seconds", "tokens_per_s_per_gpu", "mfu", "bubble_over_total",
    "exposed_communication", "memory_peak", "ttft_p90", "tpot_p90", "e2e_p90", "slo_attainment", "slo_goodput",
    "output_tokens_per_s_per_gpu", "capacity_requests_per_s", "kv_capacity_tokens", "utilization", "accelerators",
    "power_mean", "energy_per_token", "usd", "usd_per_million_tokens",
)  # fmt: skip
"""Columns of a summary that are laid side by side where they are known."""


@dataclass(frozen=True)
class Comparison:
    """Variants side by side; the first is what the others are compared with.

    Attributes
    ----------
    names, workloads
        Of the variants, and of the workload that is compared in each.
    results
        Of the variants.
    changes
        Where their scenarios differ: ``path`` and a value per name.
    tables
        ``metrics``, ``time``, ``memory``, ``traffic``, ``costs``: rows with ``part``, a value per name, and for each
        further name ``difference:NAME`` to the first.
    odds
        ``name``, ``metric``, ``share`` of the draws in which it beats the first, and the ratio to the first: median,
        p10 and p90.
    tornado
        ``constant``, ``name``, ``swing``: relative change of that variant's time over the first's for one sigma of the
        constant; shared errors cancel. By falling size.
    spread
        Over draws of everything: ``name``, ``metric``, p10, p50, p90, what was drawn (``over``), and the share of the
        draws in which it beats the first.
    notes
        What limits the comparison.
    """

    names: tuple[str, ...]
    workloads: tuple[str, ...]
    results: tuple[Result, ...] = field(repr=False)
    changes: tuple[dict[str, Any], ...]
    tables: Mapping[str, tuple[dict[str, Any], ...]]
    odds: tuple[dict[str, Any], ...]
    tornado: tuple[dict[str, Any], ...]
    spread: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "names": list(self.names), "workloads": list(self.workloads), "changes": list(self.changes),
            **{name: list(rows) for name, rows in self.tables.items()}, "odds": list(self.odds),
            "tornado": list(self.tornado), "spread": list(self.spread), "notes": list(self.notes),
        }  # fmt: skip

    def _repr_html_(self) -> str:
        """Figures side by side and how sure the differences are, for notebooks."""
        from simulator.results.markup import figure_text, html_list, html_table

        rows = [[c["path"], *(c[n] for n in self.names)] for c in self.changes]
        rows += [[r["part"], *(figure_text(r["part"], r[n]) for n in self.names)] for r in self.tables["metrics"]]
        sure = [
            f"{row['name']} beats {self.names[0]} in {row['share']:.0%} of draws by {row['metric']}, ratio "
            f"{row['ratio']:.3f} ({row['ratio_low']:.3f} to {row['ratio_high']:.3f})"
            for row in self.odds
        ]
        return html_table(" against ".join(self.names), ["", *self.names], rows) + html_list([*sure, *self.notes])


def compare(
    sources: Sequence[Comparable],
    vary: Variants = (),
    *,
    depth: Depth = "run",
    workload: str | None = None,
    draws: int = 10_000,
    seed: int = 0,
    traffic_draws: int = 0,
    jobs: int | None = None,
) -> Comparison:
    """Lay variants side by side and say how sure their differences are.

    Parameters
    ----------
    sources
        What to compare; a single scenario together with ``vary`` is compared with its own alternatives.
    vary
        Alternatives as of a sweep, for every scenario among the sources.
    depth
        To which scenarios are computed.
    workload
        Which workload, if there are several.
    draws, seed
        Of the constants and prices.
    traffic_draws
        How often scenarios are run again, each time with another seed (other requests, other failures) and another draw
        of the constants and prices; the same seeds and draws for all.

    Raises
    ------
    ConfigError
        If a source cannot be read, or fewer than two variants or no common workload are left.
    """
    entries = [entry for source in sources for entry in _entries(source, vary, depth)]
    if len(entries) < 2:
        raise ConfigError("a comparison needs two variants: name two, or give alternatives with -s path=v1,v2")
    names = _unique([name for name, _, _ in entries])
    results = [result for _, result, _ in entries]
    workloads = _workloads(results, names, workload)
    sides = [Side.of(result, name) for result, name in zip(results, workloads, strict=True)]
    notes = [f"{n}: {reason}" for n, r in zip(names, results, strict=True) for reason in r.reasons]
    if len({r.provenance.get("depth") for r in results}) > 1:
        notes.append("the variants were computed to different depths")
    if kinds := len({side.row["kind"] for side in sides}) - 1:
        notes.append("a training step and a decode iteration are different things: only sizes and costs compare")
    spread: list[dict[str, Any]] = []
    if traffic_draws:
        recipes = [recipe for _, _, recipe in entries]
        if any(recipe is None for recipe in recipes):
            raise ConfigError("traffic can be drawn again for scenarios only, not for saved results")
        runnable = [r for r in recipes if r is not None]
        spread = redrawn(runnable, sides, names, workloads, traffic_draws, seed, jobs)
    tables = {
        "metrics": _metrics(sides, names),
        "time": _parts(results, workloads, names, "time", "part", "seconds"),
        "memory": _memory(results, workloads, names),
        "traffic": _parts(results, workloads, names, "traffic", "link", "bytes"),
        "costs": _parts(results, workloads, names, "costs", "item", "usd"),
    }
    return Comparison(
        names=tuple(names), workloads=tuple(workloads), results=tuple(results),
        changes=tuple(_changes(results, names)), tables={k: tuple(v) for k, v in tables.items() if v},
        odds=() if kinds else tuple(_odds(sides, names, draws, seed)),
        tornado=() if kinds else tuple(_tornado(sides, names)), spread=tuple(spread),
        notes=tuple(notes),
    )  # fmt: skip


# -- variants -------------------------------------------------------------------------------------------------------


def _entries(source: Comparable, vary: Variants, depth: Depth) -> Iterator[tuple[str, Result, Recipe | None]]:
    """Name, result and, where it can be computed again, recipe of every variant of one source."""
    if isinstance(source, Result):
        yield str(source.provenance.get("scenario", "result")), source, None
        return
    if isinstance(source, str | Path):
        text = str(source)
        folder, mark, number = text.rpartition("#")
        if mark and number.isdigit() and Path(folder).is_dir():
            found = load_sweep(folder)
            if int(number) >= len(found.points):
                raise ConfigError(f"the sweep '{folder}' has {len(found.points)} points, counted from 0")
            yield text, result_of(found.recipe(), found.points[int(number)]), None
            return
        if Path(text).is_dir():
            yield Path(text).name, load_result(text), None
            return
    recipe, axes, document, _ = plan_sweep(source, vary, depth)
    name = str(document.get("name") or "scenario")
    for point in axes.points():
        label = ", ".join(f"{path.rpartition('.')[2]} {value}" for path, value in point.items()) or name
        from simulator.scenario.axes import point_texts

        one = Recipe(recipe.source, (*recipe.changes, *point_texts(point)), depth)
        yield label, result_of(one, {}), one


def _unique(names: Sequence[str]) -> list[str]:
    """Names told apart by a number where they are equal."""
    return [n if names.count(n) == 1 else f"{n} ({names[: i + 1].count(n)})" for i, n in enumerate(names)]


def _workloads(results: Sequence[Result], names: Sequence[str], wanted: str | None) -> list[str]:
    known = [[str(row["workload"]) for row in result.rows("summary")] for result in results]
    if wanted is not None:
        for each, name in zip(known, names, strict=True):
            if wanted not in each:
                raise ConfigError(f"{name}: {unknown_name('workload', wanted, each)}")
        return [wanted] * len(results)
    if all(len(each) == 1 for each in known):
        return [each[0] for each in known]
    common = [w for w in known[0] if all(w in each for each in known)]
    if len(common) != 1:
        said = ", ".join(common) if common else "none"
        raise ConfigError(f"say which workload to compare with --workload; in all variants there is: {said}")
    return common * len(results)


# -- differences ----------------------------------------------------------------------------------------------------


def _changes(results: Sequence[Result], names: Sequence[str]) -> Iterator[dict[str, Any]]:
    flat = [dict(_flat(r.document)) for r in results]
    for path in dict.fromkeys(path for each in flat for path in each):
        values = [each.get(path) for each in flat]
        if any(v != values[0] for v in values) and not path.startswith(("what_if", "name", "record")):
            yield {"path": path, **dict(zip(names, values, strict=True))}


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        for i, item in enumerate(value):
            yield from _flat(item, f"{path}.{i}")
    else:
        yield path, value


def _row(part: str, values: Sequence[float | None], names: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {"part": part, **dict(zip(names, values, strict=True))}
    for name, value in zip(names[1:], values[1:], strict=True):
        row[f"difference:{name}"] = None if value is None or values[0] is None else value - values[0]
    return row


def _metrics(sides: Sequence[Side], names: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    for metric in METRICS:
        values = [_finite(side.row.get(metric)) for side in sides]
        if any(v is not None for v in values):
            rows.append(_row(metric, values, names))
    return rows


def _finite(value: Any) -> float | None:
    if value is None or isinstance(value, str) or not np.isfinite(value):
        return None
    return float(value)


def _parts(
    results: Sequence[Result], workloads: Sequence[str], names: Sequence[str], table: str, key: str, value: str
) -> list[dict[str, Any]]:
    """Rows of a table by part, largest difference first."""
    sums: list[dict[str, float]] = []
    for result, workload in zip(results, workloads, strict=True):
        found: dict[str, float] = {}
        for row in result.rows(table):
            if row["workload"] == workload:
                found[str(row[key])] = found.get(str(row[key]), 0.0) + float(row[value])
        sums.append(found)
    rows = [
        _row(part, [found.get(part, 0.0) if found else None for found in sums], names)
        for part in dict.fromkeys(part for found in sums for part in found)
    ]
    return sorted(rows, key=lambda r: -max(abs(r[f"difference:{n}"] or 0.0) for n in names[1:]))


def _memory(results: Sequence[Result], workloads: Sequence[str], names: Sequence[str]) -> list[dict[str, Any]]:
    """By class, of the stage with the least room on the device."""
    fullest: list[Result] = []
    for result, workload in zip(results, workloads, strict=True):
        rows = [r for r in result.rows("memory") if r["workload"] == workload and r["tier"] == "hbm"]
        room: dict[int, float] = {}
        for row in rows:
            room[row["stage"]] = room.get(row["stage"], float(row["capacity"])) - float(row["bytes"])
        worst = min(room, key=lambda stage: room[stage]) if room else None
        kept = [r for r in rows if r["stage"] == worst]
        fullest.append(Result({"memory": {k: [r[k] for r in kept] for k in kept[0]}} if kept else {}))
    return _parts(fullest, workloads, names, "memory", "class", "bytes")


# -- how sure -------------------------------------------------------------------------------------------------------


def _odds(sides: Sequence[Side], names: Sequence[str], draws: int, seed: int) -> Iterator[dict[str, Any]]:
    for metric in METRICS:
        drawn = draw(sides, metric, draws, seed)
        if drawn is None:
            continue
        for name, values in zip(names[1:], drawn[1:], strict=True):
            low, middle, high = np.quantile(values / drawn[0], (0.1, 0.5, 0.9))
            yield {
                "name": name, "metric": metric, "share": odds_against(values, drawn[0], metric),
                "ratio": float(middle), "ratio_low": float(low), "ratio_high": float(high),
                "better": "higher" if better_when_higher(metric) else "lower",
            }  # fmt: skip


def _tornado(sides: Sequence[Side], names: Sequence[str]) -> list[dict[str, Any]]:
    first = sides[0].sensitivity
    rows = []
    for name, side in zip(names[1:], sides[1:], strict=True):
        for constant in sorted({*first, *side.sensitivity}):
            swing = (1 + side.sensitivity.get(constant, 0.0)) / (1 + first.get(constant, 0.0)) - 1
            shared = constant in first and constant in side.sensitivity
            rows.append({"constant": constant, "name": name, "swing": swing, "shared": shared})
    return sorted(rows, key=lambda r: (-abs(r["swing"]), r["constant"], r["name"]))
