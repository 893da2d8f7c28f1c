"""The division of a mixed pool against brute force, and its limiting cases."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.errors import ConfigError
from simulator.strategies.model_scheduling.alpaserve import mean_latency
from simulator.strategies.planner.hexgen import Division, HexGen, NodePool, ReplicaShape

RATES = {"fast": 3.0, "slow": 1.0}


def shapes_of(*kinds: str, degrees: Sequence[int] = (1, 2, 4)) -> list[ReplicaShape]:
    """Replicas that gain less than they cost in accelerators, as tensor parallelism does."""
    return [
        ReplicaShape(kind, tp, pp, RATES[kind] * tp**0.8 * pp**0.9)
        for kind in kinds
        for tp, pp in itertools.product(degrees, (1, 2))
    ]


@dataclass
class Judge:
    """Requests dealt out by capacity; those of replicas whose mean M/D/1 latency is below a deadline are in time."""

    shapes: Sequence[ReplicaShape]
    rate: float
    deadline: float
    calls: int = 0

    def score(self, division: Division) -> tuple[float, ...]:
        total = sum(n * s.capacity for n, s in zip(division, self.shapes, strict=True))
        used = sum(n * s.size for n, s in zip(division, self.shapes, strict=True))
        good = 0.0
        for n, s in zip(division, self.shapes, strict=True):
            latency = mean_latency(self.rate * s.capacity / total, 1.0 / s.capacity)
            good += n * s.capacity / total * (latency <= self.deadline)
        return (good, -float(used))

    def scores(self, divisions: Sequence[Division]) -> list[tuple[float, ...]]:
        self.calls += len(divisions)
        return [self.score(d) for d in divisions]


def fits(shapes: Sequence[ReplicaShape], division: Division, pools: dict[str, NodePool]) -> bool:
    """Whether some order of the replicas fits the nodes, each inside one node or on whole ones: by trying all."""

    def pack(sizes: list[int], free: list[int], per_node: int) -> bool:
        if not sizes:
            return True
        size, rest = sizes[0], sizes[1:]
        if size > per_node:
            whole = [i for i, f in enumerate(free) if f == per_node]
            need, tail = divmod(size, per_node)
            if len(whole) < need + (tail > 0):
                return False
            left = list(free)
            for i in whole[:need]:
                left[i] = 0
            if tail:
                left[whole[need]] -= tail
            return pack(rest, left, per_node)
        return any(
            pack(rest, [f - size * (j == i) for j, f in enumerate(free)], per_node)
            for i, free_i in enumerate(free)
            if free_i >= size
        )

    for kind, pool in pools.items():
        sizes = sorted((s.size for s, n in zip(shapes, division, strict=True) if s.kind == kind for _ in range(n)))
        if not pack(sizes[::-1], [pool.per_node] * pool.nodes, pool.per_node):
            return False
    return any(division)


def every(shapes: Sequence[ReplicaShape], pools: dict[str, NodePool]) -> list[Division]:
    """All divisions, kind by kind; the shapes of a kind stand together."""
    parts = []
    for kind, pool in pools.items():
        own = [s for s in shapes if s.kind == kind]
        room = pool.nodes * pool.per_node
        counts = itertools.product(*(range(room // s.size + 1) for s in own))
        small = [d for d in counts if sum(n * s.size for n, s in zip(d, own, strict=True)) <= room]
        parts.append([d for d in small if not any(d) or fits(own, d, {kind: pool})])
    return [tuple(itertools.chain(*d)) for d in itertools.product(*parts) if any(map(any, d))]


@settings(max_examples=25, deadline=None)
@given(fast=st.integers(1, 4), slow=st.integers(1, 4), rate=st.floats(0.5, 12.0), deadline=st.floats(0.1, 2.0))
def test_a_small_pool_is_divided_as_brute_force_would(fast: int, slow: int, rate: float, deadline: float) -> None:
    shapes = shapes_of("fast", "slow", degrees=(1, 2))
    pools = {"fast": NodePool(1, fast), "slow": NodePool(1, slow)}
    judge = Judge(shapes, rate, deadline)
    found = HexGen(simulations=10_000).search(shapes, pools, judge.scores)
    all_of = every(shapes, pools)
    assert found.exact
    assert found.considered == len(all_of) == judge.calls
    assert found.ranked[0][0] == max(judge.score(d) for d in all_of)


@pytest.mark.parametrize(("rate", "deadline"), [(2.0, 0.3), (6.0, 0.5), (9.0, 0.25), (14.0, 1.0), (20.0, 0.4)])
def test_evolution_reaches_the_best_of_brute_force_at_a_part_of_its_cost(rate: float, deadline: float) -> None:
    shapes = shapes_of("fast", "slow")
    pools = {"fast": NodePool(1, 4), "slow": NodePool(2, 4)}
    judge = Judge(shapes, rate, deadline)
    all_of = every(shapes, pools)
    best = max(judge.score(d) for d in all_of)
    found = HexGen(simulations=120).search(shapes, pools, judge.scores)
    assert not found.exact
    assert judge.calls == len(found.ranked) <= 120 < len(all_of) / 4
    assert found.ranked[0][0][0] == pytest.approx(best[0])  # as many requests in time
    assert all(fits(shapes, d, pools) for _, d in found.ranked)


def test_of_one_kind_with_equal_gains_the_best_are_equal_replicas() -> None:
    """Degrees without a loss beyond 2: the pool is all replicas of that size; and a larger pool takes more of them."""
    shapes = [ReplicaShape("fast", 1, 1, 1.0), ReplicaShape("fast", 2, 1, 2.5), ReplicaShape("fast", 4, 1, 4.0)]

    def capacity(divisions: Sequence[Division]) -> list[tuple[float, ...]]:
        return [(sum(n * s.capacity for n, s in zip(d, shapes, strict=True)),) for d in divisions]

    for nodes in (1, 2, 5):
        found = HexGen(simulations=40).search(shapes, {"fast": NodePool(nodes, 4)}, capacity)
        assert found.ranked[0][1] == (0, 2 * nodes, 0)


def test_a_replica_does_not_straddle_nodes_it_does_not_fill() -> None:
    assert NodePool(2, 4).holds([2, 2, 2, 1, 1])
    assert not NodePool(2, 3).holds([2, 2, 1, 1])  # placement does not come back to a node it has left
    assert not NodePool(2, 3).holds([2, 2, 2])
    assert NodePool(3, 4).holds([8, 4])
    assert not NodePool(2, 4).holds([8, 1])
    assert not NodePool(1, 4).holds([4, 4])


def test_the_same_seed_gives_the_same_ranking() -> None:
    shapes, pools = shapes_of("fast", "slow"), {"fast": NodePool(1, 4), "slow": NodePool(2, 4)}
    judge = Judge(shapes, 9.0, 0.5)
    one, two = (HexGen(simulations=50).search(shapes, pools, judge.scores).ranked for _ in range(2))
    assert one == two
    with pytest.raises(ConfigError, match="at least one simulation"):
        HexGen(simulations=0)
