from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.engine.interleave import interleave
from simulator.engine.streams import run_streams

STREAMS = ("compute", "scale_up", "scale_out")


def makespan(duration: list[float], stream: list[str], after: list[list[int]]) -> float:
    order = interleave(duration, stream, after)
    place = {index: position for position, index in enumerate(order)}
    waits = [[place[j] for j in after[i]] for i in order]
    return run_streams([duration[i] for i in order], [stream[i] for i in order], waits).makespan


@pytest.mark.parametrize("turns", [1, 3, 10])
def test_two_programs_hide_each_others_messages(turns: int) -> None:
    # Each alternates a kernel and a message of equal length: alone 2n; together no stream waits but at the two ends.
    chain = [[]] + [[i] for i in range(2 * turns - 1)]
    both = chain + [[j + 2 * turns for j in waits] for waits in chain]
    assert makespan([1.0] * 2 * turns, ["compute", "link"] * turns, chain) == 2 * turns
    assert makespan([1.0] * 4 * turns, ["compute", "link"] * 2 * turns, both) == 2 * turns + 1


def test_the_longest_chain_goes_first() -> None:
    # The kernel before a long message starts at once, the ones nothing waits for run beside the message.
    assert makespan([3.0, 2.0, 1.0, 5.0], ["compute", "compute", "compute", "link"], [[], [], [], [2]]) == 6.0


@given(st.data())
def test_order_keeps_data_flow_and_the_list_scheduling_bound(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 25))
    duration = [float(d) for d in data.draw(st.lists(st.integers(0, 8), min_size=count, max_size=count))]
    stream = data.draw(st.lists(st.sampled_from(STREAMS), min_size=count, max_size=count))
    after = [sorted(data.draw(st.sets(st.integers(0, i - 1), max_size=3))) if i else [] for i in range(count)]
    order = interleave(duration, stream, after)
    place = {index: position for position, index in enumerate(order)}
    assert sorted(order) == list(range(count))
    assert all(place[j] < place[i] for i in range(count) for j in after[i])
    end = makespan(duration, stream, after)
    chain = [0.0] * count
    for i in range(count):
        chain[i] = duration[i] + max((chain[j] for j in after[i]), default=0.0)
    loads = [sum(d for d, s in zip(duration, stream, strict=True) if s == name) for name in STREAMS]
    # At any moment a stream works or the longest chain gets shorter: the longest chain and all loads are a bound.
    assert max(*loads, *chain) <= end <= max(chain) + sum(loads)


def test_a_wait_for_a_later_operation_is_named() -> None:
    with pytest.raises(ValueError, match="operation 0 waits"):
        interleave([1.0, 1.0], ["compute", "compute"], [[1], []])
