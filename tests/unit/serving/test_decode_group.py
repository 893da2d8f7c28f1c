import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.serving.decode_group import DecodeGroup
from simulator.strategies.protocols import RequestState

MEMBERS = st.lists(st.tuples(st.integers(1, 70), st.integers(200, 300)), min_size=1, max_size=8)


def group_of(members: list[tuple[int, int]], size: int, clock: int) -> DecodeGroup:
    group = DecodeGroup(size, grows=True)
    group.clock = clock
    for index, (prompt, output) in enumerate(members):
        request = RequestState(index, 0.0, prompt, output)
        request.produced = 1
        group.join(request, 0.0)
    return group


def opened(members: list[tuple[int, int]], size: int, iteration: int) -> int:
    """Blocks whose first token is processed in ``iteration``, counted one by one."""
    return sum((prompt + 1 + iteration) % size == 1 % size for prompt, _ in members)


@settings(deadline=None)
@given(MEMBERS, st.integers(1, 17), st.integers(0, 50), st.integers(1, 120))
def test_growth_and_its_moments_are_sums_over_iterations(
    members: list[tuple[int, int]], size: int, clock: int, iterations: int
) -> None:
    group = group_of(members, size, clock)
    per_iteration = [opened(members, size, j) for j in range(iterations)]
    assert group.crossings() == per_iteration[0]
    later = list(enumerate(per_iteration))[1:]
    expected = (sum(x for _, x in later), sum(j * x for j, x in later), sum(j * (j - 1) // 2 * x for j, x in later))
    assert group.growth(iterations) == expected


@settings(deadline=None)
@given(MEMBERS, st.integers(1, 17), st.integers(0, 50), st.integers(0, 60), st.integers(1, 120))
def test_iterations_within_is_the_longest_jump_the_blocks_allow(
    members: list[tuple[int, int]], size: int, clock: int, blocks: int, most: int
) -> None:
    group = group_of(members, size, clock)
    cumulated = np.cumsum([0, *(opened(members, size, j) for j in range(1, most))])
    assert group.iterations_within(blocks, most) == int((cumulated <= blocks).sum())


def test_without_a_free_block_only_the_secured_iteration_runs() -> None:
    assert group_of([(5, 300)], 16, 0).iterations_within(-1, 50) == 1


def test_a_member_leaves_at_its_last_token_and_takes_its_context_along() -> None:
    group = group_of([(10, 4), (20, 6)], 16, 7)
    assert group.shape() == ((), 2, 11 + 21, 21)
    assert group.next_finish == 3
    group.advance(3)
    assert [r.index for r in group.pop_finished()] == [0]
    assert group.shape() == ((), 1, 24, 24)
    assert group.produced(group.members[0]) == 4


def test_absorbing_keeps_contexts_and_ends() -> None:
    one, two = group_of([(10, 9)], 4, 3), group_of([(30, 5), (6, 20)], 4, 40)
    two.advance(2)
    two.fresh = []
    one.absorb(two)
    assert one.shape() == ((), 3, 11 + 33 + 9, 33)
    assert one.next_finish == 2
    assert two.count == 0
    assert two.crossings() == 0
