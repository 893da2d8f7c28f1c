"""Functions as a tenant: a fleet of containers on the cluster and other sites, its tables and its bill."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.cluster.function_fleet import FleetRun, FleetSettings, FunctionFleet
from simulator.cluster.function_site import FunctionSite, SiteState
from simulator.cluster.tenants import ClusterScenario, Commons
from simulator.registry import lookup
from simulator.results.tables import Columns, columns_from_rows
from simulator.workload.functions.table import FunctionTable

if TYPE_CHECKING:
    import simpy

__all__ = ["FunctionWorkload", "FunctionsTenant", "make_keep_alive"]


@dataclass(frozen=True)
class FunctionWorkload:
    """Function calls and how they are served.

    Attributes
    ----------
    name
        Of the workload.
    calls
        What to run.
    sites
        Where; callers are at the first.
    accelerators
        Of a container.
    placement, keep_alive
        Registered names; ``keep_alive_seconds`` is the fixed time, or the one before anything is learned.
    response
        Limit of the response time [s]; 0: none.
    notes
        What was assumed.
    """

    name: str
    calls: FunctionTable
    sites: tuple[FunctionSite, ...]
    settings: FleetSettings
    accelerators: int = 1
    placement: str = "least-loaded"
    keep_alive: str = "fixed"
    keep_alive_seconds: float = 600.0
    response: float = 0.0
    notes: tuple[str, ...] = field(default=())


def make_keep_alive(work: FunctionWorkload) -> Any:
    """The keep-alive policy of a workload."""
    return lookup("keep_alive", work.keep_alive)(work.keep_alive_seconds)


class FunctionsTenant:
    """Calls meet nothing of other tenants but the end of the run, so they are worked off in one go."""

    def __init__(self, work: FunctionWorkload, scenario: ClusterScenario, number: int) -> None:
        self.work, self.seed, self.until = work, scenario.seed + number, scenario.until
        empty = [s.name for s in work.sites if s.capacity < 1]
        usable = [s for s in work.sites if s.capacity >= 1]
        self.reason = "" if usable else f"no site has room for a container of {work.accelerators} accelerators"
        self.sites = tuple(usable)
        self._notes = [*work.notes, *(f"site '{name}' has no room for a container" for name in empty)]
        self.run: FleetRun | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was assumed."""
        return tuple(f"{self.work.name}: {note}" for note in self._notes)

    def start(self, commons: Commons) -> simpy.Event | None:
        """Run all calls; the event fires when the last one is done."""
        if self.reason:
            return None
        work = self.work
        fleet = FunctionFleet(work.calls, self.sites, work.settings, make_keep_alive(work), self.seed)
        policy: Any = lookup("site_placement", work.placement)()
        self.run = fleet.run(policy, math.inf if self.until is None else self.until)
        return commons.clock.timeout(max(0.0, self.run.end - commons.clock.now))

    def tables(self) -> tuple[Mapping[str, Columns], dict[str, Any]]:
        """One row of the summary, one per site, and the bill."""
        work = self.work
        head = {
            "workload": work.name, "kind": "functions", "depth": "run", "feasible": not self.reason,
            "reason": self.reason, "plan": f"{work.placement}, {work.keep_alive} keep-alive",
            "accelerators": sum(s.accelerators for s in work.sites),
        }  # fmt: skip
        if self.run is None:
            return {"summary": columns_from_rows([head])}, {}
        rows = [site_row(work, self.run, number) for number in range(len(self.sites))]
        costs = [
            row for number, state in enumerate(self.run.states) for row in _cost_rows(work, self.run, state, number)
        ]
        row = head | fleet_summary(work, self.run)
        tables = {
            name: columns_from_rows(rows) for name, rows in (("summary", [row]), ("sites", rows), ("costs", costs))
        }
        return tables, {f"{work.name}.run": self.run}


