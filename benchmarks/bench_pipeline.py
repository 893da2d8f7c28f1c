"""Seconds of the pipeline executor, median of five: ``python benchmarks/bench_pipeline.py``.

The large case is one step of a trillion parameters: 64 ranks, 512 micro-batches.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter

from simulator.registry import lookup
from simulator.strategies.protocols import PipelineSchedule
from simulator.training.pipeline import PipelineCosts, run_schedule

CASES = (
    ("1f1b", 4, 512, 1),
    ("interleaved-1f1b", 4, 256, 2),
    ("1f1b", 64, 512, 1),
    ("interleaved-1f1b", 64, 512, 2),
    ("dualpipe", 64, 512, 1),
    ("zb-v", 64, 512, 2),
    ("zb-2p", 16, 128, 1),
)


def seconds(work: Callable[[], object]) -> float:
    """Median of five runs."""
    times = []
    for _ in range(5):
        begin = perf_counter()
        work()
        times.append(perf_counter() - begin)
    return median(times)


def main() -> None:
    """Print one line per case: order, run and all figures of the timeline."""
    for name, ranks, microbatches, chunks in CASES:
        schedule = lookup("pipeline", name)()
        costs = PipelineCosts.uniform(ranks * chunks, p2p=0.1)

        def work(
            schedule: PipelineSchedule = schedule,
            costs: PipelineCosts = costs,
            sizes: tuple[int, int, int] = (ranks, microbatches, chunks),
        ) -> int:
            timeline = run_schedule(schedule, costs, *sizes)
            _ = timeline.makespan, timeline.bubble_over_total, timeline.activations, timeline.backward_window
            return len(timeline.end)

        print(
            f"{name:18s} p={ranks:3d} m={microbatches:4d} v={chunks} {work():7d} actions {seconds(work) * 1e3:8.1f} ms"
        )


if __name__ == "__main__":
    main()
