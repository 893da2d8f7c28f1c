"""Answers to "why": where memory, time and traffic go, and what a figure rests on.

:func:`explain` gives rows that any program can read; :func:`render` and :func:`print_topic` make them readable.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from simulator.errors import ConfigError, unknown_name
from simulator.report.explain_power import power_rows
from simulator.report.explanation import Row, render, to_json
from simulator.report.plan_changes import plan_rows
from simulator.results.tables import Result
from simulator.units import format_quantity

if TYPE_CHECKING:
    from rich.console import Console

    from simulator.training.pipelined import PipelinedJob

__all__ = ["TOPICS", "Row", "explain", "print_topic", "render", "to_json"]

TOPICS = ("memory", "time", "traffic", "power", "source", "plans")

_MOST_OPS, _MOST_CONSTANTS, _MOST_LINKS = 12, 25, 8

_NETWORK = ("scale_up", "scale_out")


def explain(result: Result, topic: str, workload: str | None = None) -> list[Row]:
    """Why a result is what it is.

    Parameters
    ----------
    topic
        ``memory``: classes of every stage with the formula behind each, headroom, and what would make it fit.
        ``time``: parts and their shares, the floor, the largest operations with what bounds them.
        ``traffic``: bytes by link class, bytes and time by mesh axis, time on each link.
        ``power``: draw, energy, clocks, and the feeders that lowered them.
        ``source``: shares of the time by trust, the interval, and the constants by falling influence.
        ``plans``: the parallel plan over time, what each change of it cost, and what happened to the machines.
    workload
        Name; all by default.

    Raises
    ------
    ConfigError
        If there is no such topic or workload.
    """
    makers: dict[str, Callable[[Result, str], Iterator[Row]]] = {
        "memory": _memory, "time": _time, "traffic": _traffic, "power": power_rows, "source": _source,
        "plans": plan_rows,
    }  # fmt: skip
    if topic not in makers:
        raise ConfigError(unknown_name("topic", topic, TOPICS))
    names = [str(row["workload"]) for row in result.rows("summary")]
    if workload is not None and workload not in names:
        raise ConfigError(unknown_name("workload", workload, names))
    return [row for name in names if workload in (None, name) for row in makers[topic](result, name)]


def _mine(result: Result, table: str, workload: str) -> list[dict[str, Any]]:
    return [row for row in result.rows(table) if row["workload"] == workload]


def _nothing(result: Result, workload: str, topic: str) -> Row:
    """Why there is nothing to explain, and where to look."""
    row = result.of(workload)
    parts = [str(r["workload"]) for r in result.rows("summary") if str(r["workload"]).startswith(f"{workload} ")]
    note = str(row.get("reason", ""))
    if not note and parts:
        note = f"it is all of its models together, see {', '.join(parts)}"
    elif not note and row.get("kind") == "serving":
        note = "its model shares the devices with others: only their weights stay there"
    elif not note and row.get("kind") == "functions":
        note = "calls take what was measured or estimated once; see the tables 'sites' and 'costs' (fmsim report)"
    return Row(workload, topic, topic, "nothing recorded", note=note)


def _pipeline(result: Result, workload: str) -> PipelinedJob | str:
    """The job behind a training result: from memory, else from its saved scenario; or why it cannot be had."""
    from simulator.training.pipelined import PipelinedJob

    held = getattr(result.details.get(workload), "details", {}).get("pipeline")
    if held is not None:
        return held  # type: ignore[no-any-return]
    from simulator.scenario.load import load_scenario

    try:
        scenario = load_scenario(result.document)
        job = next((j for j in scenario.training if j.name == workload), None)
        return "it is not a training job" if job is None else PipelinedJob(job, scenario.cluster_of(workload))
    except ConfigError as error:
        return f"its scenario cannot be read again: {error.issues[0]}"


def _is_training(result: Result, workload: str) -> bool:
    return bool(result.of(workload).get("kind") == "training")


# -- memory --------------------------------------------------------------------------------------------------------


def _memory(result: Result, workload: str) -> Iterator[Row]:
    rows = _mine(result, "memory", workload)
    if not rows:
        yield _nothing(result, workload, "memory")
        return
    pipeline = _pipeline(result, workload) if _is_training(result, workload) else "it is not a training job"
    stages: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for row in rows:
        stages.setdefault((int(row["stage"]), str(row["tier"])), []).append(row)
    groups: list[tuple[int, int, str, list[dict[str, Any]]]] = []
    for (stage, tier), parts in stages.items():
        last = groups[-1] if groups else None
        if last and last[1:3] == (stage - 1, tier) and _same(last[3], parts):
            groups[-1] = (last[0], stage, tier, last[3])
        else:
            groups.append((stage, stage, tier, parts))
    for first, last_stage, tier, parts in groups:
        name = f"stage {first}{'' if first == last_stage else f'–{last_stage}'} {tier}, share of capacity"
        yield from _stage_memory(result, workload, name, first, parts, pipeline)
    if not all(row["fits"] for row in rows) and not isinstance(pipeline, str):
        yield from _what_would_fit(workload, pipeline)


def _same(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]]) -> bool:
    def sizes(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]]:
        return [(r["class"], round(r["bytes"] / 2**20)) for r in rows]

    return sizes(a) == sizes(b)


def _stage_memory(
    result: Result, workload: str, section: str, stage: int, parts: list[dict[str, Any]], pipeline: PipelinedJob | str
) -> Iterator[Row]:
    sizes = {str(r["class"]): float(r["bytes"]) for r in parts}
    capacity, peak = float(parts[0]["capacity"]), sum(sizes.values())
    if isinstance(pipeline, str):
        notes = _serving_notes(result.of(workload), sizes)
    else:
        from simulator.report.memory_terms import formulas

        notes = formulas(pipeline, stage, sizes)
    for kind, size in sizes.items():
        if size:
            yield Row(workload, "memory", section, kind, size, "B", size / capacity, notes.get(kind, ""))
    free = capacity - peak
    yield Row(workload, "memory", section, "peak", peak, "B", peak / capacity)
    yield Row(
        workload, "memory", section, "headroom" if free >= 0 else "too much", abs(free), "B", abs(free) / capacity
    )


def _serving_notes(summary: Mapping[str, Any], sizes: Mapping[str, float]) -> dict[str, str]:
    notes = {"param": "weights of one rank", "workspace": "largest set of tensors of one forward at the token budget"}
    tokens = summary.get("kv_capacity_tokens", math.nan)
    if tokens == tokens and tokens and "kv" in sizes:
        each = format_quantity(sizes["kv"] / tokens, "data")
        notes["kv"] = f"all that the rest leaves: {tokens:,.0f} tokens × {each} of one rank"
    return notes


def _what_would_fit(workload: str, pipeline: PipelinedJob) -> Iterator[Row]:
    from simulator.report.memory_terms import levers, way_to_fit

    section = "what would make it fit: peak of the fullest stage"
    found = levers(pipeline.job, pipeline.cluster)
    if not any(lever.fits for lever in found):
        together = way_to_fit(pipeline.job, pipeline.cluster)
        if together is None:
            note = "no combination of the changes below: it takes more accelerators, or shorter sequences"
            yield Row(workload, "memory", section, "on this cluster", note=note)
        else:
            found.insert(0, together)
    for lever in found:
        free = format_quantity(abs(lever.capacity - lever.peak), "data")
        note = f"fits, {free} left" if lever.fits else f"still {free} too much"
        yield Row(workload, "memory", section, lever.change, lever.peak, "B", lever.peak / lever.capacity, note)


# -- time ----------------------------------------------------------------------------------------------------------


def _time(result: Result, workload: str) -> Iterator[Row]:
    summary, rows = result.of(workload), _mine(result, "time", workload)
    total = sum(float(row["seconds"]) for row in rows)
    if not total:
        yield _nothing(result, workload, "time")
        return
    what = "step" if _is_training(result, workload) else "decode iteration"
    section = f"where the time of one {what} goes"
    for row in rows:
        if row["seconds"] > 0:
            part = str(row["part"]).replace("_", " ")
            yield Row(workload, "time", section, part, float(row["seconds"]), "s", row["seconds"] / total)
    low, high = summary.get("seconds_low", math.nan), summary.get("seconds_high", math.nan)
    known = low == low and high == high
    interval = f"80 % interval {format_quantity(low, 'time')} to {format_quantity(high, 'time')}" if known else ""
    yield Row(workload, "time", section, "whole", total, "s", 1.0, interval)
    floor = float(summary.get("floor_seconds", math.nan))
    if floor == floor:
        note = "speed-of-light share: peak FLOP/s and bandwidth of the busiest rank, nothing else"
        yield Row(workload, "time", section, "roofline floor", floor, "s", floor / total, note)
    yield from _largest_operations(workload, _mine(result, "ops", workload), total)


def _largest_operations(workload: str, rows: list[dict[str, Any]], total: float) -> Iterator[Row]:
    """Distinct Ops of the stage that works most, by seconds in a step (hidden ones included)."""
    priced = [r for r in rows if r["start"] != r["start"] and r["count"] * r["duration"] > 0]
    if not priced:
        return
    by_stage: dict[int, float] = {}
    for r in priced:
        by_stage[r["stage"]] = by_stage.get(r["stage"], 0.0) + r["count"] * r["duration"]
    stage = max(by_stage, key=by_stage.__getitem__)
    mine = sorted((r for r in priced if r["stage"] == stage), key=lambda r: -r["count"] * r["duration"])
    section = f"largest operations of stage {stage} in a step, hidden time included"
    for r in mine[:_MOST_OPS]:
        seconds = float(r["count"] * r["duration"])
        note = f"{r['count']:,} × {format_quantity(float(r['duration']), 'time')}, {_speed(r)}"
        yield Row(workload, "time", section, f"{r['name']} ({r['phase']})", seconds, "s", seconds / total, note)
    if rest := mine[_MOST_OPS:]:
        seconds = sum(float(r["count"] * r["duration"]) for r in rest)
        yield Row(workload, "time", section, f"{len(rest)} smaller ones", seconds, "s", seconds / total)


def _speed(row: Mapping[str, Any]) -> str:
    """What bounds an Op and how fast it runs in the terms of that bound."""
    seconds, bound = float(row["duration"]), str(row["bound"])
    if bound == "compute":
        rate = format_quantity(float(row["flops"]) / seconds, "compute_rate")
    else:
        rate = format_quantity(float(row["bytes"]) / seconds, "bandwidth")
    stream = f" on {row['stream'].replace('_', '-')}" if row["stream"] in _NETWORK else ""
    return ", ".join(text for text in (f"{bound} bound{stream}", rate, str(row["trust"])) if text)


# -- traffic -------------------------------------------------------------------------------------------------------


def _traffic(result: Result, workload: str) -> Iterator[Row]:
    rows = [r for r in _mine(result, "traffic", workload) if r["bytes"] > 0]
    if not rows:
        yield _nothing(result, workload, "traffic")
        return
    training = _is_training(result, workload)
    whole = sum(float(r["bytes"]) for r in rows)
    section = f"bytes of one accelerator per {'step' if training else 'decode iteration'} by link class"
    for r in rows:
        yield Row(workload, "traffic", section, str(r["link"]), float(r["bytes"]), "B", r["bytes"] / whole)
    total = sum(float(r["seconds"]) for r in _mine(result, "time", workload))
    if training and total:
        yield from _communication(result, workload, total)
    yield from _contention(result, workload)


def _communication(result: Result, workload: str, total: float) -> Iterator[Row]:
    """Seconds on each link of the busiest rank, and its collectives by mesh axis."""
    pipeline = _pipeline(result, workload)
    if isinstance(pipeline, str):
        yield Row(workload, "traffic", "communication", "not known", note=pipeline)
        return
    from simulator.training.tables import communication_by_axis

    found = communication_by_axis(pipeline)
    moved = {str(r["link"]): float(r["bytes"]) for r in _mine(result, "traffic", workload)}
    section = "time on each link, share of the step (hidden time included)"
    bandwidth = pipeline.node_of_rank[int(pipeline.timeline.busy.argmax())].accelerator.memory_bandwidth
    least, note = moved.get("hbm", 0.0) / bandwidth, f"at least: at the full {format_quantity(bandwidth, 'bandwidth')}"
    yield Row(workload, "traffic", section, "hbm", least, "s", least / total, note)
    for link in _NETWORK:
        seconds = sum(taken for (_, _, of), (_, taken) in found.items() if of == link)
        if seconds:
            yield Row(workload, "traffic", section, link, seconds, "s", seconds / total)
    section = "communication of the busiest rank by mesh axis, share of all of it"
    whole = sum(size for size, _ in found.values())
    for (axis, collective, link), (size, taken) in sorted(found.items(), key=lambda item: -item[1][0]):
        note = f"{format_quantity(taken, 'time')} on {link.replace('_', '-')}"
        yield Row(workload, "traffic", section, f"{axis} {collective}", size, "B", size / whole, note)


def _contention(result: Result, workload: str) -> Iterator[Row]:
    """Links between nodes that held up the steps of a job or the iterations of replicas, and who else was on them."""
    rows, row = _mine(result, "contention", workload), result.of(workload)
    if _is_training(result, workload):
        whole, section = (
            float(row.get("training_seconds", math.nan)),
            "links that held up the steps, share of the job's time",
        )
    else:
        whole = float(row.get("duration", math.nan)) * float(row.get("replicas", math.nan))
        section = "links that held up the iterations, share of the replicas' time"
    for r in rows[:_MOST_LINKS]:
        others = f"shared with {r['shared_with']}" if r["shared_with"] else "nobody else: narrower than what it serves"
        many = f", one of {r['parallel']:.0f} used alike" if r["parallel"] > 1 else ""
        note = f"{others}; {format_quantity(float(r['bandwidth']), 'bandwidth')}{many}"
        yield Row(workload, "traffic", section, str(r["link"]), float(r["seconds"]), "s", r["seconds"] / whole, note)
    if rest := rows[_MOST_LINKS:]:
        yield Row(workload, "traffic", section, f"{len(rest)} more", sum(float(r["seconds"]) for r in rest), "s")


# -- source --------------------------------------------------------------------------------------------------------


def _source(result: Result, workload: str) -> Iterator[Row]:
    summary, rows = result.of(workload), _mine(result, "sources", workload)
    if not rows:
        yield _nothing(result, workload, "source")
        return
    for trust in ("measured", "fitted", "borrowed", "datasheet", "assumed"):
        share = summary.get(f"share_{trust}", math.nan)
        if share == share and share:
            yield Row(workload, "source", "share of the time by trust of its constants", trust, share=float(share))
    middle = float(summary.get("seconds", math.nan))
    for end, percentile in (("low", "p10"), ("high", "p90")):
        value = float(summary.get(f"seconds_{end}", math.nan))
        if value == value and middle:
            yield Row(
                workload, "source", "80 % interval", percentile, value, "s", value / middle - 1, "against the value"
            )
    section = "constants by influence: change of the time when one moves by one sigma"
    first = [r for r in rows if r["sensitivity"]][:_MOST_CONSTANTS]
    for r in first:
        sigma = "" if r["sigma"] != r["sigma"] else f"sigma {r['sigma']:.1%}"
        note = ", ".join(str(text) for text in (r["trust"], sigma, r["source"]) if text)
        influence = float(r["sensitivity"])
        yield Row(workload, "source", section, str(r["constant"]), float(r["value"]), str(r["unit"]), influence, note)
    if len(rows) > len(first):
        rest = math.sqrt(sum(float(r["sensitivity"]) ** 2 for r in rows if r not in first))
        yield Row(
            workload, "source", section, f"{len(rows) - len(first)} more", share=rest, note="all of them together"
        )


def print_topic(result: Result, workload: str, topic: str, console: Console | None = None) -> None:
    """Print one topic of one workload, on a terminal or below the cell of a notebook.

    Raises
    ------
    ConfigError
        If there is no such topic or workload.
    """
    from rich.console import Console

    out = console if console is not None else Console(highlight=False, width=120)
    for part in render(explain(result, topic, workload)):
        out.print(part)
