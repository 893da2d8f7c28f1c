"""Splitwise's gains on its own clusters: full machine counts, under its own iteration times and under ours.

BLOOM-176B in 16 bit on the eight accelerators of a machine, the conversation trace's lengths, Poisson arrivals. A
cluster's throughput is the highest rate at which nine limits hold: time to first token at most 2, 3 and 6 times, time
per token and end to end at most 1.25, 1.5 and 5 times that of the same request alone on a DGX-A100, at the 50th, 90th
and 99th percentile (table 6; Mutinifni/splitwise-sim, notebooks/plots.ipynb). Machine counts are those of its
scripts/run_throughput_isopower.sh and run_throughput_isocost.sh. At the power of 40 DGX-H100: 70 DGX-A100; Splitwise-AA
45 of them for prompts and 25 for tokens; Splitwise-HA 25 DGX-H100 and 26 DGX-A100. At their cost: 51 and 35 DGX-A100.

Times are those of SplitwiseSim's performance_model.py: lines between measured times over the prompt tokens of a batch,
and 1.1 times that where tokens are generated beside them. An iteration of tokens alone is read off such a line at the
number of *requests*, far left of its first point (128 tokens), so it costs the same whatever the batch: 47.6 ms on
A100, where the same data has 65.4 ms for 32 requests of 512 tokens and 96.6 ms for 64. The last test shows what of the
gain depends on that.

Its batches hold up to 2048 tokens of whole prompts beside all tokens; ours splits the prompt that exceeds them. The
abstract's "1.4 times at 20 % lower cost" and "2.35 times at the same cost and power" are not tied to clusters in the
text; the rows of section VI that are, are below.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

import simulator
from simulator.serving.limits import EngineLimits
from simulator.serving.pools import Pool, simulate_pools
from simulator.serving.pools_transfer import PointToPoint, kv_wire_bytes
from simulator.serving.run import ServingRun
from simulator.serving.simulate import simulate_deployment
from simulator.serving.summary import ServingSummary
from simulator.strategies.protocols import BatchShape, Segment
from simulator.workload.model_files import load_model
from simulator.workload.requests.files import load_requests
from simulator.workload.requests.provenance import TraceProvenance
from simulator.workload.requests.table import RequestTable

REQUESTS = 4000
LEVELS = [50, 90, 99]
LIMITS = {"ttft": [2.0, 3.0, 6.0], "tpot": [1.25, 1.5, 5.0], "e2e": [1.25, 1.5, 5.0]}
BUDGET, SEQUENCES = 2048, 512
"""configs/start_state: max_batch_tokens and max_batch_size."""
BLOOM = load_model("bloom-176b")
BLOCKS = int((8 * 80e9 - 2 * BLOOM.published_parameters) / kv_wire_bytes(BLOOM, 16))
LINK = 200 * 2.0**30
"""configs/orchestrator_repo/schedulers/mixed_pool.yml: transfer_bandwidth [B/s]. Its 8192 queued prompt tokens, beyond
which a token machine may help, are our default too."""


class MeasuredCost:
    """SplitwiseSim's iteration times of eight accelerators of one kind."""

    def __init__(self, points: list[dict[str, Any]]) -> None:
        times: dict[int, list[tuple[float, float]]] = {}
        for point in points:
            tokens = point["workload"]["batch"] * point["workload"]["isl"]
            times.setdefault(tokens, []).append((point["metrics"]["prompt_ms"], point["metrics"]["token_ms"]))
        self.tokens = sorted(times)
        self.prompt, self.token = (np.array([np.median(times[t], axis=0)[i] for t in self.tokens]) for i in (0, 1))

    def _on_line(self, milliseconds: NDArray[np.float64], tokens: int) -> float:
        """[s]; the first and last piece go on beyond the ends."""
        i = min(max(int(np.searchsorted(self.tokens, tokens)) - 1, 0), len(self.tokens) - 2)
        (left, right), (low, high) = self.tokens[i : i + 2], milliseconds[i : i + 2]
        return float(low + (high - low) * (tokens - left) / (right - left)) / 1e3

    def iteration(self, batch: BatchShape) -> float:
        """See the module."""
        if not batch.prefill:
            return self._on_line(self.token, batch.tokens)
        return self._on_line(self.prompt, batch.tokens) * (1.1 if batch.decodes else 1.0)

    def decode_segment(self, batch: BatchShape) -> Segment:
        """The same for as long as the batch stays."""
        return Segment(self.iteration(batch), 0.0, 1 << 40)

    def alone(self, tokens: int) -> tuple[float, float]:
        """To the first token and per token of a lone request of so many prompt tokens [s]."""
        return self._on_line(self.prompt, tokens), self._on_line(self.token, tokens)


