"""Figures of a result as people read them: a name and a text each, in the order they know."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from simulator.results.memory_error import CHANCES
from simulator.units import format_quantity

__all__ = [
    "clocks_lowered", "figure_of", "iteration_figures", "percent", "service_figures", "serving_figures",
    "training_figures",
]  # fmt: skip

Row = Mapping[str, Any]


def figure_of(row: Row, name: str) -> float | None:
    """A figure of the row, if it has one."""
    value = row.get(name)
    return None if value is None or isinstance(value, str) or math.isnan(value) else float(value)


def percent(value: float | None) -> str:
    """A share in per cent, empty without one."""
    return "" if value is None else f"{100 * value:.1f} %"


def _seconds(value: float | None) -> str:
    """Step times stay in seconds up to an hour: that is how papers and logs print them."""
    if value is None:
        return ""
    return f"{value:.4g} s" if 1 <= value < 3600 else format_quantity(value, "time", 4)


def _filled(row: Row) -> str:
    """How much of the bubbles second-order work takes, and how fresh that keeps its inverses."""
    filled, steps = figure_of(row, "bubble_filled"), figure_of(row, "curvature_refresh_steps")
    if filled is None:
        return ""
    fresh = "never" if steps is None or math.isinf(steps) else f"every {steps:,.0f} steps"
    return f"{percent(filled)}  (new inverses {fresh})"


def _worn(row: Row) -> str:
    """What a step writes to drives, and how long they take it."""
    written, lifetime = figure_of(row, "flash_written"), figure_of(row, "flash_lifetime")
    if written is None:
        return ""
    lasting = f"  (drives last {format_quantity(lifetime, 'time', 3)})" if lifetime is not None else ""
    return f"{format_quantity(written, 'data')} per GPU and step{lasting}"


def _slow_down(row: Row) -> str:
    """How much longer steps or iterations took for their links; nothing to say where they did not."""
    factor, lost = figure_of(row, "contention_slow_down"), figure_of(row, "lost_network")
    if factor is None or not lost:
        return ""
    return f"{factor:.3g} times, {format_quantity(lost, 'time')} lost (fmsim explain RUN traffic)"


def _effective(row: Row) -> str:
    """Share of the time in steps that were kept, and what stopped them; nothing to say where nothing fails."""
    ratio, count = figure_of(row, "effective_time_ratio"), figure_of(row, "interruptions")
    fewest, most = figure_of(row, "interruptions_low"), figure_of(row, "interruptions_high")
    if ratio is None or count is None or fewest is None or most is None:
        return ""
    low, high = (
        percent(figure_of(row, "effective_time_ratio_low")),
        percent(figure_of(row, "effective_time_ratio_high")),
    )
    spread = f"  (80 % interval {low} to {high})" if low and high else ""
    return f"{percent(ratio)}{spread}, {count:,.0f} interruptions ({fewest:,.0f} to {most:,.0f})"


def clocks_lowered(row: Row) -> str:
    """How long feeders kept clocks down; nothing to say where none did."""
    seconds, clock, lost = (figure_of(row, name) for name in ("capped_time", "clock_mean", "lost_power"))
    if not seconds or clock is None:
        return ""
    more = f", {format_quantity(lost, 'time')} lost" if lost else ""
    return f"for {format_quantity(seconds, 'time')}, to {percent(clock)} in the mean{more} (fmsim explain RUN power)"


def training_figures(row: Row) -> list[tuple[str, str]]:
    """Of a training job: step, utilisation, communication, time lost, goal and money."""

    def text(name: str, dimension: str) -> str:
        value = figure_of(row, name)
        return "" if value is None else format_quantity(value, dimension)

    low, high = _seconds(figure_of(row, "seconds_low")), _seconds(figure_of(row, "seconds_high"))
    step = _seconds(figure_of(row, "seconds")) + (f"  (80 % interval {low} to {high})" if low and high else "")
    rate, per_gpu = figure_of(row, "tokens_per_s"), figure_of(row, "tokens_per_s_per_gpu")
    mfu, causal = percent(figure_of(row, "mfu")), percent(figure_of(row, "mfu_causal"))
    bubble, total = percent(figure_of(row, "bubble_over_ideal")), percent(figure_of(row, "bubble_over_total"))
    exposed, share = text("exposed_communication", "time"), percent(figure_of(row, "exposed_communication_share"))
    flops = figure_of(row, "model_flops_per_s_per_gpu")
    return [
        ("bound on step time" if row["depth"] == "estimate" else "step time", step),
        ("roofline floor", _seconds(figure_of(row, "floor_seconds"))),
        ("MFU", mfu + (f"  (causal attention {causal})" if causal else "")),
        ("HFU", percent(figure_of(row, "hfu"))),
        ("model FLOP/s per GPU", "" if flops is None else format_quantity(flops, "compute_rate")),
        ("tokens/s", "" if rate is None else f"{rate:,.0f}  ({per_gpu:,.0f} per GPU)"),
        ("pipeline bubble", bubble and f"{bubble} of ideal time, {total} of total"),
        ("bubbles filled", _filled(row)),
        ("exposed communication", exposed + (f"  ({share} of the step)" if share else "")),
        ("written to drives", _worn(row)),
        ("memory peak", _peak(row)),
        (f"{row['steps']:,.0f} steps", text("training_seconds", "time") if row["steps"] > 1 else ""),
        ("effective time", _effective(row)),
        ("contention slow-down", _slow_down(row)),
        ("clocks lowered", clocks_lowered(row)),
        *_money(row),
        *_goal(row),
        ("rests on constants", _rests_on(row)),
    ]


def _peak(row: Row) -> str:
    """Fullest stage, where 80 % of measured peaks would lie, and how sure it is that they fit."""
    names = ("memory_peak", "memory_peak_low", "memory_peak_high", "memory_fits_chance")
    peak, low, high, chance = (figure_of(row, n) for n in names)
    if peak is None or low is None or high is None or chance is None:
        return ""
    ends = " to ".join(format_quantity(v, "data") for v in (low, high))
    sure = f"at least {100 * CHANCES[-1]:.0f} %" if chance >= CHANCES[-1] else percent(chance)
    return f"{format_quantity(peak, 'data')}  (80 % interval {ends}; fits with a chance of {sure})"


def _rests_on(row: Row) -> str:
    """Shares of the time of a step or iteration by trust of the constants behind it."""
    kinds = ("measured", "fitted", "borrowed", "datasheet", "assumed")
    return ", ".join(f"{k} {percent(v)}" for k in kinds if (v := figure_of(row, f"share_{k}")))


def _goal(row: Row) -> list[tuple[str, str]]:
    """The way to the job's goal, where it has one."""
    tokens, steps = figure_of(row, "tokens_needed"), figure_of(row, "steps_needed")
    if tokens is None or steps is None:
        return []
    share, loss = percent(figure_of(row, "batch_efficiency")), figure_of(row, "expected_loss")
    usd = figure_of(row, "usd_to_train")
    spent = "" if usd is None else f", {format_quantity(usd, 'money')}"
    return [
        ("time to train", f"{format_quantity(figure_of(row, 'time_to_train'), 'time')}{spent}"),
        ("tokens needed", f"{format_quantity(tokens, 'tokens')}  ({steps:,.0f} steps)"),
        ("tokens a small batch needs", share and f"{share} of them"),
        ("expected loss", "" if loss is None else f"{loss:.3f} nat per token"),
    ]


