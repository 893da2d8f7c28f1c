"""A result on the terminal: verdict first, then the figures in the order people know, then what was assumed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from simulator.results.tables import Result
from simulator.units import format_quantity

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "print_jobs", "print_memory", "print_result", "print_serving", "print_time", "print_traffic", "print_training",
]  # fmt: skip

Row = Mapping[str, Any]

_BAR = 32
_MOST_STAGES = 12
_CLASSES = {
    "param": ("P", "blue"), "grad": ("G", "cyan"), "optim": ("O", "magenta"), "activation": ("A", "green"),
    "kv": ("K", "yellow"), "workspace": ("W", "white"), "reserve": ("R", "bright_black"),
    "fragmentation": ("F", "bright_black"),
}  # fmt: skip
"""Letter and colour of a class in a memory bar: the letter so that the bar reads without colours as well."""


def print_result(result: Result, console: Console) -> None:
    """All workloads of a result."""
    for row in result.rows("summary"):
        if row["kind"] == "training":
            print_training(result, row, console)
        elif row["kind"] == "jobs":
            print_jobs(result, row, console)
        elif row["kind"] == "functions":
            print_functions(result, row, console)
        else:
            print_serving(result, row, console)
    for warning in result.warnings:
        console.print(Text(f"note: {warning}", style="yellow"))


def print_training(result: Result, row: Row, console: Console) -> None:
    """Step time with interval and floor, utilisation, bubble, communication, memory per stage, bytes per link."""
    name = row["workload"]
    _title(row, console)
    if not math.isnan(row["seconds"]):
        _figures(_training_figures(row), console)
        print_time(result, name, console)
    print_memory(result, name, console)
    print_traffic(result, name, console)


def print_functions(result: Result, row: Row, console: Console) -> None:
    """Calls, cold starts, response times, cost and energy, and the share of every site."""
    _title(row, console)
    if not row["feasible"]:
        return
    cold, attained, fair = (_number(row, n) for n in ("cold_start_rate", "slo_attainment", "fairness"))
    usd, joules = _number(row, "usd_per_thousand_calls"), _number(row, "energy_per_call")
    _figures(
        [
            ("calls", f"{row['requests']:,.0f} done, {row['rejected']:,.0f} turned away"),
            ("cold starts", _share(cold)),
            ("kept the limit", _share(attained)),
            ("containers at work", _share(_number(row, "utilization"))),
            ("fairness of owners", "" if fair is None else f"{fair:.3f}"),
            ("USD per thousand calls", "" if usd is None else f"{usd:.4g}"),
            ("J per call", "" if joules is None else f"{joules:.4g}"),
            ("carbon", "" if row["carbon"] != row["carbon"] else f"{row['carbon'] / 1e3:.3g} kg"),
        ],
        console,
    )
    _latencies(row, console)
    table = Table(box=None, padding=(0, 2), header_style="dim", pad_edge=False)
    for column in ("  site", "calls", "cold", "used", "USD", "kg CO2", "mean response"):
        table.add_column(column, justify="left" if column == "  site" else "right")
    for site in (r for r in result.rows("sites") if r["workload"] == row["workload"]):
        table.add_row(
            f"  {site['site']}", f"{site['calls']:,.0f}", f"{site['cold_starts']:,.0f}", _share(site["utilization"]),
            f"{site['usd']:.4g}", f"{site['carbon'] / 1e3:.3g}", format_quantity(site["response_mean"], "time"),
        )  # fmt: skip
    console.print(table)


def print_serving(result: Result, row: Row, console: Console) -> None:
    """Requests, rates, latencies, KV occupancy, service levels, cost and energy, in the order of serving benchmarks."""
    _title(row, console)
    if row["depth"] != "run" and row["feasible"]:
        _figures(_iteration_figures(row), console)
        print_time(result, row["workload"], console, "iteration")
    if _number(row, "requests") is not None:
        _figures(_serving_figures(row), console)
        _latencies(row, console)
        _figures(_service_figures(row), console)
    print_memory(result, row["workload"], console)


def print_jobs(result: Result, row: Row, console: Console) -> None:
    """Jobs done, utilisation, waits, and the account of every tenant."""
    from simulator.report.terminal_jobs import job_figures, print_tenants, print_waits

    _title(row, console)
    if row["feasible"]:
        _figures(job_figures(row), console)
        print_waits(row, console)
        print_tenants(result, row["workload"], console)


# -- parts --------------------------------------------------------------------------------------------------------


def _title(row: Row, console: Console) -> None:
    size = f"{row['accelerators']:.0f} accelerators" if row.get("accelerators") else ""
    plan = f"{row.get('plan') or ''}"
    head = Text(f"{row['workload']}", style="bold")
    head.append(
        f"  {row['kind']}, " + ", ".join(filter(None, (size, plan, f"depth {row['depth']}"))), style="not bold dim"
    )
    console.print()
    console.print(head)
    if not row["feasible"]:
        console.print(Text(f"  does not work: {row['reason']}", style="bold red"))


def _number(row: Row, name: str) -> float | None:
    value = row.get(name)
    return None if value is None or isinstance(value, str) or math.isnan(value) else float(value)


def _figures(pairs: Iterable[tuple[str, str]], console: Console) -> None:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", min_width=24)
    grid.add_column(justify="left")
    for label, text in pairs:
        if text:
            grid.add_row(f"  {label}", text)
    if grid.row_count:
        console.print(grid)


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _seconds(value: float | None) -> str:
    """Step times stay in seconds up to an hour: that is how papers and logs print them."""
    if value is None:
        return ""
    return f"{value:.4g} s" if 1 <= value < 3600 else format_quantity(value, "time", 4)


def _filled(row: Row) -> str:
    """How much of the bubbles second-order work takes, and how fresh that keeps its inverses."""
    filled, steps = _number(row, "bubble_filled"), _number(row, "curvature_refresh_steps")
    if filled is None:
        return ""
    fresh = "never" if steps is None or math.isinf(steps) else f"every {steps:,.0f} steps"
    return f"{_share(filled)}  (new inverses {fresh})"


def _slow_down(row: Row) -> str:
    """How much longer the steps took for their links; nothing to say where they did not."""
    factor, lost = _number(row, "contention_slow_down"), _number(row, "lost_network")
    if factor is None or not lost:
        return ""
    return f"{factor:.3g} times, {format_quantity(lost, 'time')} lost (fmsim explain RUN traffic)"


def _training_figures(row: Row) -> list[tuple[str, str]]:
    def text(name: str, dimension: str) -> str:
        value = _number(row, name)
        return "" if value is None else format_quantity(value, dimension)

    low, high = _seconds(_number(row, "seconds_low")), _seconds(_number(row, "seconds_high"))
    step = _seconds(_number(row, "seconds")) + (f"  (80 % interval {low} to {high})" if low and high else "")
    rate, per_gpu = _number(row, "tokens_per_s"), _number(row, "tokens_per_s_per_gpu")
    mfu, causal = _share(_number(row, "mfu")), _share(_number(row, "mfu_causal"))
    bubble, total = _share(_number(row, "bubble_over_ideal")), _share(_number(row, "bubble_over_total"))
    exposed, share = text("exposed_communication", "time"), _share(_number(row, "exposed_communication_share"))
    flops = _number(row, "model_flops_per_s_per_gpu")
    trust = [
        f"{k} {_share(v)}"
        for k in ("measured", "fitted", "borrowed", "datasheet", "assumed")
        if (v := _number(row, f"share_{k}"))
    ]
    return [
        ("bound on step time" if row["depth"] == "estimate" else "step time", step),
        ("roofline floor", _seconds(_number(row, "floor_seconds"))),
        ("MFU", mfu + (f"  (causal attention {causal})" if causal else "")),
        ("HFU", _share(_number(row, "hfu"))),
        ("model FLOP/s per GPU", "" if flops is None else format_quantity(flops, "compute_rate")),
        ("tokens/s", "" if rate is None else f"{rate:,.0f}  ({per_gpu:,.0f} per GPU)"),
        ("pipeline bubble", bubble and f"{bubble} of ideal time, {total} of total"),
        ("bubbles filled", _filled(row)),
        ("exposed communication", exposed + (f"  ({share} of the step)" if share else "")),
        (f"{row['steps']:,.0f} steps", text("training_seconds", "time") if row["steps"] > 1 else ""),
        ("contention slow-down", _slow_down(row)),
        *_money(row),
        *_goal(row),
        ("rests on constants", ", ".join(trust)),
    ]


def _goal(row: Row) -> list[tuple[str, str]]:
    """The way to the job's goal, where it has one."""
    tokens, steps = _number(row, "tokens_needed"), _number(row, "steps_needed")
    if tokens is None or steps is None:
        return []
    share, loss = _share(_number(row, "batch_efficiency")), _number(row, "expected_loss")
    usd = _number(row, "usd_to_train")
    spent = "" if usd is None else f", {format_quantity(usd, 'money')}"
    return [
        ("time to train", f"{format_quantity(_number(row, 'time_to_train'), 'time')}{spent}"),
        ("tokens needed", f"{format_quantity(tokens, 'tokens')}  ({steps:,.0f} steps)"),
        ("tokens a small batch needs", share and f"{share} of them"),
        ("expected loss", "" if loss is None else f"{loss:.3f} nat per token"),
    ]