@pytest.fixture(scope="module")
def costs(shared: Path) -> dict[str, MeasuredCost]:
    """Times of both kinds of machine (splitwise-sim data/perf_model.csv, medians)."""
    lines = (shared / "reference" / "published_serving.yaml").read_text().splitlines()
    points = [yaml.safe_load(line[2:]) for line in lines if line.startswith("- {id: splitwise_bloom-176b_")]
    kinds = {"a100": "a100_sxm_80", "h100": "h100_sxm"}
    return {kind: MeasuredCost([p for p in points if p["gpu"] == gpu and p["tp"] == 8]) for kind, gpu in kinds.items()}


@cache
def table(rate: float) -> RequestTable:
    """The trace's lengths at Poisson arrivals; all rates have the same requests."""
    lengths = load_requests("azure-2023-conv", seed=1, count=REQUESTS)
    arrival = np.cumsum(np.random.default_rng(1).exponential(1.0 / rate, REQUESTS))
    provenance = TraceProvenance("azure-2023-conv", "generated", REQUESTS, REQUESTS)
    return RequestTable(arrival, lengths.input_tokens, lengths.output_tokens, "splitwise", provenance)


def within(slowdowns: dict[str, NDArray[np.float64]]) -> bool:
    """Whether all nine limits hold."""
    return all((np.nanpercentile(slowdowns[name], LEVELS) <= LIMITS[name]).all() for name in LIMITS)


def keeps(costs: dict[str, MeasuredCost], machines: list[tuple[str, int]], rate: float) -> bool:
    """One kind of machine: whole requests everywhere; two: prompts on the first, tokens on the second."""
    requests = table(rate)
    run: ServingRun | ServingSummary
    if len(machines) == 1:
        ((kind, count),) = machines
        run = simulate_deployment(
            requests, costs[kind], kv_blocks=BLOCKS, replicas=count, batching="chunked-prefill",
            router="least-outstanding", max_num_batched_tokens=BUDGET, max_num_seqs=SEQUENCES,
        )  # fmt: skip
    else:
        limits = EngineLimits(BLOCKS, 16, BUDGET, SEQUENCES)
        first, second = (Pool(costs[kind], limits, count, "chunked-prefill") for kind, count in machines)
        run = simulate_pools(
            requests, first, second, lambda clock: PointToPoint(clock, LINK),
            wire_bytes=lambda tokens: kv_wire_bytes(BLOOM, tokens), layers=70, policy="mixed-pool",
        ).run  # fmt: skip
    assert isinstance(run, ServingRun)
    ttft, tpot = np.array([costs["a100"].alone(int(tokens)) for tokens in requests.input_tokens]).T
    rest, e2e = requests.output_tokens - 1, run.finish - requests.arrival
    slow = {"ttft": run.ttft / ttft, "tpot": (e2e - run.ttft) / rest / tpot, "e2e": e2e / (ttft + rest * tpot)}
    return within(slow)


CLUSTERS: dict[str, tuple[list[tuple[str, int]], float, float]] = {
    "Baseline-A100": ([("a100", 70)], 45.0, 65.0),
    "Baseline-H100": ([("h100", 40)], 120.0, 160.0),
    "Splitwise-AA": ([("a100", 45), ("a100", 25)], 90.0, 130.0),
    "Splitwise-HA": ([("h100", 25), ("a100", 26)], 130.0, 170.0),
    "Splitwise-AA at iso-cost": ([("a100", 51), ("a100", 35)], 120.0, 160.0),
}
"""Machines, and rates between which the highest is looked for [1/s]."""


