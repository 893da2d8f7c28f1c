"""Sessions: contexts that grow by what was said, turns that wait and think, text that turns share."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

import simulator
from simulator.errors import ConfigError
from simulator.workload.requests.arrivals import ClosedLoop, Poisson
from simulator.workload.requests.lengths import Fixed, Uniform
from simulator.workload.requests.sessions import SessionLaw, generate_sessions


def test_a_turn_sends_all_that_was_said_and_something_new() -> None:
    table = generate_sessions(Poisson(1.0), SessionLaw(Fixed(4), 2.0), Fixed(300), Fixed(50), count=3, seed=1)
    assert table.input_tokens.tolist() == [300, 650, 1000, 1350] * 3
    assert table.turn is not None and table.turn.tolist() == [1, 2, 3, 4] * 3
    assert table.parent is not None and table.parent.tolist() == [-1, 0, 1, 2, -1, 4, 5, 6, -1, 8, 9, 10]
    assert table.think_time is not None and table.prefix_blocks is not None
    assert np.isnan(table.think_time[::4]).all() and (table.think_time[1:4] == 2.0).all()
    blocks = [table.prefix_blocks[row].tolist() for row in range(12)]
    assert [len(ids) for ids in blocks] == [n // 128 for n in table.input_tokens]
    # Whole blocks of a prompt are in the next one of its session, and in no other session.
    assert blocks[1] == blocks[2][: len(blocks[1])] and not set(blocks[3]) & set(blocks[7])


def test_a_session_ends_before_its_context_is_too_long() -> None:
    law = SessionLaw(Uniform(1, 30), 0.0, max_context=2000)
    table = generate_sessions(Poisson(1.0), law, Uniform(1, 400), Uniform(1, 90), count=200, seed=2)
    assert table.input_tokens.max() <= 2000
    assert table.session is not None and len(set(table.session.tolist())) == 200
    with pytest.raises(ConfigError, match="rate of new sessions"):
        generate_sessions(ClosedLoop(4), law, Fixed(1), Fixed(1), count=4)


def test_the_next_turn_comes_after_the_answer_and_finds_its_prefix() -> None:
    work = {
        "serving": "agent", "model": "llama-3.2-1b", "framework": "vllm-0.10",
        "requests": {
            "rate": "1 /s", "count": 5, "input_tokens": 256, "output_tokens": 64,
            "sessions": {"turns": 6, "think_time": "3 s"},
        },
        "deployment": {"kv_cache": "prefix-lru"},
    }  # fmt: skip
    result = simulator.run({"cluster": {"nodes": {"profile": "dgx-h100", "count": 1}}, "workloads": [work]})
    rows = result.rows("requests")
    for before, after in pairwise(rows):
        if after["input_tokens"] > before["input_tokens"]:
            assert after["arrival"] == pytest.approx(before["finish"] + 3.0)
    # Turn i finds the whole blocks of the prompt before: 256 + 320·(i − 1) tokens in blocks of 128.
    found = 5 * sum((256 + 320 * i) // 128 * 128 for i in range(5))
    assert result.of("agent")["cached_tokens"] == pytest.approx(found)


@pytest.mark.parametrize("record", ["full", "summary"])
def test_a_rate_above_capacity_is_unstable_with_the_growth_of_the_queue(record: str) -> None:
    """A replica that can take about 40 such requests per second gets 80."""
    work = {
        "serving": "chat", "model": "llama-3.1-8b", "framework": "vllm-0.10",
        "requests": {"rate": "80 /s", "count": 6000, "input_tokens": 1200, "output_tokens": 20},
    }  # fmt: skip
    given = {"cluster": {"nodes": {"profile": "dgx-h100", "count": 1}}, "workloads": [work], "record": record}
    row = simulator.run(given).of("chat")
    assert row["unstable"]
    assert row["queue_growth"] == pytest.approx(row["arrival_rate"] - row["completion_rate"], rel=0.15)