def _money(row: Row) -> list[tuple[str, str]]:
    usd, low, high = (_number(row, f"usd_per_million_tokens{s}") for s in ("", "_low", "_high"))
    joules = _number(row, "energy_per_token")
    spread = f"  ({low:.3g} to {high:.3g})" if low is not None and high is not None and low != high else ""
    return [
        ("USD per million tokens", "" if usd is None else f"{usd:.3g}{spread}"),
        ("J per token", "" if joules is None else f"{joules:.3g}"),
    ]


def _iteration_figures(row: Row) -> list[tuple[str, str]]:
    """One decode iteration of a full engine, and what the replicas can take."""
    low, high = _seconds(_number(row, "seconds_low")), _seconds(_number(row, "seconds_high"))
    batch, capacity, rate = (_number(row, n) for n in ("decode_batch", "kv_capacity_tokens", "capacity_requests_per_s"))
    alone, prefill = _number(row, "decode_time_alone"), _number(row, "prefill_time")
    spread = f"  (80 % interval {low} to {high})" if low and high else ""
    return [
        ("decode iteration", _seconds(_number(row, "seconds")) + spread),
        ("roofline floor", _seconds(_number(row, "floor_seconds"))),
        ("batch of a full engine", "" if batch is None else f"{batch:,.0f} requests"),
        ("one request alone", _seconds(alone)),
        ("prefill of a mean prompt", _seconds(prefill)),
        ("KV cache", "" if capacity is None else f"{capacity:,.0f} tokens per replica"),
        ("capacity", "" if rate is None else f"{rate:.2f} req/s before queues grow"),
    ]