def _money(row: Row) -> list[tuple[str, str]]:
    usd, low, high = (figure_of(row, f"usd_per_million_tokens{s}") for s in ("", "_low", "_high"))
    joules = figure_of(row, "energy_per_token")
    spread = f"  ({low:.3g} to {high:.3g})" if low is not None and high is not None and low != high else ""
    return [
        ("USD per million tokens", "" if usd is None else f"{usd:.3g}{spread}"),
        ("J per token", "" if joules is None else f"{joules:.3g}"),
    ]


def iteration_figures(row: Row) -> list[tuple[str, str]]:
    """One decode iteration of a full engine, and what the replicas can take."""
    low, high = _seconds(figure_of(row, "seconds_low")), _seconds(figure_of(row, "seconds_high"))
    batch, capacity, rate = (
        figure_of(row, n) for n in ("decode_batch", "kv_capacity_tokens", "capacity_requests_per_s")
    )
    alone, prefill = figure_of(row, "decode_time_alone"), figure_of(row, "prefill_time")
    spread = f"  (80 % interval {low} to {high})" if low and high else ""
    return [
        ("decode iteration", _seconds(figure_of(row, "seconds")) + spread),
        ("roofline floor", _seconds(figure_of(row, "floor_seconds"))),
        ("batch of a full engine", "" if batch is None else f"{batch:,.0f} requests"),
        ("one request alone", _seconds(alone)),
        ("prefill of a mean prompt", _seconds(prefill)),
        ("KV cache", "" if capacity is None else f"{capacity:,.0f} tokens per replica"),
        ("capacity", "" if rate is None else f"{rate:.2f} req/s before queues grow"),
        ("rests on constants", _rests_on(row)),
    ]


