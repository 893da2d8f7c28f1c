"""Functions on sites against closed forms: keep-alive, queues, carbon by the hour."""

from __future__ import annotations

import heapq
import math

import numpy as np
import pytest

from simulator.cluster.function_fleet import FleetRun, FleetSettings, FunctionFleet, jain_index
from simulator.cluster.function_site import FunctionSite
from simulator.hardware.types import Site
from simulator.registry import lookup
from simulator.strategies.keep_alive.basic import FixedKeepAlive
from simulator.workload.functions.generate import CallLaw, generate_calls
from simulator.workload.functions.table import FunctionTable


def table(
    arrival: list[float], duration: float | list[float] = 1.0, function: list[int] | None = None
) -> FunctionTable:
    count = len(arrival)
    numbers = np.array(function or [0] * count, np.int64)
    kinds = int(numbers.max()) + 1
    seconds = np.broadcast_to(np.asarray(duration, np.float64), count).copy()
    names = tuple(f"f{i}" for i in range(kinds))
    return FunctionTable(np.array(arrival, np.float64), numbers, seconds, names, names, np.zeros(kinds))


def serve(
    calls: FunctionTable, *sites: FunctionSite, keep: float = math.inf, policy: str = "first-fit", **settings: object
) -> FleetRun:
    fleet = FunctionFleet(calls, sites, FleetSettings(**settings), FixedKeepAlive(keep))  # type: ignore[arg-type]
    return fleet.run(lookup("site_placement", policy)())


PLAIN = FunctionSite("a", Site(), 1000)


@pytest.mark.parametrize("keep", [5.0, 50.0, 200.0])
def test_warm_starts_of_poisson_calls_are_one_minus_exp(keep: float) -> None:
    # A call is warm when the gap before it is at most the keep-alive: 1 − exp(−λ·keep-alive).
    rate = 0.02
    run = serve(generate_calls(CallLaw(rate, seconds=1e-6), 2e6, seed=5), PLAIN, keep=keep)
    warm, expected = 1 - run.cold_start_rate, 1 - math.exp(-rate * keep)
    spread = math.sqrt(expected * (1 - expected) / len(run.table))
    assert warm == pytest.approx(expected, abs=4 * spread + 0.005)


def test_without_keep_alive_every_call_is_cold_and_with_it_for_good_only_the_first() -> None:
    calls = generate_calls(CallLaw(0.5, seconds=1e-3), 1000, seed=1)
    assert serve(calls, PLAIN, keep=0.0).cold_start_rate == 1.0
    run = serve(table([0.0, 2.0, 4.0, 6.0]), PLAIN)
    assert sum(s.cold for s in run.states) == 1


def test_kept_containers_are_those_of_an_m_g_infinity_queue() -> None:
    # Containers at work and at rest together: between λ·E[S] and λ·(E[S] + keep-alive), the mean of an M/G/∞ queue
    # whose customers each keep a container of their own.
    rate, seconds, keep = 2.0, 3.0, 20.0
    run = serve(generate_calls(CallLaw(rate, seconds=seconds, sigma=0.5), 5000, seed=2), PLAIN, keep=keep)
    held = sum(s.held for s in run.states) / run.end
    mean = seconds * math.exp(0.5**2 / 2)
    assert rate * mean < held < rate * (mean + keep)
    assert sum(s.working for s in run.states) / run.end == pytest.approx(rate * mean, rel=0.05)


@pytest.mark.parametrize(("servers", "load"), [(1, 0.6), (4, 0.7)])
def test_waits_of_calls_that_never_start_cold_are_those_of_m_m_c(servers: int, load: float) -> None:
    rng = np.random.default_rng(11)
    count = 60_000
    arrival = np.cumsum(rng.exponential(1 / (load * servers), count))
    calls = FunctionTable(arrival, np.zeros(count, np.int64), rng.exponential(1.0, count), ("f",), ("o",), np.zeros(1))
    run = serve(calls, FunctionSite("a", Site(), servers))
    offered = load * servers
    terms = [offered**k / math.factorial(k) for k in range(servers)]
    last = offered**servers / math.factorial(servers) / (1 - load)
    waiting = last / (sum(terms) + last)  # Erlang C
    assert np.nanmean(run.wait) == pytest.approx(waiting / (servers * (1 - load)), rel=0.12)
    assert run.wait == pytest.approx(first_come(calls, servers), abs=1e-6)


def first_come(calls: FunctionTable, servers: int) -> list[float]:
    """Waits of a queue in front of equal servers, from the times at which they become free."""
    free, waits = [0.0] * servers, []
    for time, seconds in zip(calls.arrival.tolist(), calls.duration.tolist(), strict=True):
        start = max(time, heapq.heappop(free))
        heapq.heappush(free, start + seconds)
        waits.append(start - time)
    return waits


