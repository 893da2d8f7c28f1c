"""Jump = stride 1, conservation of tokens and blocks, and Little's law, over random workloads and every policy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.registry import lookup, strategies
from simulator.serving.run import ServingRun
from simulator.serving.simulate import simulate_deployment
from simulator.strategies.protocols import BatchShape, Segment
from simulator.workload.requests.provenance import TraceProvenance
from simulator.workload.requests.table import PrefixBlocks, RequestTable

BATCHING = [record.name for record in strategies(family="batching")]
ROUTERS = [record.name for record in strategies(family="router")]
KV_POLICIES = [record.name for record in strategies(family="kv_cache")]


class Affine:
    """fixed + per token + per token of context, linear in each, valid for ``valid`` iterations at a time."""

    def __init__(self, fixed: float, token: float, context: float, valid: int = 1 << 40) -> None:
        self.fixed, self.token, self.context, self.valid = fixed, token, context, valid

    def iteration(self, batch: BatchShape) -> float:
        context = batch.decode_context + sum(c + n for n, c in batch.prefill) + 0.5 * batch.decode_max_context
        return self.fixed + self.token * batch.tokens + self.context * context

    def decode_segment(self, batch: BatchShape) -> Segment:
        return Segment(self.iteration(batch), self.context * (batch.decodes + 0.5), self.valid)


def fits(batching: str, kv_cache: str) -> bool:
    """Whether the deployment takes the two together."""
    policy = lookup("batching", batching)
    grows = bool(lookup("kv_cache", kv_cache).grows)
    return not (grows and policy.release_together)


def shared_prefixes(rng: np.random.Generator, inputs: np.ndarray, block: int) -> PrefixBlocks:
    """Five families of prompts; each prompt follows its family for a while, then goes its own way."""
    lists = []
    for row, length in enumerate(inputs):
        count = -(-int(length) // block)
        family, common = int(rng.integers(0, 5)), int(rng.integers(0, count + 1))
        own = [(1 + row) * 10**6 + i for i in range(common, count)]
        lists.append([family * 1000 + i for i in range(common)] + own)
    return PrefixBlocks.from_lists(lists)


@st.composite
def workloads(draw: st.DrawFn) -> tuple[RequestTable, Affine, dict[str, object]]:
    # Lengths and times come from one generator: continuous times, so that no arrival ties with a boundary.
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(1, 60))
    rate = draw(st.sampled_from([0.3, 3.0, 30.0, 1000.0]))
    arrival = np.cumsum(rng.exponential(1 / rate, count))
    inputs = rng.integers(1, draw(st.sampled_from([4, 60, 300])), count)
    outputs = rng.integers(1, draw(st.sampled_from([2, 40, 200])), count)
    block = draw(st.sampled_from([1, 16, 24]))
    table = RequestTable(
        arrival, inputs, outputs, "random", TraceProvenance("test", "generated", count, count),
        client=rng.integers(0, 3, count), priority=rng.integers(0, 3, count), session=rng.integers(0, 5, count),
        prefix_blocks=shared_prefixes(rng, inputs, block), prefix_block_tokens=block,
    )  # fmt: skip
    cost = Affine(
        rng.uniform(1e-3, 1e-2), rng.uniform(0, 1e-4), rng.uniform(0, 1e-5), draw(st.sampled_from([1, 7, 1 << 40]))
    )
    options: dict[str, object] = {
        "batching": draw(st.sampled_from(BATCHING)),
        "router": draw(st.sampled_from(ROUTERS)),
        "kv_cache": draw(st.sampled_from([None, *KV_POLICIES])),
        "replicas": draw(st.integers(1, 3)),
        "block_size": draw(st.sampled_from([1, 3, 16])),
        "max_num_seqs": draw(st.sampled_from([1, 4, 64])),
        "max_num_batched_tokens": draw(st.sampled_from([70, 300])),
        "max_model_len": draw(st.sampled_from([0, 500, 350])),
    }
    if options["kv_cache"] and not fits(str(options["batching"]), str(options["kv_cache"])):
        options["kv_cache"] = None
    if draw(st.booleans()):
        options |= {"preemption": "swap", "host_memory": draw(st.sampled_from([5e3, 1e6])), "host_bandwidth": 1e6}
        options["kv_bytes_per_token"] = 10.0
    # From so few blocks that requests are preempted or rejected, to plenty.
    tokens = draw(st.sampled_from([300, 600, 20_000]))
    options["kv_blocks"] = max(3, tokens // int(str(options["block_size"])))
    return table, cost, options


Case = tuple[RequestTable, Affine, dict[str, object]]


def serve(table: RequestTable, cost: Affine, options: dict[str, object], **more: object) -> ServingRun:
    return simulate_deployment(table, cost, **(options | more))  # type: ignore[arg-type]


@settings(max_examples=250, deadline=None)
@given(workloads())
def test_a_jump_decides_and_times_like_single_iterations(case: Case) -> None:
    table, cost, options = case
    jump, single = serve(table, cost, options), serve(table, cost, options, stride=1)
    for column in ("replica", "rejected", "preemptions", "cached_tokens"):
        np.testing.assert_array_equal(getattr(jump, column), getattr(single, column))
    for column in ("scheduled", "first_token", "finish"):
        np.testing.assert_allclose(getattr(jump, column), getattr(single, column), rtol=1e-9)
    for a, b in zip(jump.replicas, single.replicas, strict=True):
        counters = ("iterations", "prefill_tokens", "decode_tokens", "recomputed_tokens", "kv_blocks_peak", "prefills")
        assert [getattr(a, c) for c in counters] == [getattr(b, c) for c in counters]
        for integral in ("busy_time", "waiting_time", "running_time", "kv_block_time"):
            assert getattr(a, integral) == pytest.approx(getattr(b, integral), rel=1e-9, abs=1e-12)
    gaps = [np.sum(run.gaps[:, 2] * run.gaps[:, 3]) for run in (jump, single)]
    assert gaps[0] == gaps[1]


@settings(max_examples=150, deadline=None)
@given(workloads(), st.integers(1, 3))
def test_tokens_requests_and_time_are_conserved(case: Case, stages: int) -> None:
    table, cost, options = case
    run = serve(table, cost, options, pipeline_stages=stages)
    accepted = run.rejected == 0
    assert (run.completed == accepted).all()
    assert (run.replica[accepted] >= 0).all()
    outputs = int(run.output_tokens[accepted].sum())
    inputs = int(run.input_tokens[accepted].sum())
    usage = run.replicas
    computed = sum(u.prefill_tokens + u.decode_tokens + u.cached_tokens - u.recomputed_tokens for u in usage)
    produced = sum(u.prefills + u.decode_tokens for u in usage)
    if lookup("batching", str(options["batching"])).release_together:
        # A batch without early exit also computes padding.
        assert computed >= inputs + outputs - accepted.sum()
        assert produced >= outputs
    else:
        # Every token but the last of a request passes through the model once, apart from recomputation.
        assert computed == inputs + outputs - accepted.sum()
        assert produced == outputs
    # Each request has output − 1 gaps between its tokens, and they add up to the time it decodes.
    base, slope, count, weight = run.gaps.T
    assert np.sum(count * weight) == outputs - accepted.sum()
    if not lookup("batching", str(options["batching"])).release_together:
        total = np.sum(weight * (base * count + slope * count * (count - 1) / 2))
        assert total == pytest.approx(np.sum((run.finish - run.first_token)[accepted]), rel=1e-9, abs=1e-9)
    # Little: the time integral of the number in system, taken at events, is the sum of the sojourn times.
    integral = sum(u.waiting_time + u.running_time for u in usage)
    assert integral == pytest.approx(np.sum(run.e2e[accepted]), rel=1e-9, abs=1e-9)
    assert all(u.kv_blocks_peak <= u.kv_blocks_total for u in usage)
    assert (run.ttft[accepted] > 0).all()
    assert (run.scheduled[accepted] >= run.arrival[accepted]).all()


@settings(max_examples=60, deadline=None)
@given(workloads())
def test_all_blocks_come_back_and_the_occupancy_is_that_of_single_requests(
    case: Case,
) -> None:
    """One request alone: its blocks over time are known token by token."""
    table, cost, options = case
    run = serve(table.head(1), cost, options | {"replicas": 1, "batching": "prefill-first", "kv_cache": "paged"})
    if run.rejected[0]:
        return
    size = int(str(options["block_size"]))
    prompt, output = int(run.input_tokens[0]), int(run.output_tokens[0])
    area = cost.iteration(BatchShape(((prompt, 0),), 0, 0)) * -(-prompt // size)
    for context in range(prompt + 1, prompt + output):
        area += cost.iteration(BatchShape((), 1, context, context)) * -(-context // size)
    assert run.replicas[0].kv_block_time == pytest.approx(area, rel=1e-9)
    assert run.replicas[0].kv_blocks_peak == -(-(prompt + output - 1) // size)
