"""The executed step as tables: when every pipeline task ran, and what every distinct Op of it costs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from simulator.results.tables import Columns, columns_from_rows
from simulator.strategies.pipeline.orders import BW, EVICT, KINDS, LOAD, B, F, R, W
from simulator.training.block_time import BlockPricer, PhaseTime, combine
from simulator.training.messages import lent_by_rank, messages_of_rank
from simulator.workload.ops import Block, Op, OpKind, Stream

if TYPE_CHECKING:
    from simulator.training.pipelined import PipelinedJob
    from simulator.training.step_run import StepRun

__all__ = ["MOST_ROWS", "communication_by_axis", "counted_ops", "timeline_tables", "times_in_a_step"]

MOST_ROWS = 20_000
"""Rows of the ``ops`` table: enough for every figure, small enough to save with every run."""

PHASES = {
    F: "forward", BW: "backward", B: "input_gradient", W: "weight_gradient", EVICT: "evict", LOAD: "load",
    R: "recompute",
}  # fmt: skip
"""Words of the ``phase`` column by code of a pipeline task."""

_PASSES = {F: "forward", BW: "backward", B: "input_gradient", W: "weight_gradient", R: "recompute"}
"""Methods of the block pricer."""

Row = dict[str, Any]


def timeline_tables(pipeline: PipelinedJob, step: StepRun, most_rows: int = MOST_ROWS) -> dict[str, Columns]:
    """Tables ``ops`` and ``steps`` of one executed step, without the column ``workload``.

    Parameters
    ----------
    pipeline, step
        The job and its run.
    most_rows
        Bound of the ``ops`` table.

    Returns
    -------
    dict
        ``ops`` holds three sets of rows. Tasks (``kind`` ``pipeline``) with times; what ends the step on every stage
        (gradients, optimizer, host); and one row per distinct Op with ``start`` NaN and ``microbatch`` −1, whose
        ``count`` is how often one rank of that stage runs it in a step. When there are too many tasks, those at the
        begin and at the end of the step are kept, and a row of kind ``omitted`` per stage covers the time between them
        and counts what is left out.
    """
    ops = list(_operations(pipeline, step))
    ends = list(_end_of_step(pipeline, step))
    tasks = _tasks(pipeline, step, most_rows - len(ops) - len(ends))
    steps: Columns = {"replica": [0], "step": [0], "start": [0.0], "duration": [float(step.seconds)], "iterations": [1]}
    return {"ops": columns_from_rows([*tasks, *ends, *ops]), "steps": steps}


def _row(stage: int, stream: str, name: str, phase: str, kind: str, **more: Any) -> Row:
    row: Row = {"stage": int(stage), "stream": stream, "name": name, "phase": phase, "kind": kind}
    row |= {"microbatch": -1, "chunk": -1, "start": math.nan, "duration": math.nan, "count": 1}
    return row | {"flops": math.nan, "bytes": math.nan, "trust": "", "bound": ""} | more


# -- pipeline tasks ------------------------------------------------------------------------------------------------


def _tasks(pipeline: PipelinedJob, step: StepRun, room: int) -> list[Row]:
    timeline = step.timeline
    program, order = timeline.program, timeline.program.order
    kept, ranks = np.ones(len(program.rank), dtype=bool), program.ranks
    if len(kept) > room:
        kept = _both_ends(timeline.start, timeline.end, max(2, room - ranks))
    passes: dict[tuple[int, int], PhaseTime] = {}
    rows: list[Row] = []
    for rank in range(ranks):
        part = np.arange(int(order.offsets[rank]), int(order.offsets[rank + 1]))
        left_out = part[~kept[part]]
        for task in part[kept[part]].tolist():
            if left_out.size and task > left_out[0]:
                rows.append(_omitted(rank, left_out, timeline.start, timeline.end))
                left_out = left_out[:0]
            kind, stage = int(order.kind[task]), int(program.stage[task])
            if (kind, stage) not in passes:
                passes[kind, stage] = _pass(pipeline, kind, stage)
            rows.append(_task_row(pipeline, rank, task, step, passes[kind, stage]))
        if left_out.size:
            rows.append(_omitted(rank, left_out, timeline.start, timeline.end))
    return rows


def _both_ends(start: NDArray[np.float64], end: NDArray[np.float64], room: int) -> NDArray[np.bool_]:
    """The tasks that start first and those that end last: the same two windows of time on every stage."""
    kept = np.zeros(len(start), dtype=bool)
    kept[np.argsort(start, kind="stable")[: room - room // 2]] = True
    kept[np.argsort(end, kind="stable")[len(end) - room // 2 :]] = True
    return kept


def _omitted(rank: int, tasks: NDArray[np.int64], start: NDArray[np.float64], end: NDArray[np.float64]) -> Row:
    begin = float(start[tasks].min())
    return _row(
        rank, Stream.COMPUTE.value, f"{len(tasks)} tasks left out", "omitted", "omitted",
        start=begin, duration=float(end[tasks].max()) - begin, count=len(tasks),
    )  # fmt: skip


def _task_row(pipeline: PipelinedJob, rank: int, task: int, step: StepRun, cost: PhaseTime) -> Row:
    timeline = step.timeline
    order, start = timeline.program.order, float(timeline.start[task])
    kind, microbatch, chunk = int(order.kind[task]), int(order.microbatch[task]), int(order.chunk[task])
    stream = Stream.COMPUTE
    if timeline.program.detached[task]:
        layout = pipeline.pricer(rank).layout
        stream = Stream.SCALE_UP if layout.inside_domain(layout.neighbour("pp")) else Stream.SCALE_OUT
    return _row(
        rank, stream.value, f"{KINDS[kind].value}{microbatch}.{chunk}", PHASES[kind], "pipeline",
        microbatch=microbatch, chunk=chunk, start=start, duration=float(timeline.end[task]) - start,
        flops=float(cost.flops), bytes=float(cost.traffic.get("hbm", 0.0)),
        trust=max(cost.trust, key=cost.trust.__getitem__).value if cost.trust else "",
    )  # fmt: skip


def _pass(pipeline: PipelinedJob, kind: int, stage: int) -> PhaseTime:
    """Work of one task; moving activations is none."""
    if kind not in _PASSES:
        return PhaseTime()
    price = getattr(pipeline.pricer(pipeline.rank_of_position[stage]), _PASSES[kind])
    return combine((price(block), count) for block, count in pipeline.chunks[stage].blocks)


def _end_of_step(pipeline: PipelinedJob, step: StepRun) -> Iterator[Row]:
    """What follows the last task, one after another: all stages wait for the slowest."""
    host = pipeline.host_per_step
    update = float(step.parts.get("optimizer", 0.0))
    ends = step.seconds - pipeline.pipeline_seconds - update - host
    widest = max(plan.data_parallel for plan in pipeline.plan.stage_plans)
    network = Stream.SCALE_OUT if widest > 1 else Stream.COMPUTE
    parts = (
        ("gradients and parameters", network.value, OpKind.COLLECTIVE.value, ends),
        ("optimizer", Stream.COMPUTE.value, OpKind.ELEMENTWISE.value, update),
        ("host", Stream.COMPUTE.value, "host", host),
    )
    at = step.timeline.makespan
    for name, stream, kind, seconds in parts:
        if seconds > 1e-12 * step.seconds:
            for rank in range(pipeline.ranks):
                yield _row(rank, stream, name, "optimizer", kind, start=float(at), duration=float(seconds))
            at += seconds


# -- distinct Ops --------------------------------------------------------------------------------------------------


def _operations(pipeline: PipelinedJob, step: StepRun) -> Iterator[Row]:
    """Every distinct Op once: on the busiest stage, or on the first stage that holds its block."""
    stages = [step.busiest, *(r for r in range(pipeline.ranks) if r != step.busiest)]
    names = _names_of_blocks(pipeline)
    seen: set[int] = set()
    for stage in stages:
        times = times_in_a_step(pipeline, stage)
        pricer = pipeline.pricer(stage)
        for key, (block, in_step, copies) in times.items():
            if key not in seen:
                seen.add(key)
                yield from _block_rows(block, names[key], pricer, stage, in_step, copies)
        if stage == step.busiest:
            yield from _stage_rows(pipeline, step, stage)


def times_in_a_step(pipeline: PipelinedJob, stage: int) -> dict[int, tuple[Block, int, int]]:
    """By identity of a block: the block, passes through it in a step, copies of it that the stage holds."""
    found: dict[int, tuple[Block, int, int]] = {}
    worked = set(pipeline.work_of(stage))
    for position in pipeline.positions[stage]:
        for block, count in pipeline.chunks[position].blocks:
            _, passes, copies = found.get(id(block), (block, 0, 0))
            more = count * pipeline.microbatches if position in worked else 0
            found[id(block)] = (block, passes + more, copies + count)
    return found


def _names_of_blocks(pipeline: PipelinedJob) -> dict[int, str]:
    """``layer``, or ``layer0``, ``layer1`` ... where a model has several kinds of layer."""
    blocks = {id(block): block for chunk in pipeline.chunks for block, _ in chunk.blocks}
    by_name: dict[str, list[int]] = {}
    for key, block in blocks.items():
        by_name.setdefault(block.name, []).append(key)
    return {
        key: name if len(keys) == 1 else f"{name}{i}" for name, keys in by_name.items() for i, key in enumerate(keys)
    }


def counted_ops(block: Block, passes: int, copies: int) -> Iterator[tuple[Op, int]]:
    """Every Op of a block and how often it runs in a step."""
    each = (*block.gather_forward, *block.forward, *block.gather_backward, *block.backward, *block.reduce_each)
    yield from ((op, passes) for op in each)
    yield from ((op, copies) for op in (*block.reduce, *block.publish))


def _block_rows(block: Block, name: str, pricer: BlockPricer, stage: int, passes: int, copies: int) -> Iterator[Row]:
    merged: dict[tuple[str, str], Row] = {}
    for op, count in counted_ops(block, passes, copies):
        priced = pricer.price(op)
        key = (op.name, op.phase.value)
        if key in merged:
            merged[key]["count"] += count
            continue
        short = op.name.removeprefix(f"{block.name}.")
        merged[key] = _row(
            stage, pricer.layout.stream(op).value, f"{name}.{short}", op.phase.value, op.kind.value,
            count=count, duration=float(priced.priced.seconds), flops=float(priced.flops),
            bytes=float(priced.bytes), trust=priced.priced.trust.value, bound=priced.priced.bound,
        )  # fmt: skip
    yield from merged.values()


def _stage_rows(pipeline: PipelinedJob, step: StepRun, stage: int) -> Iterator[Row]:
    """What belongs to no block: the update, and messages to the next stage."""
    update = pipeline.update_time(stage, pipeline.pipeline_seconds)
    if update.seconds:
        yield _row(
            stage, Stream.COMPUTE.value, "optimizer", "optimizer", OpKind.ELEMENTWISE.value, bound="memory",
            duration=float(update.seconds), bytes=float(update.traffic.get("hbm", 0.0)),
            trust=max(update.trust, key=update.trust.__getitem__).value if update.trust else "",
        )  # fmt: skip
    pieces = pipeline.traits.items_per_microbatch
    for boundary, forward, backward in messages_of_rank(pipeline, stage):
        seconds = (forward * boundary.forward + backward * boundary.backward) / (forward + backward)
        link = Stream.SCALE_UP if boundary.link == "scale_up" else Stream.SCALE_OUT
        yield _row(
            stage, link.value, "pipeline.send", "forward and backward", OpKind.P2P.value,
            count=pieces * (forward + backward), duration=float(seconds), bytes=float(boundary.size), bound="network",
        )  # fmt: skip


def communication_by_axis(
    pipeline: PipelinedJob, rank: int | None = None
) -> dict[tuple[str, str, str], tuple[float, float]]:
    """What one pipeline rank sends in a mean step: (mesh axis, collective, link class) → (bytes on its wires, seconds).

    Seconds are those of the whole collective, hidden or not; where it uses two link classes both name them.

    Parameters
    ----------
    rank
        The busiest one by default.
    """
    stage = int(np.argmax(pipeline.timeline.busy)) if rank is None else rank
    pricer = pipeline.pricer(stage)
    found: dict[tuple[str, str, str], tuple[float, float]] = {}

    def add(axis: str, collective: str, links: Mapping[str, float], seconds: float, count: float) -> None:
        for link, size in links.items():
            if size * count > 0:
                moved, taken = found.get((axis, collective, link), (0.0, 0.0))
                found[axis, collective, link] = (moved + count * size, taken + count * seconds)

    reductions = pipeline.traits.reductions(pipeline.microbatches)
    for block, passes, copies in times_in_a_step(pipeline, stage).values():
        late = {id(op) for op in (*block.reduce, *block.publish)}
        for op, count in counted_ops(block, passes, copies):
            if op.collective is not None:
                price = pricer.price(op)
                links = pricer.layout.wire_bytes(op.collective, price.bytes, pricer.layout.group(op.axis))
                often = count * reductions / op.wire.every if id(op) in late else float(count)
                add(op.axis, op.collective.value, links, price.priced.seconds, often)
    volume = pipeline.sending.pipeline_volume
    for boundary, forward, backward in messages_of_rank(pipeline, stage):
        add("pp", "send_recv", {boundary.link: boundary.sent}, boundary.forward, forward)
        add("pp", "send_recv", {boundary.link: volume * boundary.returned}, boundary.backward, backward)
    if lent := lent_by_rank(pipeline, stage):
        add("pp", "send_recv", {lent.link: lent.size}, lent.seconds, 1.0)
    return found