def test_a_call_takes_way_cold_start_execution_and_way_back() -> None:
    site = FunctionSite("b", Site(), 1, slowness=2.0, latency=0.1, bandwidth=1e6, load=1e6)
    run = serve(table([0.0, 10.0], 3.0), site, start=0.5, size=2e6, payload=1e5, answer=2e5)
    way = 0.1 + 0.1 + 0.1 + 0.2
    assert run.response == pytest.approx([way + 0.5 + 2.0 + 6.0, way + 6.0])
    assert run.cold == pytest.approx([2.5, 0.0])


def test_data_is_fetched_over_the_wide_area_once_per_site() -> None:
    sites = (FunctionSite("a", Site(), 1), FunctionSite("b", Site(), 1, bandwidth=1e6))
    run = serve(table([0.0, 0.0, 100.0, 100.0], 1.0), *sites, keep=0.0, size=5e6)
    assert run.site.tolist() == [0, 1, 0, 1]
    assert run.cold == pytest.approx([0.0, 5.0, 0.0, 0.0])


def test_a_full_site_evicts_what_rests_longest_before_it_queues() -> None:
    run = serve(table([0.0, 2.0, 4.0, 6.0, 8.0], 1.0, [0, 1, 2, 0, 2]), FunctionSite("a", Site(), 2))
    # Function 2 takes the place of 0, which then takes that of 1; 2 is still warm.
    assert run.states[0].evicted == 2
    assert run.states[0].cold == 4


def test_calls_beyond_a_quota_are_turned_away() -> None:
    calls = table([0.0, 0.1, 0.2, 0.3], 10.0, [0, 0, 1, 1])
    run = serve(calls, FunctionSite("a", Site(), 4), quotas=(("f0", 0.25),))
    assert run.site.tolist() == [0, -1, 0, 0]
    assert run.rejected == 1


def test_energy_and_carbon_are_those_of_the_hours_at_work() -> None:
    day = Site(carbons=(100.0, 10.0), prices=(2.0, 1.0))
    site = FunctionSite("a", day, 1, busy_power=50.0, idle_power=5.0, pays_power=True)
    run = serve(table([0.0], 5400.0), site)
    state = run.states[0]
    assert state.energy == pytest.approx(50 * 5400)
    assert state.carbon == pytest.approx(50 * (3600 * 100 + 1800 * 10))
    assert state.power_cost == pytest.approx(50 * (3600 * 2 + 1800 * 1))


def test_container_seconds_add_up() -> None:
    calls = generate_calls(CallLaw(1.0, functions=5, skew=1.0, seconds=2.0, sigma=1.0), 2000, seed=4)
    sites = (FunctionSite("a", Site(), 3), FunctionSite("b", Site(), 2, slowness=1.5, latency=0.01))
    run = serve(calls, *sites, keep=30.0, policy="least-loaded", start=1.0)
    slow = np.array([s.slowness for s in sites])[run.site]
    assert sum(s.working for s in run.states) == pytest.approx(float((calls.duration * slow).sum()))
    assert sum(s.starting for s in run.states) == pytest.approx(float(run.cold.sum()))
    assert sum(s.calls for s in run.states) == len(calls)
    for state in run.states:
        assert state.held <= state.site.capacity * run.end * (1 + 1e-9)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("first-fit", 0), ("locality", 0), ("cost", 1), ("carbon", 2), ("fastest", 0)],
)  # fmt: skip
def test_every_policy_minimises_what_it_says(policy: str, expected: int) -> None:
    sites = (
        FunctionSite("near", Site(carbon=5.0), 9, rent=(3.0, 3.0), busy_power=1.0),
        FunctionSite("cheap", Site(carbon=5.0), 9, latency=0.2, bandwidth=1e9, rent=(1.0, 1.0), busy_power=1.0),
        FunctionSite("green", Site(carbon=1.0), 9, latency=0.2, bandwidth=1e9, rent=(3.0, 3.0), busy_power=1.0),
    )
    assert serve(table([0.0], 1.0), *sites, policy=policy).site.tolist() == [expected]


def test_old_telemetry_sends_bursts_to_one_site_and_fresh_one_does_not() -> None:
    calls = table([float(t) / 10 for t in range(40)], 30.0)
    sites = (FunctionSite("a", Site(), 40), FunctionSite("b", Site(), 40))
    fresh, stale = (serve(calls, *sites, policy="least-loaded", telemetry=d).site for d in (0.0, 10.0))
    assert abs(int((fresh == 0).sum()) - 20) <= 1
    assert (stale == 0).all(), "all see the sites as they were before the burst"


