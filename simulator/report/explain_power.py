"""Why a workload draws what it draws, and which feeder slowed it."""

from __future__ import annotations

import math
from collections.abc import Iterator

from simulator.report.explanation import Row
from simulator.results.tables import Result
from simulator.units import format_quantity

__all__ = ["power_rows"]

_MOST_FEEDERS = 8


def power_rows(result: Result, workload: str) -> Iterator[Row]:
    """Mean power and energy, what limits leave of the clock, and the feeders that lowered it, longest first."""
    row = result.of(workload)

    def value(name: str) -> float:
        return float(row.get(name, math.nan))

    section = "power at the wall, losses of the building and network included"
    for item, name, unit in (
        ("mean", "power_mean", "W"),
        ("energy", "energy", "J"),
        ("per token", "energy_per_token", "J"),
    ):
        if value(name) == value(name):
            yield Row(workload, "power", section, item, value(name), unit)
    if value("clock") == value("clock"):
        note = "all the time, by the limits of cluster.power" if value("clock") < 1 else "no limit binds all the time"
        yield Row(workload, "power", "clock of its devices", "rated", share=value("clock"), note=note)
    if value("clock_mean") == value("clock_mean"):
        yield Row(workload, "power", "clock of its devices", "mean behind feeders", share=value("clock_mean"))
    yield from _caps(result, workload)
    yield from _feeders(result, workload)


def _caps(result: Result, workload: str) -> Iterator[Row]:
    rows = [r for r in result.rows("power_caps") if r["workload"] == workload]
    end = max((float(t) for t in result.tables.get("power", {}).get("until", ())), default=math.nan)
    section = "feeders that lowered its clocks, share of the run"
    for r in rows[:_MOST_FEEDERS]:
        others = f"shared with {r['shared_with']}" if r["shared_with"] else "nobody else at work behind it"
        note = f"{others}; {format_quantity(float(r['limit']), 'power')}, clocks at {float(r['clock']):.0%}"
        seconds = float(r["seconds"])
        yield Row(workload, "power", section, str(r["feeder"]), seconds, "s", seconds / end, note)
    if rest := rows[_MOST_FEEDERS:]:
        most = max(float(r["seconds"]) for r in rest)
        note = f"at most {format_quantity(most, 'time')} each"
        yield Row(workload, "power", section, f"{len(rest)} more", note=note)


def _feeders(result: Result, workload: str) -> Iterator[Row]:
    """Feeders that came nearest to their limits; of the whole cluster, so said once."""
    if workload != str(result.rows("summary")[0]["workload"]):
        return
    rows = sorted(result.rows("feeders"), key=lambda r: -float(r["power_mean"]) / float(r["limit"]))
    for r in rows[:_MOST_FEEDERS]:
        limit, capped = float(r["limit"]), format_quantity(float(r["capped_time"]), "time")
        over = f", above it for {format_quantity(float(r['over_time']), 'time')}" if r["over_time"] else ""
        note = f"of {format_quantity(limit, 'power')}; clocks lowered for {capped}{over}"
        mean = float(r["power_mean"])
        yield Row(
            workload,
            "power",
            "feeders by how full they are: mean draw",
            str(r["feeder"]),
            mean,
            "W",
            mean / limit,
            note,
        )
