"""Whole prompts beside decodes under a token budget, and held until every rank has one: followed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.errors import ConfigError
from simulator.serving.run import ServingRun
from simulator.serving.simulate import simulate_deployment
from simulator.strategies.batching.delayed import BatchWait
from simulator.strategies.batching.rank_balance import RankBalance
from simulator.strategies.protocols import BatchShape, Segment
from simulator.workload.requests.provenance import TraceProvenance
from simulator.workload.requests.table import RequestTable


class Second:
    """One second per iteration, plus one per 100 prompt tokens."""

    def iteration(self, batch: BatchShape) -> float:
        return 1.0 + sum(chunk for chunk, _ in batch.prefill) / 100

    def decode_segment(self, batch: BatchShape) -> Segment:
        return Segment(1.0, 0.0, 1 << 40)


def serve(rows: list[tuple[float, int, int]], budget: int, policy: object = "in-flight", **more: object) -> ServingRun:
    arrival, inputs, outputs = (np.array(column) for column in zip(*rows, strict=True))
    table = RequestTable(arrival, inputs, outputs, "hand", TraceProvenance("test", "generated", len(rows), len(rows)))
    settings = {"kv_blocks": 1000, "max_num_batched_tokens": budget, "batching": policy, **more}
    return simulate_deployment(table, Second(), **settings)  # type: ignore[arg-type]


THREE = [(0.0, 100, 9)] * 3


@pytest.mark.parametrize("stride", [None, 1])
@pytest.mark.parametrize(
    ("budget", "first"),
    [(102, [2.0, 4.0, 6.0]), (199, [2.0, 4.0, 6.0]), (200, [3.0, 3.0, 5.0]), (300, [4.0, 4.0, 4.0])],
)
def test_a_prompt_is_not_cut_to_fill_a_budget(budget: int, first: list[float], stride: int | None) -> None:
    """Room for one prompt makes an iteration of each; decodes go on beside them."""
    assert serve(THREE, budget, stride=stride).first_token.tolist() == first


@pytest.mark.parametrize("stride", [None, 1])
def test_a_prompt_waits_until_decodes_leave_room(stride: int | None) -> None:
    # 0-2 the first prompt; its two decodes leave 99 tokens until 4, then 4-6.
    run = serve([(0.0, 100, 3), (0.0, 100, 1)], 100, stride=stride)
    assert run.first_token.tolist() == [2.0, 6.0]


def test_held_back_it_waits_for_the_count_and_stays_whole() -> None:
    # 0-2; the prompt of 3.5 is held for five decodes from 4, and its 100 tokens do not fit beside a decode until 12.
    rows = [(0.0, 100, 11), (3.5, 100, 2)]
    assert serve(rows, 101, BatchWait("in-flight", 5, 1.0)).first_token.tolist() == [2.0, 6.0]
    assert serve(rows, 102, BatchWait("in-flight", 5, 1.0)).first_token.tolist() == [2.0, 11.0]
    assert serve(rows, 100, BatchWait("in-flight", 5, 1.0)).first_token.tolist() == [2.0, 14.0]


def test_room_to_the_end_is_there_at_admission() -> None:
    """Five blocks hold one of two requests that end in four blocks: no preemption, one after the other."""
    rows = [(0.0, 16, 33), (0.0, 16, 33)]
    run = serve(rows, 100, kv_blocks=5, block_size=16, watermark=0.0)
    assert run.preemptions.sum() == 0
    assert run.scheduled[1] == run.finish[0]
    paged = serve(rows, 100, "chunked-prefill", kv_blocks=5, block_size=16, watermark=0.0)
    assert paged.preemptions.sum() > 0


def test_a_prompt_beyond_the_budget_is_refused() -> None:
    run = serve([(0.0, 100, 3), (0.0, 200, 3)], 150)
    assert run.completed.tolist() == [True, False]


def test_where_budget_and_cache_hold_everything_cutting_makes_no_difference() -> None:
    rng = np.random.default_rng(3)
    times = np.sort(rng.uniform(0, 60, 40))
    rows = [(float(t), int(rng.integers(1, 300)), int(rng.integers(1, 40))) for t in times]
    whole, cut = serve(rows, 20_000), serve(rows, 20_000, "chunked-prefill")
    np.testing.assert_array_equal(whole.finish, cut.finish)


PAIR = [(0.0, 100, 60), (0.0, 100, 60)]
"""One request for each of two ranks: nobody decodes yet, so that both begin at once, 0-3."""


@pytest.mark.parametrize("stride", [None, 1])
@pytest.mark.parametrize(
    ("later", "first"),
    [
        # The count runs from the release at 0: five iterations are over at 7.
        ([3.5], [9.0]),
        # The second of them is for the other rank: both go at its boundary, 5-8.
        ([3.5, 4.5], [8.0, 8.0]),
        # Room for one prompt of each rank: the third waits for five iterations from the release at 5, 12-14.
        ([3.5, 4.5, 4.6], [8.0, 8.0, 14.0]),
        # The third and fourth are one of each rank again: they go next, 8-11.
        ([3.5, 4.5, 4.6, 4.7], [8.0, 8.0, 11.0, 11.0]),
    ],
)
def test_ranks_wait_for_each_other(later: list[float], first: list[float], stride: int | None) -> None:
    rows = [*PAIR, *((time, 100, 20) for time in later)]
    run = serve(rows, 220, RankBalance(2, 5), stride=stride)
    assert run.first_token.tolist() == [3.0, 3.0, *first]


def test_one_rank_or_no_count_is_in_flight_batching() -> None:
    rng = np.random.default_rng(5)
    rows = [(float(t), int(rng.integers(1, 90)), int(rng.integers(1, 40))) for t in np.sort(rng.uniform(0, 60, 40))]
    plain = serve(rows, 150)
    for policy in (RankBalance(1, 50), RankBalance(1, 0)):
        np.testing.assert_array_equal(serve(rows, 150, policy).finish, plain.finish)
    with pytest.raises(ConfigError, match="ranks"):
        RankBalance(0)
