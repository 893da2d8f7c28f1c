"""A run recorded as sketches against the same run recorded row by row."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.engine.clock import Clock
from simulator.results.sketch import QuantileSketch
from simulator.serving.deployment import DeploymentProcess
from simulator.serving.limits import EngineLimits
from simulator.serving.metrics import summarize
from simulator.serving.summary import _MOST_SAMPLES, add_segments
from simulator.strategies.protocols import BatchShape, Segment
from simulator.workload.jobs import ServiceLevel
from simulator.workload.requests.provenance import TraceProvenance
from simulator.workload.requests.table import RequestTable
from tests.serving_deployments import random_requests

ERROR = 0.005


class Affine:
    def iteration(self, batch: BatchShape) -> float:
        return 5e-3 + 2e-5 * batch.tokens + 1e-7 * batch.decode_context

    def decode_segment(self, batch: BatchShape) -> Segment:
        return Segment(self.iteration(batch), 1e-7 * batch.decodes, 1 << 40)


def outcome(record: str, progress: list[int]) -> object:
    table = random_requests(4, 20_000, 0.05, (1, 900), (1, 300))
    clock = Clock()
    process = DeploymentProcess(
        clock, table, Affine(), EngineLimits(20_000, max_model_len=1150), replicas=3, record=record,  # type: ignore[arg-type]
        slo=ServiceLevel(ttft=0.03, tpot=0.02), progress=lambda done, now: progress.append(done),
    )  # fmt: skip
    done = process.start()
    clock.run(done)
    return done.value


def test_a_summary_says_what_the_rows_say() -> None:
    ticks: list[int] = []
    rows, sketched = outcome("full", []), outcome("summary", ticks)
    full, short = summarize(rows, slo=ServiceLevel(ttft=0.03, tpot=0.02)), sketched.to_dict()  # type: ignore[arg-type, attr-defined]
    exact = ("requests", "rejected", "unfinished", "input_tokens", "output_tokens", "iterations", "preemptions")
    assert {k: short[k] for k in exact} == {k: full[k] for k in exact}
    assert short["rejected"] > 0 and sketched.rejections == rows.rejections()  # type: ignore[attr-defined]
    for key in ("duration", "slo_attainment", "slo_goodput", "ttft_mean", "tpot_mean", "e2e_mean", "itl_mean"):
        assert short[key] == pytest.approx(full[key], rel=1e-9)
    for metric in ("ttft", "tpot", "e2e", "itl", "queueing"):
        for quantile in ("median", "p90", "p99"):
            # Beside the sketch's own error the two define a quantile between two values differently.
            assert short[f"{metric}_{quantile}"] == pytest.approx(full[f"{metric}_{quantile}"], rel=2.5 * ERROR)
    assert ticks == [0, 8192, 16384, 20_000]


@pytest.mark.parametrize(("count", "apart"), [(1000, 1), (6000, 8)])
def test_the_history_has_every_arrival_until_it_is_full_and_then_every_second(count: int, apart: int) -> None:
    """Requests a second apart that end before the next comes: as many have come as it is seconds, none is inside."""
    both = np.full(count, 5), np.full(count, 2)
    table = RequestTable(np.arange(float(count)), *both, "apart", TraceProvenance("test", "generated", count, count))
    clock = Clock()
    process = DeploymentProcess(clock, table, Affine(), EngineLimits(100), record="summary", loop="objects")
    done = process.start()
    clock.run(done)
    time, arrived, inside = done.value.progress.T
    assert (time == arrived).all() and arrived[0] == 0 and not inside.any()
    steps = np.diff(arrived)
    assert steps[0] == apart and (steps <= 2 * apart).all()
    assert len(arrived) < _MOST_SAMPLES or apart == 1


def test_segments_enter_a_sketch_as_their_values_do() -> None:
    rng = np.random.default_rng(8)
    segments = np.column_stack(
        [rng.uniform(0.001, 1, 200), rng.uniform(0, 0.01, 200), rng.integers(0, 500, 200), rng.integers(0, 9, 200)]
    )
    sketch = QuantileSketch(ERROR)
    add_segments(sketch, segments)
    values = np.concatenate([np.repeat(b + s * np.arange(int(n)), int(w)) for b, s, n, w in segments])
    assert sketch.count == len(values)
    assert sketch.sum == pytest.approx(values.sum())
    for q in (0.01, 0.25, 0.5, 0.9, 0.99):
        assert sketch.quantile(q) == pytest.approx(np.sort(values)[int(q * (len(values) - 1))], rel=1.6 * ERROR)
