"""Prompts that are held back for iterations: first tokens followed by hand, and jumps that agree with single steps."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.errors import ConfigError
from simulator.serving.run import ServingRun
from simulator.serving.simulate import simulate_deployment
from simulator.strategies.batching.delayed import BatchWait, Polled
from simulator.strategies.protocols import BatchShape, Segment
from simulator.workload.requests.provenance import TraceProvenance
from simulator.workload.requests.table import RequestTable


class Second:
    """One second per iteration, plus one per 100 prompt tokens."""

    def iteration(self, batch: BatchShape) -> float:
        return 1.0 + sum(chunk for chunk, _ in batch.prefill) / 100

    def decode_segment(self, batch: BatchShape) -> Segment:
        return Segment(1.0, 0.0, 1 << 40)


def serve(rows: list[tuple[float, int, int]], policy: object, stride: int | None = None) -> ServingRun:
    arrival, inputs, outputs = (np.array(column) for column in zip(*rows, strict=True))
    table = RequestTable(arrival, inputs, outputs, "hand", TraceProvenance("test", "generated", len(rows), len(rows)))
    return simulate_deployment(table, Second(), kv_blocks=1000, batching=policy, stride=stride)  # type: ignore[arg-type]


LATE = [(0.0, 100, 40), (3.5, 100, 5)]
"""The second prompt comes in the second decode of the first."""


@pytest.mark.parametrize("stride", [None, 1])
def test_a_polled_engine_sees_a_request_at_the_next_look(stride: int | None) -> None:
    # 0-2 prefill, looks at 2, 12, 22 ... (ten decodes); prefill of the second 12-14.
    assert serve(LATE, Polled("prefill-first", 10), stride).first_token.tolist() == [2.0, 14.0]
    assert serve(LATE, Polled("prefill-first", 1), stride).first_token.tolist() == [2.0, 6.0]


def test_an_idle_engine_looks_at_once() -> None:
    alone = [(0.0, 100, 3), (50.5, 100, 3)]
    assert serve(alone, Polled("prefill-first", 30)).first_token.tolist() == [2.0, 52.5]


@pytest.mark.parametrize("stride", [None, 1])
def test_batch_wait_ends_by_count_or_by_tokens(stride: int | None) -> None:
    # The first boundary after 3.5 is 4: five decodes alone, then prompt and decode together from 9 to 11.
    assert serve(LATE, BatchWait("chunked-prefill", 5, 1.0), stride).first_token.tolist() == [2.0, 11.0]
    # 101 tokens are more than 1 % of 8,192: nobody waits.
    assert serve(LATE, BatchWait("chunked-prefill", 5, 0.01), stride).first_token.tolist() == [2.0, 6.0]


def test_without_a_wait_the_policy_behind_remains() -> None:
    plain = serve(LATE, "chunked-prefill")
    for policy in (BatchWait("chunked-prefill", 0), Polled("chunked-prefill", 1)):
        assert serve(LATE, policy).finish.tolist() == plain.finish.tolist()


def test_wrong_parameters_are_refused() -> None:
    with pytest.raises(ConfigError, match="iterations"):
        Polled(iterations=-1)
    with pytest.raises(ConfigError, match="ratio"):
        BatchWait(ratio=0.0)


def test_prompts_beyond_the_budget_are_cut_and_still_go_before_decodes() -> None:
    rows = [(0.0, 100, 10), (2.5, 250, 2)]
    arrival, inputs, outputs = (np.array(column) for column in zip(*rows, strict=True))
    table = RequestTable(arrival, inputs, outputs, "hand", TraceProvenance("test", "generated", 2, 2))
    run = simulate_deployment(
        table, Second(), kv_blocks=1000, batching="chunked-prefill-first", max_num_batched_tokens=100
    )
    # 0-2 prefill, 2-3 decode, then pieces of 100, 100 and 50 tokens: 3-5, 5-7, 7-8.5; both decode from there.
    assert run.first_token.tolist() == [2.0, 8.5]
    assert run.finish.tolist() == [2.0 + 1.0 + 5.5 + 8.0, 9.5]