def test_shared_containers_are_warm_for_everybody_and_isolated_ones_are_not() -> None:
    calls = table([0.0, 5.0, 10.0], 1.0, [0, 1, 2])
    site = FunctionSite("a", Site(), 9)
    assert serve(calls, site, isolation="none").states[0].cold == 1
    assert serve(calls, site, isolation="owner").states[0].cold == 3


def test_fairness_is_one_for_equals_and_one_over_n_for_one_who_has_all() -> None:
    assert jain_index([2.0] * 7) == pytest.approx(1.0)
    assert jain_index([1.0, 0.0, 0.0, 0.0]) == pytest.approx(0.25)


def test_what_the_first_of_two_sites_turns_away_is_erlangs_loss() -> None:
    """First fit fills the first site: the share of Poisson calls that go on to the second is B(c, a) (Erlang 1917)."""
    servers, offered = 8, 6.0
    calls = generate_calls(CallLaw(offered, seconds=1.0), 6000.0, seed=2)
    run = serve(calls, FunctionSite("a", Site(), servers), FunctionSite("b", Site(), 1000), policy="first-fit")
    lost = offered**servers / math.factorial(servers) / sum(offered**k / math.factorial(k) for k in range(servers + 1))
    offered_now = float(calls.duration.mean()) * len(calls) / float(calls.arrival[-1])
    assert offered_now == pytest.approx(offered, rel=0.05)
    assert (run.site == 1).mean() == pytest.approx(lost, rel=0.15)


@pytest.mark.parametrize("policy", ["locality", "cost", "carbon"])
def test_sites_that_are_alike_are_loaded_alike(policy: str) -> None:
    """Where price, carbon and way are the same, only the load is left to choose by."""
    calls = generate_calls(CallLaw(4.0, seconds=1.0), 500.0, seed=3)
    sites = tuple(FunctionSite(name, Site(carbon=5.0), 5, rent=(1.0, 1.0)) for name in "abc")
    chosen = serve(calls, *sites, policy=policy).site
    assert chosen.tolist() == serve(calls, *sites, policy="least-loaded").site.tolist()


def test_least_loaded_sites_of_one_container_are_one_queue_until_all_are_busy() -> None:
    """Calls of one second, one every quarter, on eight sites: no call meets another, whatever the order of sites."""
    sites = tuple(FunctionSite(str(i), Site(), 1) for i in range(8))
    calls = table([0.25 * i for i in range(200)], 0.9)
    run = serve(calls, *sites, policy="least-loaded", keep=math.inf)
    assert run.wait.max() == 0


def test_full_sites_first_leave_the_others_without_containers() -> None:
    """Eight calls at a time fit one of three sites of ten: with bin packing the others never start a container."""
    sites = tuple(FunctionSite(name, Site(), 10) for name in "abc")
    calls = table([float(i // 8) * 2 for i in range(160)], 1.0)
    packed = serve(calls, *sites, policy="bin-pack")
    assert [state.cold > 0 for state in packed.states] == [True, False, False]
    spread = serve(calls, *sites, policy="least-loaded")
    assert all(state.cold > 0 for state in spread.states)


def test_the_fastest_site_is_the_one_whose_way_and_work_are_shortest() -> None:
    """Twice the speed pays for 30 ms of way from 60 ms of work on: the closed form of the break-even."""
    near = FunctionSite("near", Site(), 1000)
    fast = FunctionSite("fast", Site(), 1000, latency=0.03, slowness=0.5)
    for seconds in (0.05, 0.1, 0.15, 0.3):
        calls = table([10.0 * i for i in range(3)], seconds)
        assert set(serve(calls, near, fast, policy="fastest").site.tolist()[1:]) == {int(0.5 * seconds > 0.06)}


@pytest.mark.parametrize("gap", [90.0, 1000.0, 5000.0])
def test_a_histogram_of_equal_gaps_keeps_to_the_end_of_their_minute(gap: float) -> None:
    """From the tenth gap on every call is warm, and a container rests no longer than the gap's own minute."""
    policy = lookup("keep_alive", "histogram")(seconds=gap)
    fleet = FunctionFleet(table([gap * i for i in range(60)], 1e-3), (PLAIN,), FleetSettings(), policy)
    run = fleet.run(lookup("site_placement", "first-fit")())
    assert sum(state.cold for state in run.states) == 1
    assert policy.window(0) == math.ceil(gap / 60.0 + 1e-9) * 60.0