def serving_figures(row: Row) -> list[tuple[str, str]]:
    """Of requests: counts, rates and tokens."""

    def number(name: str, digits: int = 0, unit: str = "") -> str:
        value = figure_of(row, name)
        return "" if value is None else f"{value:,.{digits}f}{unit}"

    lost = row.get("rejections") or ""
    output, total = number("output_tokens_per_s_per_gpu"), number("total_tokens_per_s_per_gpu")
    per_gpu = f"{output} output, {total} total" if output else ""
    behind = f"yes: queue grows by {number('queue_growth', 2)} req/s, latencies depend on the length of the run"
    return [
        ("completed requests", number("requests")),
        ("rejected requests", f"{number('rejected')}  ({lost})" if figure_of(row, "rejected") else ""),
        ("unfinished requests", number("unfinished") if figure_of(row, "unfinished") else ""),
        ("duration", format_quantity(figure_of(row, "duration"), "time", 4)),
        ("request throughput", number("requests_per_s", 2, " req/s")),
        ("output token throughput", number("output_tokens_per_s", 0, " tok/s")),
        ("total token throughput", number("total_tokens_per_s", 0, " tok/s")),
        ("tokens/s/GPU", per_gpu),
        ("falls behind", behind if row.get("unstable") is True else ""),
    ]  # fmt: skip


def service_figures(row: Row) -> list[tuple[str, str]]:
    """Of the service: cache, fleet, limits and money."""
    mean, most = percent(figure_of(row, "kv_occupancy_mean")), percent(figure_of(row, "kv_occupancy_max"))
    capacity = figure_of(row, "kv_capacity_tokens")
    kv = mean and f"{mean} mean, {most} highest" + (f" of {capacity:,.0f} tokens per replica" if capacity else "")
    goodput, attained = figure_of(row, "slo_goodput"), figure_of(row, "slo_attainment")
    preempted = figure_of(row, "preemptions")
    return [
        ("KV cache occupancy", kv),
        ("preemptions", f"{preempted:,.0f}" if preempted else ""),
        ("contention slow-down", _slow_down(row)),
        *_fleet_figures(row),
        *_pool_figures(row),
        ("SLO attainment", percent(attained)),
        ("SLO goodput", "" if goodput is None else f"{goodput:.2f} req/s"),
        ("clocks lowered", clocks_lowered(row)),
        *_money(row),
        ("rests on constants", _rests_on(row)),
    ]  # fmt: skip


def _fleet_figures(row: Row) -> list[tuple[str, str]]:
    """How the number of replicas changed, where it did."""
    mean, ordered, after = (figure_of(row, name) for name in ("replicas_mean", "replicas_ordered", "startup_time"))
    lost, again = figure_of(row, "revocations"), figure_of(row, "restarts")
    if mean is None:
        return []
    started = f", {ordered:.0f} started, ready after {_seconds(after)}" if ordered else ""
    moved, pause = figure_of(row, "requests_moved"), figure_of(row, "move_pause_mean")
    outside, price = figure_of(row, "function_requests"), figure_of(row, "function_usd")
    return [
        ("replicas", f"{mean:.2f} on average of {row['replicas']:.0f} at most{started}"),
        ("machines taken away", f"{lost:.0f}, {again:,.0f} requests began again" if lost else ""),
        ("moved while running", f"{moved:,.0f} requests, stopped for {_seconds(pause)} on average" if moved else ""),
        ("served by functions", f"{outside:,.0f} requests, {price:,.4g} USD" if outside else ""),
    ]


def _pool_figures(row: Row) -> list[tuple[str, str]]:
    """What travelled between pools, where there are any."""
    sent, wait, most = (figure_of(row, f"kv_transfer_{name}") for name in ("bytes", "wait_mean", "wait_p99"))
    if sent is None:
        return []
    busy = ", ".join(f"{name} {percent(figure_of(row, f'{name}_utilization'))}" for name in ("prefill", "decode"))
    waits = f", in place {_seconds(wait)} after the prompt (p99 {_seconds(most)})" if wait is not None else ""
    return [("keys and values sent", format_quantity(sent, "data") + waits), ("pools busy", busy)]