def _serving_figures(row: Row) -> list[tuple[str, str]]:
    def number(name: str, digits: int = 0, unit: str = "") -> str:
        value = _number(row, name)
        return "" if value is None else f"{value:,.{digits}f}{unit}"

    lost = row.get("rejections") or ""
    per_gpu = f"{number('output_tokens_per_s_per_gpu')} output, {number('total_tokens_per_s_per_gpu')} total"
    behind = f"yes: queue grows by {number('queue_growth', 2)} req/s, latencies depend on the length of the run"
    return [
        ("completed requests", number("requests")),
        ("rejected requests", f"{number('rejected')}  ({lost})" if _number(row, "rejected") else ""),
        ("unfinished requests", number("unfinished") if _number(row, "unfinished") else ""),
        ("duration", format_quantity(_number(row, "duration"), "time", 4)),
        ("request throughput", number("requests_per_s", 2, " req/s")),
        ("output token throughput", number("output_tokens_per_s", 0, " tok/s")),
        ("total token throughput", number("total_tokens_per_s", 0, " tok/s")),
        ("tokens/s/GPU", per_gpu),
        ("falls behind", behind if row.get("unstable") is True else ""),
    ]  # fmt: skip


def _latencies(row: Row, console: Console) -> None:
    table = Table(box=None, padding=(0, 2), header_style="dim", pad_edge=False)
    error = _number(row, "quantile_error")
    table.add_column("  latency" + (f" (± {100 * error:g} %)" if error else ""), min_width=24)
    for column in ("mean", "median", "p90", "p99"):
        table.add_column(column, justify="right")
    for name, label in (
        ("ttft", "TTFT"),
        ("tpot", "TPOT"),
        ("itl", "ITL"),
        ("e2e", "end-to-end"),
        ("queueing", "queueing"),
    ):
        values = [_number(row, f"{name}_{c}") for c in ("mean", "median", "p90", "p99")]
        if any(v is not None for v in values):
            table.add_row(f"  {label}", *(format_quantity(v, "time") for v in values))
    console.print(table)