def fleet_summary(work: FunctionWorkload, run: FleetRun) -> dict[str, Any]:
    """Figures over all sites."""
    done = np.isfinite(run.response)
    response = run.response[done]
    limit = work.response or math.inf
    sites = [state.site for state in run.states]
    best = min(site.slowness for site in sites)
    floor = work.calls.duration[done] * best + min(2 * site.latency for site in sites)
    money = [_usd(work, run, state, number) for number, state in enumerate(run.states)]
    low, high = sum(m[0] for m in money), sum(m[1] for m in money)
    energy, held = sum(s.energy for s in run.states), sum(s.held for s in run.states)
    mean = float(response.mean()) if len(response) else math.nan
    found: dict[str, Any] = {
        "seconds": mean, "seconds_low": mean, "seconds_high": mean,
        "floor_seconds": float(floor.mean()) if len(floor) else math.nan,
        "requests": float(done.sum()), "rejected": float(run.rejected), "duration": run.end,
        "requests_per_s": float(done.sum()) / run.end if run.end else math.nan,
        "cold_start_rate": run.cold_start_rate, "site_moves": float(run.moves), "fairness": run.fairness(),
        "utilization": sum(s.working for s in run.states) / held if held else math.nan,
        "slo_attainment": float((response <= limit).sum()) / len(run.table) if len(run.table) else math.nan,
        "energy": energy, "carbon": sum(s.carbon for s in run.states), "usd": (low + high) / 2,
        "power_mean": energy / run.end if run.end else math.nan,
        "energy_per_call": energy / len(response) if len(response) else math.nan,
        "usd_per_thousand_calls": 500 * (low + high) / len(response) if len(response) else math.nan,
    }  # fmt: skip
    for name, values in (("e2e", response), ("queueing", run.wait[done])):
        for label, value in _spread(values).items():
            found[f"{name}_{label}"] = value
    return found


def _spread(values: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, float]:
    if not len(values):
        return {}
    shares = {label: float(np.percentile(values, p)) for label, p in (("median", 50), ("p90", 90), ("p99", 99))}
    return {"mean": float(values.mean()), **shares}


def site_row(work: FunctionWorkload, run: FleetRun, number: int) -> dict[str, Any]:
    """Figures of one site."""
    state = run.states[number]
    mine = run.response[(run.site == number) & np.isfinite(run.response)]
    low, high = _usd(work, run, state, number)
    return {
        "workload": work.name, "site": state.site.name, "containers": state.site.capacity, "calls": state.calls,
        "cold_starts": state.cold, "evictions": state.evicted, "working": state.working, "starting": state.starting,
        "resting": state.resting, "utilization": state.working / (state.site.capacity * run.end) if run.end else 0.0,
        "response_mean": float(mine.mean()) if len(mine) else math.nan, "energy": state.energy, "carbon": state.carbon,
        "usd": (low + high) / 2,
    }  # fmt: skip


def _usd(work: FunctionWorkload, run: FleetRun, state: SiteState, number: int) -> tuple[float, float]:
    rows = _cost_rows(work, run, state, number)
    return sum(r["usd_low"] for r in rows), sum(r["usd_high"] for r in rows)


def _cost_rows(work: FunctionWorkload, run: FleetRun, state: SiteState, number: int) -> list[dict[str, Any]]:
    """What a site costs: containers while they are held, electricity, and data that leaves it."""
    site = state.site
    held = [state.held * rent for rent in site.rent]
    sent = float(((run.site == number) & np.isfinite(run.response)).sum()) * work.settings.answer * site.egress
    items = [(f"containers at {site.name}", held[0], held[1], site.source)]
    if site.pays_power:
        items.append((f"electricity at {site.name}", state.power_cost, state.power_cost, "price of the site by hour"))
    if sent:
        items.append((f"data out of {site.name}", sent, sent, "scenario"))
    rows = []
    for item, low, high, source in items:
        usd = {"usd": (low + high) / 2, "usd_low": low, "usd_high": high}
        rows.append({"workload": work.name, "item": item, **usd, "source": source})
    return rows
