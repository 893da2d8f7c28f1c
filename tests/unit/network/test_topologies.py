from itertools import pairwise

import networkx as nx
import numpy as np
import pytest

from simulator.errors import ConfigError
from simulator.hardware.types import Storage
from simulator.network.topology import build
from simulator.network.wiring import topology_names

GRAPH = [{"between": ["a", "b"], "bandwidth": "400 Gb/s"}, {"between": ["b", "c"]}, {"between": ["a", "d"]},
         {"between": ["d", "c"]}]  # fmt: skip
SHAPES = {
    "single-switch": (4, {}),
    "fat-tree": (16, {"nodes_per_leaf": 2, "levels": 3, "leaves_per_pod": 4}),
    "rail-optimized": (16, {"nodes_per_leaf": 4, "levels": 3, "leaves_per_pod": 16}),
    "dragonfly": (10, {"ports_per_router": 4, "routers_per_group": 4, "global_links_per_router": 2}),
    "dragonfly-plus": (10, {"ports_per_leaf": 4, "leaves_per_group": 4, "spines_per_group": 2,
                            "global_links_per_spine": 4}),
    "torus": (12, {"shape": [4, 3], "wrap": [True, False]}),
    "graph": (4, {"links": GRAPH, "attach": [{"nodes": [0, 1], "switch": "a"}, {"nodes": [2, 3], "switch": "c"}]}),
    "multi-site": (8, {"sites": [5, 3], "wan_bandwidth": "100 Gb/s", "wan_latency": "10 ms",
                       "site_options": {"nodes_per_leaf": 2}}),
    "scale-up": (1, {}),
}  # fmt: skip
STORAGE = (Storage("fs", "parallel-fs", 2e11, 1e11),)


@pytest.fixture(params=sorted(SHAPES))
def topology(request, make_cluster):
    nodes, options = SHAPES[request.param]
    return build(make_cluster(nodes, request.param, storage=STORAGE, **options))


