"""The environment for learned schedulers keeps Gymnasium's rules and leads to the very runs of registered policies."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from simulator.cluster.function_fleet import FleetSettings, FunctionFleet
from simulator.cluster.function_site import FunctionSite
from simulator.cluster.functions_tenant import FunctionWorkload, make_keep_alive
from simulator.hardware.types import Site
from simulator.registry import lookup
from simulator.workload.functions.generate import CallLaw, generate_calls

gymnasium = pytest.importorskip("gymnasium", reason="the extra 'rl' is not installed")

WORK = FunctionWorkload(
    "f",
    generate_calls(CallLaw(0.5, functions=3, owners=2, skew=1.0, seconds=4.0, sigma=0.7), 900.0, seed=1),
    (
        FunctionSite("near", Site(carbon=1e-4), 2, rent=(1e-3, 2e-3), busy_power=700.0, idle_power=100.0),
        FunctionSite("far", Site(), 4, slowness=0.7, latency=0.05, bandwidth=1e8, rent=(1e-3, 2e-3), busy_power=900.0),
    ),
    FleetSettings(start=3.0, size=1e9, payload=1e4, quotas=(("owner-2", 0.4),)),
    keep_alive_seconds=60.0,
    response=20.0,
)


def env(work: FunctionWorkload = WORK) -> Any:
    from simulator.cluster.site_env import SiteEnv

    return SiteEnv(work)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_gymnasium_accepts_it() -> None:
    from gymnasium.utils.env_checker import check_env

    check_env(env(), skip_render_check=True)


@pytest.mark.parametrize("policy", ["least-loaded", "carbon", "fastest"])
def test_a_policy_that_acts_step_by_step_leads_to_its_own_run(policy: str) -> None:
    chooser: Any = lookup("site_placement", policy)()
    game = env()
    game.reset(seed=0)
    total, over, info = 0.0, False, {}
    while not over:
        action = chooser.choose(game.fleet.call(game.call), game.views)
        _, reward, over, cut, info = game.step(np.int64(action))
        assert not cut
        total += reward
    alone = FunctionFleet(WORK.calls, WORK.sites, WORK.settings, make_keep_alive(WORK)).run(chooser)
    stepped = info["run"]
    np.testing.assert_array_equal(stepped.response, alone.response)
    np.testing.assert_array_equal(stepped.site, alone.site)
    done = alone.response[np.isfinite(alone.response)]
    usd = sum(s.held * sum(s.site.rent) / 2 for s in alone.states)
    grams = sum(s.carbon for s in alone.states)
    missed = float((done > WORK.response).sum()) + alone.rejected
    assert total == pytest.approx(-(done.sum() + missed + usd + grams / 1e3))


def test_observations_stay_in_their_box_and_say_what_the_sites_are() -> None:
    game = env()
    seen, _ = game.reset(seed=3)
    assert game.observation_space.contains(seen)
    assert seen.shape == (2 * 8 + 1,)
    assert seen[:2].tolist() == [1.0, 0.0], "everything is free and nothing waits"
    assert seen[8 + 4] == pytest.approx(0.7)
    over = False
    while not over:
        seen, _, over, _, _ = game.step(game.action_space.sample())
        assert game.observation_space.contains(seen)


def test_equal_seeds_give_equal_episodes_under_noisy_telemetry() -> None:
    noisy = replace(WORK, settings=replace(WORK.settings, noise=0.3, telemetry=5.0))
    first, second = env(noisy), env(noisy)
    for _ in range(2):
        np.testing.assert_array_equal(first.reset(seed=5)[0], second.reset(seed=5)[0])
    for _ in range(20):
        one, two = first.step(np.int64(0)), second.step(np.int64(0))
        np.testing.assert_array_equal(one[0], two[0])
        assert one[1] == two[1]
