import pytest

from simulator.errors import ConfigError
from simulator.network.collectives import collective_flow, collective_traffic
from simulator.network.topology import build


def test_published_factors() -> None:
    """Bytes each rank sends: 2(n-1)/n for a ring all-reduce, half for its halves (nccl-tests, PERFORMANCE.md)."""
    assert collective_traffic("all_reduce", 8.0, (8,)).per_rank["scale_up"] == pytest.approx(14.0)
    assert collective_traffic("all_gather", 8.0, (8,)).per_rank["scale_up"] == pytest.approx(7.0)
    assert collective_traffic("reduce_scatter", 8.0, (8,)).total["scale_up"] == pytest.approx(56.0)
    pair = collective_traffic("p2p", 5.0, (1, 1))
    assert (pair.per_rank["nic"], pair.total["scale_up"]) == (5.0, 0.0)
    assert collective_traffic("all_reduce", 8.0, (1,)).total == {"scale_up": 0.0, "nic": 0.0}


def test_flow_over_a_placement_follows_the_ranks(make_cluster) -> None:
    """A ring in rank order crosses each node boundary once; interleaved ranks cross at every step."""
    t = build(make_cluster(2))
    packed = collective_flow(t, "all_reduce", 16.0, range(16), "ring")
    mixed = collective_flow(t, "all_reduce", 16.0, [r for g in range(8) for r in (g, 8 + g)], "ring")
    ports = {name: sum(t.links.kind_of(i) == "nic" for i in flow.links) for name, flow in
             {"packed": packed, "mixed": mixed}.items()}  # fmt: skip
    assert ports == {"packed": 4, "mixed": 32}
    assert packed.size == mixed.size == pytest.approx(2 * 15 / 16 * 16.0)
    assert (packed.way.shares <= 1).all()


def test_wrong_requests_are_named(make_cluster) -> None:
    t = build(make_cluster(2))
    with pytest.raises(ConfigError, match="did you mean 'all_reduce'"):
        collective_traffic("allreduce", 1.0, (8,))
    with pytest.raises(ConfigError, match="unknown algorithm of all_to_all"):
        collective_traffic("all_to_all", 1.0, (8,), "ring")
    with pytest.raises(ConfigError, match="equally many ranks"):
        collective_flow(t, "all_reduce", 1.0, range(12), "hierarchical")
    with pytest.raises(ConfigError, match="names a rank twice"):
        collective_flow(t, "all_reduce", 1.0, [0, 0])
    with pytest.raises(ConfigError, match="between 2 ranks"):
        collective_traffic("p2p", 1.0, (3,))
