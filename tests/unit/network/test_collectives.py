import numpy as np
import pytest

from simulator.errors import ConfigError
from simulator.network.collectives import collective_flow, collective_traffic, messages
from simulator.network.patterns import _two_trees
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


@pytest.mark.parametrize("domains", [2, 3, 4, 7, 8, 16, 33])
def test_in_two_trees_whoever_has_children_in_one_is_a_leaf_of_the_other(domains) -> None:
    """Sanders, Speck and Träff 2009; so nobody sends more than twice the data, where one tree has ranks with three."""
    first, second = (
        {a: b for a, b in enumerate(tree.tolist()) if b >= 0} for tree in _two_trees(domains)
    )  # child → parent
    for tree in (first, second):
        assert len(tree) == domains - 1
        for rank in range(domains):
            seen = set()
            while rank in tree:
                assert rank not in seen
                seen.add(rank)
                rank = tree[rank]
        assert max(list(tree.values()).count(parent) for parent in tree.values()) <= 2
    assert set(first.values()) & set(second.values()) <= ({0} if domains % 2 else set())
    found = collective_traffic("all_reduce", 1.0, (1,) * domains, "double-tree")
    assert found.total["nic"] == pytest.approx(2 * (domains - 1))
    assert found.per_rank["nic"] <= 2.0 + 1e-9


@pytest.mark.parametrize(("domains", "size"), [(1, 8), (4, 8), (8, 4), (2, 1)])
def test_halving_and_doubling_in_closed_form(domains, size) -> None:
    """2S(1 − 1/g) stay inside and 2S(1/g − 1/n) leave: Rabenseifner 2004, as much as the hierarchical ring."""
    found = collective_traffic("all_reduce", 1.0, (size,) * domains, "halving-doubling").per_rank
    assert found["scale_up"] == pytest.approx(2 * (1 - 1 / size))
    assert found["nic"] == pytest.approx(2 * (1 / size - 1 / (size * domains)))
    half = collective_traffic("all_gather", 1.0, (size,) * domains, "halving-doubling").per_rank
    assert half["nic"] == pytest.approx(found["nic"] / 2)
    with pytest.raises(ConfigError, match="power of two"):
        collective_traffic("all_reduce", 1.0, (6,), "halving-doubling")


def test_a_hierarchical_all_to_all_sends_the_same_between_domains_in_fewer_messages() -> None:
    layout = (8, 8, 8, 8)
    flat, staged = (collective_traffic("all_to_all", 32.0, layout, a) for a in ("pairwise", "hierarchical"))
    assert flat.per_rank["nic"] == staged.per_rank["nic"] == pytest.approx(24.0)
    assert staged.per_rank["scale_up"] == pytest.approx(7 / 8 * 32.0)

    def leaving(algorithm: str) -> int:
        source, target, _ = messages("all_to_all", 32.0, layout, algorithm)
        return int(((source // 8 != target // 8) & (source == 0)).sum())

    assert (leaving("pairwise"), leaving("hierarchical")) == (24, 3)
    source, target, volume = messages("all_to_all", 32.0, layout, "hierarchical")
    near = source // 8 == target // 8
    sums = [np.bincount(source[m], volume[m]) for m in (near, ~near)]
    assert sums[0] == pytest.approx(np.full(32, staged.per_rank["scale_up"]))
    assert sums[1] == pytest.approx(np.full(32, staged.per_rank["nic"]))


@pytest.mark.parametrize(
    ("topology", "options"),
    [("fat-tree", {}), ("fat-tree", {"nodes_per_leaf": 2}), ("fat-tree", {"nodes_per_leaf": 1}), ("rail-optimized", {}),
     ("dragonfly", {"ports_per_router": 4, "routers_per_group": 2}), ("dragonfly-plus", {"ports_per_leaf": 8})],
)  # fmt: skip
def test_switches_that_add_carry_every_byte_once(make_cluster, topology, options) -> None:
    """(1 + 1/g)·S at an accelerator and S/g at a port, each way; no link between switches carries more than S."""
    t = build(make_cluster(4, topology, **options))
    flow = collective_flow(t, "all_reduce", 8.0, range(32), "in-switch")
    expected = collective_traffic("all_reduce", 8.0, (8,) * 4, "in-switch")
    by_kind: dict[str, set[float]] = {}
    for link, load in zip(flow.links.tolist(), flow.bytes_per_link.tolist(), strict=True):
        by_kind.setdefault(t.links.kind_of(link), set()).add(round(load, 9))
    assert by_kind["scale_up"] == {9.0} == {expected.per_rank["scale_up"]}
    assert by_kind["nic"] == {1.0} == {expected.per_rank["nic"]}
    between = by_kind.get("leaf_spine", set()) | by_kind.get("spine_core", set())
    assert bool(between) == bool(options)
    assert max(between, default=0.0) <= 8.0
    ring = collective_flow(t, "all_reduce", 8.0, range(32), "hierarchical")
    nic = [load for i, load in zip(ring.links, ring.bytes_per_link, strict=True) if t.links.kind_of(i) == "nic"]
    assert max(nic) == pytest.approx(1.5)