def _service_figures(row: Row) -> list[tuple[str, str]]:
    mean, most = _share(_number(row, "kv_occupancy_mean")), _share(_number(row, "kv_occupancy_max"))
    capacity = _number(row, "kv_capacity_tokens")
    kv = mean and f"{mean} mean, {most} highest" + (f" of {capacity:,.0f} tokens per replica" if capacity else "")
    goodput, attained = _number(row, "slo_goodput"), _number(row, "slo_attainment")
    preempted = _number(row, "preemptions")
    return [
        ("KV cache occupancy", kv),
        ("preemptions", f"{preempted:,.0f}" if preempted else ""),
        *_fleet_figures(row),
        *_pool_figures(row),
        ("SLO attainment", _share(attained)),
        ("SLO goodput", "" if goodput is None else f"{goodput:.2f} req/s"),
        *_money(row),
    ]  # fmt: skip


def _fleet_figures(row: Row) -> list[tuple[str, str]]:
    """How the number of replicas changed, where it did."""
    mean, ordered, after = (_number(row, name) for name in ("replicas_mean", "replicas_ordered", "startup_time"))
    lost, again = _number(row, "revocations"), _number(row, "restarts")
    if mean is None:
        return []
    started = f", {ordered:.0f} started, ready after {_seconds(after)}" if ordered else ""
    moved, pause = _number(row, "requests_moved"), _number(row, "move_pause_mean")
    outside, price = _number(row, "function_requests"), _number(row, "function_usd")
    return [
        ("replicas", f"{mean:.2f} on average of {row['replicas']:.0f} at most{started}"),
        ("machines taken away", f"{lost:.0f}, {again:,.0f} requests began again" if lost else ""),
        ("moved while running", f"{moved:,.0f} requests, stopped for {_seconds(pause)} on average" if moved else ""),
        ("served by functions", f"{outside:,.0f} requests, {price:,.4g} USD" if outside else ""),
    ]


def _pool_figures(row: Row) -> list[tuple[str, str]]:
    """What travelled between pools, where there are any."""
    sent, wait, most = (_number(row, f"kv_transfer_{name}") for name in ("bytes", "wait_mean", "wait_p99"))
    if sent is None:
        return []
    busy = ", ".join(f"{name} {_share(_number(row, f'{name}_utilization'))}" for name in ("prefill", "decode"))
    waits = f", in place {_seconds(wait)} after the prompt (p99 {_seconds(most)})" if wait is not None else ""
    return [("keys and values sent", format_quantity(sent, "data") + waits), ("pools busy", busy)]


def print_time(result: Result, workload: str, console: Console, unit: str = "step") -> None:
    """Where the time of one step (or iteration) goes, with bars."""
    rows = [r for r in result.rows("time") if r["workload"] == workload and r["seconds"] > 0]
    if not rows:
        return
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", min_width=24)
    grid.add_column(justify="right")
    grid.add_column(justify="right")
    grid.add_column()
    for r in rows:
        share = r["share"] if r["share"] == r["share"] else 0.0
        grid.add_row(
            f"  {r['part'].replace('_', ' ')}",
            format_quantity(r["seconds"], "time"),
            _share(share),
            "█" * round(share * _BAR),
        )
    console.print(Text(f"  time of one {unit}", style="bold dim"))
    console.print(grid)


