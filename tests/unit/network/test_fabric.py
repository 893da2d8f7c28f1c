import numpy as np
import pytest

from simulator.engine.clock import Clock
from simulator.network.collectives import collective_flow
from simulator.network.fabric import Fabric
from simulator.network.maxmin import max_min_rates
from simulator.network.topology import build


@pytest.fixture
def fabric(make_cluster) -> Fabric:
    return Fabric(Clock(), build(make_cluster(4, "fat-tree", nodes_per_leaf=2)))


def random_transfers(fabric, rng, count):
    """Staggered transfers, some sprayed, some capped; returns (event, route, size)."""
    t, sent = fabric.topology, []

    def start(a, b, size, spray, cap):
        route = t.spread(a, b) if spray else dict.fromkeys(t.path(a, b, int(size)), 1.0)
        sent.append((fabric.transfer(route, size, cap=cap, tag="x"), route, size))

    for _ in range(count):
        a, b = rng.choice(t.accelerator_count, 2, replace=False).tolist()
        args = (a, b, float(rng.integers(1, 10**9)), bool(rng.random() < 0.5), float(rng.choice([5e9, np.inf])))
        fabric.clock.at(float(rng.uniform(0, 0.05)), lambda args=args: start(*args))
    return sent


def test_bytes_are_conserved_on_every_link(fabric) -> None:
    sent = random_transfers(fabric, np.random.default_rng(3), 200)
    fabric.clock.run()
    expected = np.zeros(len(fabric.capacity))
    for event, route, size in sent:
        assert event.value.completed
        assert event.value.delivered == size
        expected[list(route)] += np.array(list(route.values())) * size
    assert fabric.active == 0
    assert fabric.bytes_by_link() == pytest.approx(expected, rel=1e-12)
    kinds = fabric.traffic_by_kind()
    assert sum(kinds.values()) == pytest.approx(expected.sum())
    assert kinds["wan"] == 0


def test_rates_at_any_moment_are_those_of_all_flows_solved_at_once(fabric) -> None:
    """Components, bundles and dropped links change the work, not the answer."""
    sent = random_transfers(fabric, np.random.default_rng(4), 120)
    compared = 0
    for moment in (0.011, 0.0313, 0.0478, 0.08):
        fabric.clock.run(moment)
        live = [(e, route) for e, route, _ in sent if not e.triggered]
        indptr = np.r_[0, np.cumsum([len(r) for _, r in live])]
        indices = np.array([link for _, r in live for link in r])
        shares = np.array([s for _, r in live for s in r.values()])
        caps = np.array([fabric._by_event[e].cap for e, _ in live])
        expected = max_min_rates(fabric.capacity, indptr, indices, caps=caps, shares=shares)
        assert [fabric.rate(e) for e, _ in live] == pytest.approx(expected.tolist(), rel=1e-9)
        compared += len(live)
    assert compared > 40


def test_same_run_twice_is_bit_identical(make_cluster) -> None:
    runs = []
    for _ in range(2):
        fabric = Fabric(Clock(), build(make_cluster(4, "fat-tree", nodes_per_leaf=2)))
        sent = random_transfers(fabric, np.random.default_rng(5), 80)
        fabric.clock.run()
        runs.append([(e.value.start, e.value.end) for e, _, _ in sent])
    assert runs[0] == runs[1]


def test_degradation_outage_and_cancellation(fabric) -> None:
    clock, nic = fabric.clock, fabric.topology.links.number("node0/nic0:out")
    route = fabric.topology.path(0, 8)
    done = fabric.transfer(route, 100e9, tag="a")
    other = fabric.transfer(fabric.topology.path(1, 9), 1e12)
    clock.at(1.0, lambda: fabric.set_capacity(nic, 25e9))
    clock.at(2.0, lambda: fabric.set_capacity(nic, 0.0))
    clock.at(5.0, lambda: fabric.set_capacity(nic, 50e9))
    clock.at(3.0, lambda: fabric.cancel(other))
    clock.run()
    assert done.value.end == pytest.approx(1 + 1 + 3 + 25 / 50)  # 50 + 25 + 0 + 25 GB
    assert fabric.utilisation(nic) == pytest.approx(1.0)
    assert fabric.explain("a") == {"node0/nic0:out": pytest.approx(5.5)}
    assert (other.value.completed, other.value.delivered) == (False, pytest.approx(150e9))
    assert not fabric.cancel(other)


