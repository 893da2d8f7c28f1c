"""Requests per second of the serving mechanism on the Azure conversation trace, a million requests, and a day of 24.

Run as ``python benchmarks/bench_serving.py [--full]``. CPU seconds, median of five, simulation only and whole process,
by the loop of objects and by the compiled one (extra ``fast``); ``stride=1`` once. ``--full``: also a million requests
as rows and as a summary, and a day of 24 million as a summary, each in a process of its own with its peak of memory.
Needs the traces beside the checkout (``../shared``).
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from simulator.engine.clock import Clock
from simulator.serving.deployment import DeploymentProcess
from simulator.serving.limits import EngineLimits
from simulator.serving.separable import ChunkTerm, SeparableCost
from simulator.serving.simulate import simulate_deployment
from simulator.workload.requests.provenance import TraceProvenance
from simulator.workload.requests.table import RequestTable

TRACE = Path(__file__).resolve().parents[2] / "shared/traces/azure_llm_2023/AzureLLMInferenceTrace_conv.csv.gz"


def affine_cost() -> SeparableCost:
    """8 ms per iteration + 30 us per token + 50 ns per token of context: about a 70B model on one 8-GPU node."""
    fixed, token, context = 8e-3, 30e-6, 50e-9
    return SeparableCost(
        tokens=lambda tokens: fixed + token * tokens,
        rows=lambda sequences: 0.0,
        decodes=lambda sequences: (fixed + token * sequences, 0.0),
        chunks=(ChunkTerm(1, 0.0, lambda chunk, cached: context * (cached + chunk // 2)),),
        per_context=context,
    )


def azure() -> RequestTable:
    import pandas as pd

    frame = pd.read_csv(TRACE)
    times = pd.to_datetime(frame["TIMESTAMP"])
    arrival = (times - times.iloc[0]).dt.total_seconds().to_numpy()
    return _table(arrival, frame["ContextTokens"].to_numpy(), frame["GeneratedTokens"].to_numpy())


def _table(arrival: np.ndarray, inputs: np.ndarray, outputs: np.ndarray) -> RequestTable:
    provenance = TraceProvenance("benchmark", "generated", len(arrival), len(arrival))
    return RequestTable(arrival, inputs, outputs, "benchmark", provenance)


def repeated(table: RequestTable, requests: int) -> RequestTable:
    times = -(-requests // len(table))
    span = table.span + 1.0 / table.rate
    arrival = np.concatenate([table.arrival + span * i for i in range(times)])[:requests]
    inputs = np.tile(table.input_tokens, times)[:requests]
    return _table(arrival, inputs, np.tile(table.output_tokens, times)[:requests])


def day() -> RequestTable:
    """24 million requests over a day, lengths spread like those of chats."""
    rng, size = np.random.default_rng(1), 24_000_000
    lengths = [np.minimum(rng.lognormal(mean, 0.9, size), 8000).astype(np.int32) + 1 for mean in (6.7, 4.9)]
    return _table(np.cumsum(rng.exponential(86_400 / size, size)), *lengths)


def cpu_seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.process_time()
    result = work()
    return time.process_time() - begin, result


def measure(name: str, table: RequestTable, repeats: int, **options: Any) -> None:
    cost = affine_cost()
    runs = [cpu_seconds(lambda: simulate_deployment(table, cost, kv_blocks=60_000, **options)) for _ in range(repeats)]
    seconds, run = statistics.median(seconds for seconds, _ in runs), runs[0][1]
    counts = f"{run.iterations:,} iterations, {len(run.gaps):,} segments of gaps"
    print(f"{name:66s} {seconds:8.3f} s {len(table) / seconds:10,.0f} requests/s   {counts}", flush=True)


def child(program: str) -> tuple[float, str]:
    """CPU seconds of a whole process, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-c", f"import bench_serving as b; {program}"]
    done = subprocess.run(command, check=True, cwd=Path(__file__).parent, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout.strip()


def whole_process(replicas: int, loop: str) -> None:
    """Interpreter, imports, reading the trace and the simulation, median of five."""
    program = f"b.simulate_deployment(b.azure(), b.affine_cost(), kv_blocks=60_000, replicas={replicas}, loop='{loop}')"
    seconds = statistics.median(child(program)[0] for _ in range(5))
    print(f"whole process, chunked-prefill, {replicas} replicas, {loop:43s} {seconds:8.3f} s", flush=True)


def serve(table: RequestTable, replicas: int, record: str, loop: str) -> None:
    """For a process of its own: serve, and say how long that took and the most memory it needed."""
    clock = Clock()
    process = DeploymentProcess(
        clock, table, affine_cost(), EngineLimits(60_000), replicas=replicas, record=record, loop=loop,  # type: ignore[arg-type]
        router="least-outstanding",
    )  # fmt: skip
    seconds, _ = cpu_seconds(lambda: clock.run(process.start()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{seconds:.1f} s {len(table) / seconds:,.0f} requests/s, peak {peak:.2f} GiB")


def many(table: str, replicas: int, record: str, loop: str, repeats: int) -> None:
    program = f"b.serve(b.{table}, {replicas}, '{record}', '{loop}')"
    runs = sorted(child(program) for _ in range(repeats))
    seconds, text = runs[len(runs) // 2]
    print(f"{table}, {replicas} replicas, record {record}, {loop}: {text}; whole process {seconds:.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="also one million requests, and a day of 24 million")
    full = parser.parse_args().full
    table = azure()
    loops = ("objects", "compiled") if find_spec("numba") else ("objects",)
    if "compiled" in loops:  # compile, or load what was compiled, before anything is timed
        simulate_deployment(table.head(1), affine_cost(), kv_blocks=60_000, loop="compiled")
    for policy in ("chunked-prefill", "prefill-first"):
        for replicas in (1, 8):
            name = f"azure conversation, {policy}, {replicas} replicas"
            options: dict[str, Any] = {"replicas": replicas, "batching": policy}
            for loop in loops:
                measure(f"{name}, {loop}", table, 5, loop=loop, **options)
            measure(f"{name}, stride=1", table, 1, stride=1, **options)
    for replicas in (1, 8):
        for loop in loops:
            whole_process(replicas, loop)
    if full:
        for record in ("full", "summary"):
            for loop in loops:
                many("repeated(b.azure(), 1_000_000)", 8, record, loop, 5 if loop == "compiled" else 1)
        if "compiled" in loops:
            many("day()", 50, "summary", "compiled", 1)


if __name__ == "__main__":
    main()