def print_memory(result: Result, workload: str, console: Console) -> None:
    """Memory of every stage and tier as a bar of classes against the capacity; equal neighbours are one row."""
    rows = [r for r in result.rows("memory") if r["workload"] == workload]
    if not rows:
        return
    stages: dict[tuple[int, str], list[Row]] = {}
    for r in rows:
        stages.setdefault((r["stage"], r["tier"]), []).append(r)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", min_width=16, no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    bars = _merged(stages)
    shown = _worth_showing([sum(r["bytes"] for r in parts) - parts[0]["capacity"] for _, parts in bars])
    used: set[str] = set()
    for before, index in zip([-1, *shown], shown, strict=False):
        label, parts = bars[index]
        if index > before + 1:
            grid.add_row(f"  ({index - before - 1} more)")
        peak, capacity = sum(r["bytes"] for r in parts), parts[0]["capacity"]
        over = "" if peak <= capacity else f", {format_quantity(peak - capacity, 'data')} too much"
        text = f"{format_quantity(peak, 'data')} of {format_quantity(capacity, 'data')}{over}"
        grid.add_row(f"  {label}", _bar(parts, max(peak, capacity), capacity), Text(text, style="red" if over else ""))
        used |= {r["class"] for r in parts if r["bytes"] > 0}
    legend = ", ".join(f"{letter} {name}" for name, (letter, _) in _CLASSES.items() if name in used)
    console.print(Text(f"  memory per pipeline stage  ({legend})", style="bold dim"))
    console.print(grid)


def _worth_showing(excess: Sequence[float]) -> list[int]:
    """All bars when they are few; else the first, the last and the fullest ones."""
    if len(excess) <= _MOST_STAGES:
        return list(range(len(excess)))
    fullest = sorted(range(len(excess)), key=lambda i: -excess[i])[: _MOST_STAGES - 4]
    return sorted({0, 1, len(excess) - 2, len(excess) - 1, *fullest})


def _merged(stages: Mapping[tuple[int, str], Sequence[Row]]) -> list[tuple[str, Sequence[Row]]]:
    """Runs of stages whose bars are the same, under one label; tier by tier."""
    merged: list[tuple[int, int, str, Sequence[Row]]] = []
    for (stage, tier), parts in sorted(stages.items(), key=lambda item: (item[0][1] != "hbm", item[0][1], item[0][0])):
        last = merged[-1] if merged else None
        if last and last[2] == tier and last[1] == stage - 1 and _same(last[3], parts):
            merged[-1] = (last[0], stage, tier, last[3])
        else:
            merged.append((stage, stage, tier, parts))
    return [(f"stage {a}{f'-{b}' if b > a else ''} {tier}", parts) for a, b, tier, parts in merged]


def _same(a: Sequence[Row], b: Sequence[Row]) -> bool:
    def key(rows: Sequence[Row]) -> list[tuple[str, float]]:
        return [(r["class"], round(r["bytes"] / 2**20)) for r in rows]

    return key(a) == key(b)


def _bar(parts: Sequence[Row], scale: float, capacity: float) -> Text:
    bar = Text("|")
    drawn, total = 0, 0.0
    for r in sorted(parts, key=lambda r: list(_CLASSES).index(r["class"]) if r["class"] in _CLASSES else 99):
        letter, colour = _CLASSES.get(r["class"], ("?", "white"))
        total += r["bytes"]
        end = round(total / scale * _BAR) if scale else 0
        bar.append(letter * (end - drawn), style=colour)
        drawn = end
    bar.append("." * (_BAR - drawn), style="bright_black")
    edge = round(capacity / scale * _BAR) if scale else _BAR
    text = bar.append("|")
    if edge < _BAR:  # the capacity lies inside the bar: mark it
        text = text[: edge + 1] + Text("!", style="bold red") + text[edge + 1 :]
    return text


def print_traffic(result: Result, workload: str, console: Console) -> None:
    """Bytes that one accelerator moves per step, by link class."""
    rows = [r for r in result.rows("traffic") if r["workload"] == workload and r["bytes"] > 0]
    if rows:
        parts = ", ".join(f"{r['link'].replace('_', '-')} {format_quantity(r['bytes'], 'data')}" for r in rows)
        _figures([("bytes per GPU and step", parts)], console)