def test_degrading_one_sprayed_uplink_slows_the_whole_flow(fabric) -> None:
    """A sprayed flow goes at the pace of its slowest way, also when that changes under way."""
    t = fabric.topology
    shares = t.spread(0, t.accelerator(3, 0))
    uplink = next(i for i in shares if t.links.kind_of(i) == "leaf_spine")
    done = fabric.transfer(shares, 100e9, tag="a")
    fabric.clock.at(1.0, lambda: fabric.set_capacity(uplink, 1e9))
    fabric.clock.run()
    slow = 1e9 / shares[uplink]
    assert done.value.end == pytest.approx(1 + 50e9 / slow)
    assert list(fabric.explain("a")) == [t.links.name(uplink), "node0/nic0:out"]


def test_one_after_another_ends(fabric) -> None:
    """Ten flows of k GB leave one port: processor sharing in closed form, and looking on the way changes nothing.

    With n of them left each has 1/n of the port, so the k-th ends Σ_{i ≤ k} (10 − i + 1) GB over its speed.
    """
    port = fabric.topology.links.number("node0/nic0:out")
    events = [fabric.transfer((port,), k * 1e9, tag=f"f{k}") for k in range(1, 11)]
    speed, looked = float(fabric.capacity[port]), 0
    for moment in np.linspace(0.01, 1.0, 23).tolist():
        fabric.clock.run(moment)
        left = [e for e in events if not e.triggered]
        assert [fabric.rate(e) for e in left] == pytest.approx([speed / len(left)] * len(left))
        assert fabric.bytes_on(port) == pytest.approx(min(speed * moment, 55e9))
        looked += len(left) > 1
    fabric.clock.run()
    ends = np.cumsum([(10 - i) * 1e9 / speed for i in range(10)])
    assert looked > 5
    assert [e.value.end for e in events] == pytest.approx(ends.tolist())
    assert [fabric.explain(f"f{k}") for k in range(1, 11)] == [{"node0/nic0:out": pytest.approx(t)} for t in ends]


def test_trivial_transfers_and_bad_ones(fabric) -> None:
    events = [
        fabric.transfer((), 5.0),
        fabric.transfer((0,), 0.0, latency=2.0),
        fabric.transfer((), 10.0, cap=5.0, tag="c"),
    ]
    fabric.clock.run()
    assert [e.value.end for e in events] == [0.0, 2.0, 2.0]
    assert fabric.explain("c") == {"own cap": 2.0}
    for wrong in ({"size": -1.0}, {"size": 1.0, "weight": 0.0}, {"size": 1.0, "latency": -1.0}):
        with pytest.raises(ValueError, match=r"wrong transfer|latency"):
            fabric.transfer((0,), **wrong)
    with pytest.raises(ValueError, match="link numbers"):
        fabric.transfer((10**9,), 1.0)


def test_simultaneous_starts_and_ends_are_answered_once(fabric) -> None:
    """32 collectives on links of their own, started together: one solve at the start; nobody is left at the end."""
    t = fabric.topology
    for node in range(4):
        flow = collective_flow(t, "all_reduce", 1e9, range(8 * node, 8 * node + 8))
        fabric.transfer(flow.way, flow.size)
    fabric.clock.run()
    assert fabric.solves == 1
    assert fabric.clock.now == pytest.approx(2 * 7 / 8 * 1e9 / 400e9)