@pytest.fixture(scope="module")
def throughput(costs: dict[str, MeasuredCost]) -> dict[str, float]:
    """Highest rate of every cluster, to a quarter of what is between its bounds: 10/s as in the paper, or 5/s."""
    found = {}
    for name, (machines, low, high) in CLUSTERS.items():
        assert keeps(costs, machines, low) and not keeps(costs, machines, high), name
        for _ in range(2):
            middle = (low + high) / 2
            low, high = (middle, high) if keeps(costs, machines, middle) else (low, middle)
        found[name] = low
    return found


@pytest.mark.parametrize(
    ("ours", "baseline", "published", "band"),
    [
        ("Splitwise-AA", "Baseline-A100", 2.15, (0.7, 1.3)),
        # The paper's sentence before speaks of Baseline-A100, but "10 % lower cost" holds only against the 40 DGX-H100.
        ("Splitwise-HA", "Baseline-H100", 1.18, (0.85, 1.3)),
        # Not reached: only the ordering is asserted.
        ("Splitwise-AA at iso-cost", "Baseline-H100", 1.4, (1 / 1.4, 1.3)),
    ],
)
def test_splitwise_serves_more_at_the_same_power_or_cost(
    throughput: dict[str, float], ours: str, baseline: str, published: float, band: tuple[float, float]
) -> None:
    gain = throughput[ours] / throughput[baseline]
    print(
        f"{ours} over {baseline}: {throughput[ours]:.0f} and {throughput[baseline]:.0f} requests/s, "
        f"predicted {gain:.2f}, published {published}, error {gain / published - 1:+.0%}"
    )
    assert band[0] * published <= gain <= band[1] * published


def test_what_the_cost_of_a_batch_of_tokens_has_to_do_with_it() -> None:
    """Where an iteration takes longer the more requests decode in it, Splitwise-AA serves less than the baseline.

    A fifth of the machines (14; 9 and 5), vllm-0.2's times, the trace's own gaps: at 7 requests per second the baseline
    keeps the nine limits; the five token machines exceed 1.25 times the time per token of a lone request.
    """
    engine = {
        "plan": {"tensor_parallel": 8, "precision": "fp16"}, "batching": "chunked-prefill",
        "max_batched_tokens": BUDGET, "max_num_seqs": SEQUENCES, "max_model_len": 16384, "router": "least-outstanding",
    }  # fmt: skip
    pools = {"policy": "mixed-pool", "prefill": {"replicas": 9}, "decode": {"replicas": 5}}

    def frame(count: int, load: dict[str, Any], deployment: dict[str, Any]) -> Any:
        workload = {
            "serving": "chat", "model": "bloom-176b", "framework": "vllm-0.2", "deployment": {**engine, **deployment},
            "requests": {"workload": "azure-2023-conv", "count": 400, **load},
        }  # fmt: skip
        nodes = {"nodes": {"profile": "dgx-a100-640", "count": count}}
        return simulator.run({"name": "splitwise", "seed": 1, "cluster": nodes, "workloads": [workload]}).requests

    alone = frame(1, {"concurrency": 1}, {"replicas": 1})
    slow = {}
    for name, deployment in (("baseline", {"replicas": 14}), ("splitwise", {"pools": pools})):
        served = frame(14, {"rate": "7 /s"}, deployment)
        slow[name] = {limit: served[limit].to_numpy() / alone[limit].to_numpy() for limit in LIMITS}
        print(name, {limit: np.nanpercentile(values, LEVELS).round(2) for limit, values in slow[name].items()})
    assert within(slow["baseline"])
    assert np.nanmedian(slow["splitwise"]["tpot"]) > LIMITS["tpot"][0]
    assert np.nanpercentile(slow["splitwise"]["ttft"], 90) < np.nanpercentile(slow["baseline"]["ttft"], 90)