def endpoints(t):
    some = [0, 1, 5, t.accelerator_count // 2, t.accelerator_count - 1]
    return [*some, t.host(0), t.host(t.node_count - 1), t.nvme(0), t.nvme(t.node_count - 1), t.storage("fs")]


def test_every_registered_topology_is_tested() -> None:
    assert sorted(SHAPES) == topology_names()


def test_paths_are_chains_of_links_between_their_endpoints(topology) -> None:
    vertex = {}
    for a in endpoints(topology):
        for b in endpoints(topology):
            for flow in range(4):
                path = topology.path(a, b, flow)
                if a == b:
                    assert path == ()
                    continue
                ends = list(zip(topology.links.source[list(path)], topology.links.target[list(path)], strict=True))
                assert all(x[1] == y[0] for x, y in pairwise(ends))
                if path:
                    assert vertex.setdefault(a, ends[0][0]) == ends[0][0] or not topology.is_accelerator(a)
                    assert vertex.setdefault(b, ends[-1][1]) == ends[-1][1] or not topology.is_accelerator(b)


def test_spread_is_a_unit_flow_and_covers_the_hashed_paths(topology) -> None:
    for a in (0, 3):
        for b in (topology.accelerator_count - 1, topology.accelerator_count - 6):
            shares = topology.spread(a, b)
            balance = np.zeros(len(topology.links.vertex_names))
            for link, share in shares.items():
                balance[topology.links.source[link]] += share
                balance[topology.links.target[link]] -= share
            assert sorted(balance[abs(balance) > 1e-9].round(9).tolist()) == [-1.0, 1.0]
            assert all(set(topology.path(a, b, f)) <= set(shares) for f in range(20))


def test_array_loads_equal_the_sum_of_spreads(topology) -> None:
    rng = np.random.default_rng(1)
    src, dst = rng.integers(0, topology.accelerator_count, (2, 60))
    volume = rng.uniform(1, 2, 60)
    expected = np.zeros(len(topology.links))
    for a, b, v in zip(src.tolist(), dst.tolist(), volume, strict=True):
        for link, share in topology.spread(a, b).items():
            expected[link] += share * v
    assert topology.loads(src, dst, volume) == pytest.approx(expected)


def test_names_are_unique_and_all_endpoints_can_reach_each_other(topology) -> None:
    graph = topology.to_networkx()
    names = [topology.links.name(i) for i in range(len(topology.links))]
    assert len(set(names)) == len(names) == graph.number_of_edges()
    assert len(set(graph)) == len(topology.links.vertex_names)
    assert topology.links.number(names[7]) == 7
    assert all(nx.has_path(graph, "node0/gpu0", v) for v in graph)


def test_bundled_links_are_parallel_and_equal(topology) -> None:
    first = topology.links.bundle
    assert (first[first] == first).all()
    assert (topology.links.capacity[first] == topology.links.capacity).all()
    assert (topology.links.kind[first] == topology.links.kind).all()


def test_rail_optimised_crosses_rails_inside_the_sender(make_cluster) -> None:
    t = build(make_cluster(4, "rail-optimized"))
    names = [t.links.name(i) for i in t.path(t.accelerator(0, 1), t.accelerator(3, 6))]
    assert names[:4] == ["node0/gpu1/scale_up:out", "node0/gpu6/scale_up:in", "node0/gpu6/host:out", "node0/nic6:out"]
    assert names[4:] == ["node3/nic6:in", "node3/gpu6/host:in"]


def test_latency_of_a_path_follows_the_measured_end_to_end_figures(make_cluster) -> None:
    """InfiniBand 64 B: 2.8 µs on one leaf and 3.7 µs across leaves (arXiv 2505.09343)."""
    t = build(make_cluster(4, "fat-tree", nodes_per_leaf=2))
    assert t.path_latency(t.path(0, t.accelerator(1, 0))) == pytest.approx(2.8e-6)
    assert t.path_latency(t.path(0, t.accelerator(2, 0))) == pytest.approx(3.7e-6)


def test_ecmp_collides_and_spray_does_not(make_cluster) -> None:
    t = build(make_cluster(4, "fat-tree", nodes_per_leaf=2))
    pairs = [(t.accelerator(n, g), t.accelerator(n + 2, g)) for n in (0, 1) for g in range(8)]
    hashed, sprayed = np.zeros(len(t.links)), np.zeros(len(t.links))
    for a, b in pairs:
        hashed[list(t.path(a, b))] += 1
        for link, share in t.spread(a, b).items():
            sprayed[link] += share
    assert hashed.max() >= 2
    assert sprayed.max() == pytest.approx(1.0)


def test_routes_go_around_dead_links(make_cluster) -> None:
    t = build(make_cluster(4, "fat-tree", nodes_per_leaf=2))
    a, b = 0, t.accelerator(3, 0)
    usual = t.path(a, b)
    dead = {i for i in usual if t.links.kind_of(i) == "leaf_spine"}
    detour = t.path_avoiding(a, b, dead)
    assert detour is not None
    assert dead.isdisjoint(detour)
    assert t.path_avoiding(a, b, {usual[0]}) is None


def test_cube_mesh_gives_every_gpu_six_links_of_equal_rate(make_cluster) -> None:
    t = build(make_cluster(1, scale_up="cube-mesh"))
    inside = t.links.kind == 0
    out = np.bincount(t.links.source[inside], t.links.capacity[inside])[:8]
    assert out.tolist() == [400e9] * 8
    hops = [len(t.path(a, b)) for a in range(8) for b in range(8) if a != b]
    assert sorted(set(hops)) == [1, 2]
    assert hops.count(1) == 32  # 16 pairs are wired, both ways


@pytest.mark.parametrize(
    "scale_up, size, peer", [("mesh", 8, 400e9 / 7), ("bridge", 2, 400e9), ("torus", 8, 400e9 / 6)]
)
def test_direct_scale_up_divides_the_bandwidth(make_cluster, scale_up, size, peer) -> None:
    t = build(make_cluster(1, scale_up=scale_up, domain=size))
    assert t.links.capacity[list(t.path(0, 1))].tolist() == pytest.approx([peer])


def test_shared_host_uplinks_and_few_ports(make_cluster) -> None:
    t = build(make_cluster(2, nics=1, per_host_link=2))
    names = [t.links.name(i) for i in t.path(t.accelerator(0, 5), t.accelerator(1, 0))]
    assert names == ["node0/gpu5/host:out", "node0/pcie2:out", "node0/nic0:out", "node1/nic0:in", "node1/pcie0:in",
                     "node1/gpu0/host:in"]  # fmt: skip
    assert t.path(4, t.host(0))[1] == t.path(5, t.host(0))[1]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"topology": "fat-tre"}, "did you mean 'fat-tree'"),
        ({"topology": "fat-tree", "nodes_per_lef": 2}, "did you mean 'nodes_per_leaf'"),
        ({"topology": "fat-tree", "oversubscription": 0.0}, "must be above 0"),
        ({"port": 0.0}, "has bandwidth 0"),
        ({"nics": 0}, "no network port"),
        ({"topology": "scale-up"}, "nothing beyond one scale-up domain"),
        ({"topology": "torus", "shape": [3, 3]}, "9 places for 4 nodes"),
        ({"topology": "torus", "nodes": 16, "shape": [4, 4], "twisted": True}, "long ones of 2k"),
        ({"topology": "torus", "nodes": 18, "shape": [3, 6], "twisted": True, "wrap": [True, False]},
         "take 'wrap' away"),
        ({"topology": "torus", "twisted": "yes"}, "must be true or false"),
        ({"topology": "fat-tree", "levels": 2, "radix": 2, "nodes_per_leaf": 1}, "levels: 3"),
        ({"topology": "graph", "links": [{"between": ["node0", "node1"]}, {"between": ["node2", "node3"]}]}, "2 parts"),
        ({"topology": "graph", "links": [{"between": ["node0", "node1"], "bandwidth": "5 GB"}]}, "400 Gb/s"),
        ({"topology": "graph", "links": [{"between": ["node0", "b"]}]}, "'node1' has no link"),
        ({"topology": "multi-site", "sites": [3, 3], "wan_bandwidth": "1 Gb/s"}, "must add up to 4"),
        ({"topology": "multi-site", "sites": [1, 1, 2], "wan_links": [{"between": [0, 1], "bandwidth": "1 Gb/s"}]},
         "cannot all reach"),
        ({"topology": "dragonfly", "ports_per_router": 1, "routers_per_group": 1, "global_links_per_router": 1},
         "reach only"),
        ({"topology": "dragonfly-plus", "ports_per_leaf": 1, "leaves_per_group": 1, "global_links_per_spine": 1},
         "reach only"),
    ],
)  # fmt: skip
def test_wrong_input_is_named_with_its_cure(make_cluster, arguments, message) -> None:
    with pytest.raises(ConfigError) as caught:
        build(make_cluster(**arguments))
    assert message in str(caught.value)


def test_a_scale_up_domain_may_span_nodes(make_cluster) -> None:
    """Two racks of 18 x 4 accelerators: inside a rack only the scale-up links are used, between racks the ports."""
    t = build(make_cluster(36, "single-switch", gpus=4, nics=4, domain=72))
    kinds = [[t.links.kind_of(i) for i in t.path(0, b)] for b in (71, 72)]
    assert kinds == [["scale_up", "scale_up"], ["host", "nic", "nic", "host"]]


def test_valiant_routing_visits_a_third_group(make_cluster) -> None:
    sizes = {"ports_per_router": 4, "routers_per_group": 4, "global_links_per_router": 2}
    t = build(make_cluster(10, "dragonfly", routing="valiant", **sizes))
    far = t.accelerator_count - 1
    routes = {t.path(0, far, flow) for flow in range(50)}
    assert len(routes) > 1
    for route in routes:
        assert [t.links.kind_of(i) for i in route].count("spine_core") == 2
        ends = list(zip(t.links.source[list(route)], t.links.target[list(route)], strict=True))
        assert all(x[1] == y[0] for x, y in pairwise(ends))
