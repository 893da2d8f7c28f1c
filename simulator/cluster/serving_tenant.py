"""A deployment as a tenant of the cluster: one engine priced, its replicas started, its tables and its bill."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast

from simulator.cluster.economics import Bill, item_rows, money_columns
from simulator.cluster.serving_engine import Engine, engines_of, joint_bill
from simulator.cluster.serving_links import SharedIterations
from simulator.cluster.serving_sharing import held_up_tables, linked_process, shared_engines, slow_down_columns
from simulator.cluster.tenants import ClusterScenario, Commons
from simulator.results.estimate import Estimate
from simulator.results.from_estimate import estimate_tables, share_columns
from simulator.results.from_serving import serving_tables
from simulator.results.tables import Columns
from simulator.serving.deployment import DeploymentProcess
from simulator.serving.metrics import summarize, usage_columns
from simulator.serving.options import quality_notes
from simulator.serving.replica import Replica
from simulator.serving.run import ServingRun
from simulator.serving.setup import policies
from simulator.serving.summary import ServingSummary
from simulator.serving.usage import ReplicaUsage
from simulator.strategies.serving_protocols import IterationCost
from simulator.workload.jobs import Deployment

if TYPE_CHECKING:
    import simpy

    from simulator.cluster.power_grid import PowerGrid
    from simulator.cluster.power_serving import EngineClocks

__all__ = ["Outcome", "ServingProcess", "ServingTenant", "iteration_row"]

Outcome: TypeAlias = ServingRun | ServingSummary
"""What a deployment leaves behind: rows, or counters and sketches."""


class ServingProcess(Protocol):
    """What serves the requests of a deployment on the clock."""

    done: simpy.Event | None

    def start(self) -> simpy.Event:
        """Begin; the event fires with the outcome when the last request has ended."""


_REQUEST_COLUMNS = (
    "arrival", "scheduled", "first_token", "finish", "input_tokens", "output_tokens", "preemptions", "replica",
    "rejected",
)  # fmt: skip
_SHARED_TABLES = ("memory", "time", "traffic", "sources")


class ServingTenant:
    """One deployment; of equal replicas one is priced, and their number scales the cost.

    Parameters
    ----------
    number
        Which deployment of the scenario it is; its random draws follow from it.
    """

    shares = True
    """Whether its iterations share links with others."""

    def __init__(self, deployment: Deployment, scenario: ClusterScenario, number: int) -> None:
        self.deployment, self.seed = deployment, scenario.seed + number
        self.engines = engines_of(deployment, scenario)
        self.process: ServingProcess | None = None
        self.power: PowerGrid | None = None
        self._clocks: dict[int, EngineClocks] = {}
        self.shared: list[SharedIterations] = []

    @property
    def main(self) -> Engine:
        """The engine whose iteration, cache and layout the summary shows: the first."""
        return self.engines[0]

    @property
    def reason(self) -> str:
        """Why it cannot run, or an empty string."""
        return "; ".join(dict.fromkeys(e.estimate.reason for e in self.engines if not e.estimate.feasible))

    @property
    def warnings(self) -> tuple[str, ...]:
        """Of the engines' estimates, and of what their messages between nodes leave out."""
        name = self.deployment.name
        notes = [f"{name}: {warning}" for engine in self.engines for warning in engine.estimate.warnings]
        if not (self.shares and self.power is None) and any(engine.on_blocking_links for engine in self.engines):
            notes.append(
                f"{name}: a replica spans several scale-up domains on a fabric that can block: its iterations are "
                "priced as if alone there, and neither slow others nor are slowed by them (keys, values and weights "
                "that move are)"
            )
        return tuple(dict.fromkeys(notes))

    def start(self, commons: Commons) -> simpy.Event | None:
        """Open for requests."""
        if self.reason:
            return None
        self.power = commons.power
        self.process = self.open(commons)
        if self.power is not None:
            self._feed(self.power, commons)
        return self.process.start()

    def _feed(self, power: PowerGrid, commons: Commons) -> None:
        """Its power comes over feeders."""
        from simulator.cluster.power_serving import ServingSource

        name, count = self.deployment.name, sum(len(e.replicas) for e in self.engines)
        places = [commons.scenario.placement(name, number) for number in range(count)]
        kinds = [self._clocks[e.first] for e in self.engines]
        power.add(ServingSource(name, self.live, self.truncate, kinds, places, commons.sizes, power.budgets.interval))

    def costs(self, engine: Engine) -> list[IterationCost]:
        """Iteration times of every replica of an engine; behind feeders each has a clock of its own."""
        if self.power is None:
            return [engine.cost] * len(engine.replicas)
        from simulator.cluster.power_serving import EngineClocks

        if engine.first not in self._clocks:
            self._clocks[engine.first] = EngineClocks(engine)
        return list(self._clocks[engine.first].costs)

    def share(self, commons: Commons) -> list[SharedIterations]:
        """The engines that share links with others; behind feeders none does, and a warning says so."""
        alone = not self.shares or self.power is not None
        return [] if alone else shared_engines(self.deployment, self.engines, commons)

    def live(self) -> Sequence[Replica]:
        """The replicas as they are now."""
        assert isinstance(self.process, DeploymentProcess)
        return self.process.replicas

    def truncate(self, number: int) -> None:
        """The clock of a replica has changed."""
        assert isinstance(self.process, DeploymentProcess)
        self.process.truncate(number)

    def open(self, commons: Commons) -> ServingProcess:
        """The process that serves, ready to start."""
        d, engines = self.deployment, self.engines
        costs = [cost for e in engines for cost in self.costs(e)]
        limits = [e.limits for e in engines for _ in e.replicas]
        options: dict[str, Any] = {
            "replicas": d.replicas, "seed": self.seed, "slo": d.slo, "record": commons.scenario.record,
            "progress": commons.progress_of(len(d.requests)), "movable": d.movable,
            "front_end": engines[0].front_end(d.replicas), **policies(d, self.seed),
        }  # fmt: skip
        sizes = limits if len(engines) > 1 else limits[0]
        self.shared = self.share(commons)
        if not self.shared:
            return DeploymentProcess(commons.clock, d.requests, costs, sizes, **options)
        return linked_process(self.shared, commons.clock, d.requests, costs, sizes, **options)

    # -- what kinds of deployments differ in ---------------------------------------------------------------------

    def rented(self, engine: Engine, end: float) -> float:
        """Seconds of an engine's replicas that are paid for up to ``end`` [s]."""
        return end * len(engine.replicas)

    @property
    def price_share(self) -> float:
        """Share of the usual price of the machines."""
        return 1.0

    def more_columns(self, run: Outcome, end: float) -> dict[str, Any]:
        """Further columns of the summary, or better values of those there are."""
        return {}

    def more_tables(self) -> dict[str, Columns]:
        """Further tables."""
        return {}

    # -- the answer ----------------------------------------------------------------------------------------------

    def tables(self) -> tuple[Mapping[str, Columns], dict[str, Any]]:
        """The engine's tables, with what became of the requests when it ran."""
        d, estimate = self.deployment, self.main.estimate
        plan = " + ".join(f"{len(e.replicas)} × {e.deployment.plan}" for e in self.engines)
        size: dict[str, Any] = {
            "accelerators": d.accelerators, "plan": str(d.plan) if len(self.engines) == 1 else plan
        }  # fmt: skip
        base = estimate_tables(d.name, estimate, **size)
        shared: dict[str, Columns] = {name: base[name] for name in _SHARED_TABLES if name in base}
        size["replicas"] = d.replicas
        if self.process is None:
            tables = serving_tables(d.name, {}, {}, feasible=False, reason=self.reason, **size)
            return {**tables, **shared}, {d.name: estimate}
        run = self.outcome()
        end = max((r.until for r in run.replicas), default=0.0)
        charge = self._bill(run, end)
        summary = self._summary(run) | {"kv_capacity_tokens": self._cache_tokens} | iteration_row(estimate)
        summary |= {"clock": self.main.cluster.groups[0].node.accelerator.clock}
        summary |= self.power.columns(d.name) if self.power is not None else {}
        summary |= money_columns(charge, end, summary["output_tokens"])
        summary |= self.more_columns(run, end) | slow_down_columns(self.shared, sum(r.busy_time for r in run.replicas))
        summary["quality"] = "; ".join(dict.fromkeys(n for e in self.engines for n in quality_notes(e.deployment)))
        if not d.model.is_decoder:  # it keeps no keys and values between iterations
            summary |= dict.fromkeys(("kv_capacity_tokens", "kv_occupancy_mean", "kv_occupancy_max"), math.nan)
        rows: dict[str, Any] = {}
        if isinstance(run, ServingRun):
            rows = {
                "requests": {name: getattr(run, name) for name in _REQUEST_COLUMNS}, "rejections": run.reasons,
                "samples": [(usage.index, *sample) for usage in run.replicas for sample in usage.samples],
            }  # fmt: skip
        tables = serving_tables(d.name, summary, rows.pop("requests", {}), kv_blocks=self._blocks, **rows, **size)
        more = {**shared, "costs": item_rows(charge.items), **self.more_tables(), **held_up_tables(self.shared)}
        return {**tables, **more}, {d.name: estimate, f"{d.name}.run": run}

    def outcome(self) -> Outcome:
        """What became of the requests."""
        assert isinstance(self.process, DeploymentProcess)
        done = self.process.done
        # A deployment that has served everything is judged at that moment, not at the end of its neighbours.
        ended = done is not None and done.triggered
        return cast(Outcome, done.value) if done is not None and ended else self.process.outcome()

    @property
    def _blocks(self) -> int:
        """KV blocks of a replica, the mean where they differ."""
        blocks = [e.cache.blocks for e in self.engines for _ in e.replicas if e.cache is not None]
        return round(sum(blocks) / len(blocks))

    @property
    def _cache_tokens(self) -> int:
        """Of a replica of the engine whose memory the tables show."""
        cache = self.main.cache
        return cache.blocks * self.main.deployment.block_size if cache is not None else 0

    @property
    def _gpus_per_replica(self) -> float:
        return self.deployment.accelerators / self.deployment.replicas

    def _summary(self, run: Outcome) -> dict[str, Any]:
        """Metrics of a run, from its rows or from its counters."""
        d, gpus = self.deployment, self._gpus_per_replica
        if isinstance(run, ServingRun):
            return summarize(run, slo=d.slo, gpus_per_replica=gpus)
        row = run.to_dict()
        row |= usage_columns(run.replicas, self._blocks)
        for key in ("output_tokens_per_s", "total_tokens_per_s"):
            row[f"{key}_per_gpu"] = row[key] / (gpus * len(run.replicas))
        attained = row["slo_attainment"]
        row["slo_met"] = bool(attained == attained and attained >= d.slo.percentile / 100.0)
        return row | {"rejections": run.rejections}

    def _bill(self, run: Outcome, end: float) -> Bill:
        """Energy and money of what was served up to ``end`` [s]."""
        metered = self.power.metered(self.deployment.name) if self.power is not None else None
        bills = []
        for e in self.engines:
            usage = [run.replicas[i] for i in e.replicas]
            # Feeders meter the deployment, not its parts: each has its share by the time its devices were at work.
            part = None if metered is None else metered * _device_time(e, usage) / self._device_time(run)
            bills.append(e.bill(usage, self.rented(e, end), end, self.price_share, part))
        return joint_bill(bills)

    def _device_time(self, run: Outcome) -> float:
        return sum(_device_time(e, [run.replicas[i] for i in e.replicas]) for e in self.engines) or 1.0


def _device_time(engine: Engine, usage: Sequence[ReplicaUsage]) -> float:
    return engine.deployment.plan.accelerators * sum(r.busy_time for r in usage)


def iteration_row(estimate: Estimate) -> dict[str, float]:
    """One decode iteration of a full engine, with its interval and floor, beside the run's figures."""
    interval = estimate.interval
    return {
        "seconds": estimate.seconds,
        "seconds_low": interval.low if interval else math.nan,
        "seconds_high": interval.high if interval else math.nan,
        "floor_seconds": estimate.floor,
        **share_columns(estimate),
    }
