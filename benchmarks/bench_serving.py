"""Requests per second of the serving mechanism on the Azure conversation trace, and on a million requests.

Run as ``python benchmarks/bench_serving.py [--full]``. CPU time, median of five, simulation only and whole process;
``stride=1`` and the million (as rows and as a summary, with peak memory) once each. Needs the traces beside the
checkout (``../shared``).
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from simulator.engine.clock import Clock
from simulator.serving.deployment import DeploymentProcess, simulate_deployment
from simulator.serving.limits import EngineLimits
from simulator.serving.run import ServingRun
from simulator.strategies.protocols import BatchShape, Segment
from simulator.workload.requests.provenance import TraceProvenance
from simulator.workload.requests.table import RequestTable

TRACE = Path(__file__).resolve().parents[2] / "shared/traces/azure_llm_2023/AzureLLMInferenceTrace_conv.csv.gz"


class AffineCost:
    """8 ms per iteration + 30 us per token + 50 ns per token of context: about a 70B model on one 8-GPU node."""

    fixed, token, context = 8e-3, 30e-6, 50e-9

    def iteration(self, batch: BatchShape) -> float:
        prefill = sum(context + chunk // 2 for chunk, context in batch.prefill)
        return self.fixed + self.token * batch.tokens + self.context * (batch.decode_context + prefill)

    def decode_segment(self, batch: BatchShape) -> Segment:
        base = self.fixed + self.token * batch.decodes + self.context * batch.decode_context
        return Segment(base, self.context * batch.decodes, 1 << 40)


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


def measure(name: str, table: RequestTable, repeats: int, **options: object) -> ServingRun:
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        run = simulate_deployment(table, AffineCost(), kv_blocks=60_000, **options)  # type: ignore[arg-type]
        seconds.append(time.process_time() - start)
    median = statistics.median(seconds)
    events = f"{run.iterations:,} iterations"
    print(f"{name:58s} {median:8.3f} s {len(table) / median:10,.0f} requests/s   {events}", flush=True)
    return run


def whole_process(replicas: int) -> None:
    """Interpreter, imports, reading the trace and the simulation: CPU seconds of a child process, median of five."""
    program = (
        "import bench_serving as b; "
        f"b.simulate_deployment(b.azure(), b.AffineCost(), kv_blocks=60_000, replicas={replicas})"
    )
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parent)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    print(f"whole process, chunked-prefill, {replicas} replicas {statistics.median(seconds):27.3f} s")


def million(record: str) -> None:
    """One million requests on eight replicas; peak memory of the process so far."""
    table = repeated(azure(), 1_000_000)
    clock = Clock()
    process = DeploymentProcess(clock, table, AffineCost(), EngineLimits(60_000), replicas=8, record=record)  # type: ignore[arg-type]
    start = time.process_time()
    clock.run(process.start())
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    rate = f"{1e6 / seconds:10,.0f} requests/s"
    print(f"1,000,000 requests, record {record:8s} {seconds:8.1f} s {rate}   peak {peak:.2f} GiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="also one million requests")
    full = parser.parse_args().full
    table = azure()
    for policy in ("chunked-prefill", "prefill-first"):
        for replicas in (1, 8):
            options = {"replicas": replicas, "batching": policy, "max_num_batched_tokens": 8192}
            measure(f"azure conversation, {policy}, {replicas} replicas", table, 5, **options)
            measure(f"azure conversation, {policy}, {replicas} replicas, stride=1", table, 1, stride=1, **options)
    for replicas in (1, 8):
        whole_process(replicas)
    if full:
        for record in ("summary", "full"):
            million(record)


if __name__ == "__main__":
    main()
