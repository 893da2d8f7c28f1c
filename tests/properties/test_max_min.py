"""Max-min fairness: the optimality conditions, and the textbook algorithm as a second implementation."""

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.network import maxmin
from simulator.network.maxmin import max_min_allocation, max_min_rates


@st.composite
def networks(draw):
    links, flows = draw(st.integers(1, 8)), draw(st.integers(1, 12))
    number = st.integers(1, 20).map(float)
    capacity = np.array(draw(st.lists(number, min_size=links, max_size=links)))
    paths = [sorted(draw(st.sets(st.integers(0, links - 1), min_size=1, max_size=5))) for _ in range(flows)]
    weights = np.array(draw(st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=flows, max_size=flows)))
    caps = np.array(draw(st.lists(st.sampled_from([0.3, 1.0, 4.0, np.inf]), min_size=flows, max_size=flows)))
    entries = sum(map(len, paths))
    shares = np.array(draw(st.lists(st.sampled_from([0.25, 1.0, 1.5]), min_size=entries, max_size=entries)))
    indptr = np.r_[0, np.cumsum([len(p) for p in paths])]
    return capacity, indptr, np.concatenate(paths).astype(np.int64), weights, caps, shares


def textbook(capacity, indptr, indices, weights, caps, shares):
    """Progressive filling as in the books: one bottleneck at a time, in plain Python."""
    flows = len(indptr) - 1
    load = [
        dict(zip(indices[indptr[f] : indptr[f + 1]].tolist(), shares[indptr[f] : indptr[f + 1]], strict=True))
        for f in range(flows)
    ]
    rate, live, room = [0.0] * flows, set(range(flows)), capacity.tolist()
    while live:
        level, limiting = np.inf, ()
        for link in range(len(capacity)):
            users = [f for f in live if link in load[f]]
            if users and (s := room[link] / sum(load[f][link] * weights[f] for f in users)) < level:
                level, limiting = s, users
        for f in live:
            if caps[f] / weights[f] < level:
                level, limiting = caps[f] / weights[f], [f]
        for f in limiting:
            rate[f] = level * weights[f]
            live.discard(f)
            for link, share in load[f].items():
                room[link] = max(0.0, room[link] - share * rate[f])
    return rate


@given(networks(), st.sampled_from([0, 1000]))
def test_equals_textbook_filling(network, many) -> None:
    """Whether links that cannot fill are looked for or not."""
    with patch.object(maxmin, "_MANY", many):
        assert max_min_rates(*network) == pytest.approx(textbook(*network), rel=1e-9)


@given(networks(), st.sampled_from([0, 1000]))
def test_optimality_conditions(network, many) -> None:
    """Feasible, and every flow is at its cap or has a full link on which no flow has a higher normalised rate."""
    capacity, indptr, indices, weights, caps, shares = network
    with patch.object(maxmin, "_MANY", many):
        answer = max_min_allocation(*network)
    owner = np.repeat(np.arange(len(weights)), np.diff(indptr))
    used = np.bincount(indices, shares * answer.rates[owner], minlength=len(capacity))
    assert (used <= capacity * (1 + 1e-9)).all()
    assert (answer.rates <= caps * (1 + 1e-12)).all()
    normalised = answer.rates / weights
    for f, link in enumerate(answer.bottleneck.tolist()):
        if link < 0:
            assert answer.rates[f] == pytest.approx(caps[f])
            continue
        assert link in indices[indptr[f] : indptr[f + 1]]
        assert used[link] == pytest.approx(capacity[link], rel=1e-9)
        assert normalised[f] >= normalised[owner[indices == link]].max() * (1 - 1e-9)


@given(networks(), st.floats(0.1, 10.0))
def test_scales_with_the_bandwidth(network, factor) -> None:
    capacity, indptr, indices, weights, caps, shares = network
    scaled = max_min_rates(capacity * factor, indptr, indices, weights, caps * factor, shares)
    assert scaled == pytest.approx(max_min_rates(*network) * factor, rel=1e-9)


def test_a_chain_of_bottlenecks_takes_as_many_rounds_as_it_is_long() -> None:
    """A parking lot: flow i crosses links i and i + 1 with doubling capacities; and 1,000 separate links take one."""
    links = 6
    indices = np.array([x for i in range(links - 1) for x in (i, i + 1)])
    chain = max_min_allocation(10.0 ** np.arange(links), np.arange(0, 2 * links - 1, 2), indices)
    assert chain.rates.tolist() == [1.0, 9.0, 91.0, 909.0, 9091.0]
    assert chain.rounds <= links
    assert max_min_allocation(np.arange(1.0, 1001.0), np.arange(1001), np.arange(1000)).rounds == 1


def test_limits() -> None:
    one = np.array([0, 1])
    assert max_min_rates(np.array([0.0]), one, np.array([0])).tolist() == [0.0]
    assert max_min_rates(np.array([np.inf]), one, np.array([0]), caps=np.array([3.0])).tolist() == [3.0]
    assert max_min_rates(np.array([np.inf, 8.0]), np.array([0, 1, 3]), np.array([0, 0, 1])).tolist() == [np.inf, 8.0]
    assert max_min_rates(np.array([1.0]), np.array([0, 0]), np.array([], np.int64)).tolist() == [np.inf]
    with pytest.raises(ValueError, match="weights must be positive"):
        max_min_rates(np.array([1.0]), one, np.array([0]), weights=np.array([0.0]))
    with pytest.raises(ValueError, match="link numbers"):
        max_min_rates(np.array([1.0]), one, np.array([1]))


@given(networks(), st.randoms(use_true_random=False))
def test_rates_after_ends_are_those_of_the_rest_divided_anew(network, random) -> None:
    """Only those that can rise are divided again; the answer is that of all that are left."""
    from simulator.network.flows import Flow, Way
    from simulator.network.shrinking import Shrinking

    capacity, indptr, indices, weights, caps, shares = network
    flows = []
    for f in range(len(weights)):
        part = slice(indptr[f], indptr[f + 1])
        way = Way(indices[part], shares[part])
        flows.append(Flow(f, "", way, way, frozenset(), 1.0, float(weights[f]), float(caps[f]), 0.0, None))
    known = Shrinking(flows, capacity, np.unique)
    rates = dict(zip(*(column.tolist() for column in known.all()[:2]), strict=True))
    left = list(range(len(flows)))
    while len(left) > 1:
        ended = random.sample(left, random.randint(1, max(1, len(left) // 2)))
        left = [f for f in left if f not in ended]
        rates |= dict(zip(*(column.tolist() for column in known.without(np.array(ended))[:2]), strict=True))
        rows = [np.arange(indptr[f], indptr[f + 1]) for f in left]
        entries = np.concatenate(rows)
        fresh = max_min_rates(
            capacity, np.r_[0, np.cumsum([len(r) for r in rows])], indices[entries], weights[left], caps[left],
            shares[entries],
        )  # fmt: skip
        assert [rates[f] for f in left] == pytest.approx(fresh.tolist(), rel=1e-7)
