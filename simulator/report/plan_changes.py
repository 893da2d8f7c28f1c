"""Why the parallel plan of a deployment changed, when, and what each change cost."""

from __future__ import annotations

from collections.abc import Iterator

from simulator.report.explanation import Row
from simulator.results.tables import Result
from simulator.units import format_quantity

__all__ = ["plan_rows"]


def plan_rows(result: Result, workload: str) -> Iterator[Row]:
    """The plan over time with the stall of every change, then what happened to the machines."""
    plans = [row for row in result.rows("plans") if row["workload"] == workload]
    if not plans:
        note = "its plan does not change: only deployments with 'instances' have one that does"
        yield Row(workload, "plans", "plans", "nothing recorded", note=note)
        return
    for number, row in enumerate(plans):
        parts = [f"{row['reason']}, {row['instances']} instances"]
        sizes = {"in place": row["reused"], "from other accelerators": row["moved"], "from storage": row["loaded"]}
        parts += [f"{format_quantity(float(size), 'data')} {where}" for where, size in sizes.items() if size]
        parts += [f"{row[key]} requests {key}" for key in ("kept", "restarted") if row[key]]
        item = f"at {format_quantity(float(row['time']), 'time')}: {row['plan']}"
        stall = float(row["stall"]) if number else float("nan")
        yield Row(workload, "plans", "plans, with the stall of each change", item, stall, "s", note="; ".join(parts))
    for event in result.rows("events"):
        if event["workload"] == workload and str(event["event"]).startswith("instance"):
            item = f"at {format_quantity(float(event['time']), 'time')}: {event['event']}"
            note = ", ".join(str(part) for part in (f"number {event['replica']}", event["detail"]) if part)
            yield Row(workload, "plans", "instances", item, note=note)
