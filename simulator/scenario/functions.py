"""Functions of a scenario: calls read or drawn, sites put together, and what a call takes on each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from simulator.cluster.economics import mean_draw
from simulator.cluster.function_fleet import FleetSettings
from simulator.cluster.function_site import FunctionSite
from simulator.cluster.functions_tenant import FunctionWorkload
from simulator.errors import ConfigError
from simulator.hardware.types import Cluster, Node, NodeGroup
from simulator.scenario.cluster import site_of, terms_of
from simulator.scenario.security import link_share, secured
from simulator.scenario.spec import ScenarioSpec, SiteSpec
from simulator.scenario.spec_functions import CallsSpec, FunctionsSpec, PlaceSpec
from simulator.workload.functions.table import FunctionTable

__all__ = ["all_functions", "build_functions", "place_clusters", "read_calls_of"]

UTILIZATION = 0.5
"""Of a container at work, for its power, where neither the scenario nor a model says: assumed."""

Load = Callable[[tuple[str | int, ...], str, str, Any], Any]


def all_functions(
    scenario: ScenarioSpec, cluster: Cluster, spare: int, load: Load, base: Path | None
) -> tuple[list[FunctionWorkload], list[tuple[int, str]]]:
    """Every function workload, and problems as (number of the workload, message).

    Parameters
    ----------
    spare
        Accelerators of the cluster that other workloads leave; several function workloads share them evenly.
    """
    specs = [(i, w) for i, w in enumerate(scenario.workloads) if isinstance(w, FunctionsSpec)]
    clusters, security = [cluster, *place_clusters(scenario.sites, cluster, load)], scenario.security
    if security is not None:
        clusters[1:] = [secured(place, security)[0] for place in clusters[1:]]
    found, problems = list[FunctionWorkload](), list[tuple[int, str]]()
    for index, spec in specs:
        if security is not None and security.isolation and spec.isolation == "none":
            spec = spec.model_copy(update={"isolation": "owner"})
        try:
            work = build_functions(spec, clusters, scenario.sites, spare // len(specs), scenario.seed + index, base)
        except ConfigError as error:
            problems += [(index, issue.message if not issue.file else str(issue)) for issue in error.issues]
            continue
        if security is not None:
            share = link_share(security)
            sites = tuple(replace(site, bandwidth=site.bandwidth * share) for site in work.sites)
            work = replace(work, sites=sites)
        found.append(work)
    return found, problems


def place_clusters(specs: Sequence[PlaceSpec], home: Cluster, load: Load) -> list[Cluster]:
    """Every site beside the cluster as a cluster of its own."""
    from simulator.hardware.profiles import load_node

    found = []
    for index, spec in enumerate(specs):
        node = load(("sites", index, "nodes", "profile"), "hardware_profiles/nodes", spec.nodes.profile, load_node)
        # Already read and checked: the values are built, not parsed a second time.
        site = site_of(
            SiteSpec.model_construct(name=spec.name, power_price=spec.power_price, carbon=spec.carbon, pue=spec.pue)
        )
        groups = (NodeGroup(node, spec.nodes.count),)
        found.append(
            Cluster(spec.name, groups, replace(home.fabric, link=node.nic), (), site, terms=terms_of(spec.price))
        )
    return found


def read_calls_of(spec: CallsSpec, seed: int, base: Path | None, seconds: float | None) -> FunctionTable:
    """The calls.

    Parameters
    ----------
    seconds
        Execution time of a generated call where ``calls.seconds`` is left out [s].

    Raises
    ------
    ConfigError
        If not exactly one source is given, or its trace is bad.
    """
    from simulator.workload.functions.azure import read_calls
    from simulator.workload.functions.generate import CallLaw, generate_calls

    if (spec.trace is None) == (spec.rate is None):
        raise ConfigError(
            "needs one source of calls: 'trace' (a file or folder of the Azure Functions schema) or 'rate'"
        )
    if spec.trace is not None:
        path = Path(spec.trace)
        table = read_calls(base / path if base is not None and (base / path).exists() else path, seed)
        return table.head(spec.count, spec.duration)
    assert spec.rate is not None
    if spec.duration is None and spec.count is None:
        raise ConfigError("needs an end: 'duration' or 'count' of calls")
    length = spec.seconds if spec.seconds is not None else seconds
    if length is None:
        raise ConfigError("needs 'seconds', the execution time of a call, or a model with token counts beside 'calls'")
    law = CallLaw(spec.rate, spec.functions, spec.owners, spec.skew, length, spec.sigma)
    if spec.count is not None:  # as long as it takes for so many, with room for chance
        span = (spec.count + 6 * spec.count**0.5 + 10) / spec.rate
        return generate_calls(law, span, seed).head(spec.count, spec.duration)
    assert spec.duration is not None
    return generate_calls(law, spec.duration, seed)


def build_functions(
    spec: FunctionsSpec, clusters: Sequence[Cluster], places: Sequence[PlaceSpec], spare: int, seed: int,
    base: Path | None,
) -> FunctionWorkload:  # fmt: skip
    """A workload of functions on the cluster (its ``spare`` accelerators) and the other sites.

    Raises
    ------
    ConfigError
        If what is written does not work together; paths are relative to the workload.
    """
    timed = _service(spec, clusters)
    calls = read_calls_of(spec.calls, seed, base, timed[0][0] if timed else None)
    owners = sorted(set(calls.owners))
    if unknown := sorted(set(spec.quotas) - set(owners)):
        raise ConfigError(
            f"quotas of owners that call nothing: {', '.join(unknown)}; there are {', '.join(owners[:8])}"
        )
    if sum(spec.quotas.values()) > 1 + 1e-9:
        raise ConfigError(f"the quotas sum to {sum(spec.quotas.values()):.2f}, more than all there is")
    if timed:
        factor = timed[0][0] / float(np.median(calls.duration)) if spec.calls.trace else 1.0
        calls = replace(calls, duration=calls.duration * factor)
    notes = [] if spec.utilization is not None or timed else [
        f"containers at work are taken as {UTILIZATION:.0%} utilised for their power (assumed)"
    ]  # fmt: skip
    size = spec.size if spec.size is not None else timed[0][1] if timed else 0.0
    sites = []
    for number, cluster in enumerate(clusters):
        count = (spare if number == 0 else cluster.accelerator_count) // spec.accelerators
        place = places[number - 1] if number else None
        used = spec.utilization if spec.utilization is not None else timed[number][2] if timed else UTILIZATION
        slowness = timed[number][0] / timed[0][0] if timed else 1.0
        sites.append(_site(spec, cluster, place, count, slowness, used))
        if not any(sites[-1].rent):
            notes.append(f"no price is known of a container at '{sites[-1].name}': counted as free")
    settings = FleetSettings(
        spec.cold_start.start, size, spec.payload, spec.answer, spec.isolation, spec.perception.delay,
        spec.perception.noise, spec.adaptation, tuple(sorted(spec.quotas.items())),
    )  # fmt: skip
    return FunctionWorkload(
        spec.functions, calls, tuple(sites), settings, spec.accelerators, spec.placement, spec.keep_alive_policy,
        spec.keep_alive, spec.response, tuple(notes),
    )  # fmt: skip


def _site(
    spec: FunctionsSpec, cluster: Cluster, place: PlaceSpec | None, capacity: int, slowness: float, used: float
) -> FunctionSite:
    from simulator.cluster.economics import bill

    draw = mean_draw(cluster, spec.accelerators, used, 0.0)
    charge = bill("", cluster, spec.accelerators, 1.0, 0.0)
    rent = (0.0, 0.0) if charge.usd != charge.usd else (charge.low, charge.high)
    pays = not any("included in the rent" in item["item"] for item in charge.items)
    load = spec.cold_start.load
    return FunctionSite(
        name=cluster.site.name, site=cluster.site, capacity=max(0, capacity), slowness=slowness,
        latency=place.wan.latency if place else 0.0, bandwidth=place.wan.bandwidth if place else float("inf"),
        load=float("inf") if load is None else load, rent=rent, egress=place.wan.egress if place else 0.0,
        busy_power=draw.busy, idle_power=draw.idle, pays_power=pays, accelerators=capacity * spec.accelerators,
        source=str(charge.items[0]["source"]),
    )  # fmt: skip


def _service(spec: FunctionsSpec, clusters: Sequence[Cluster]) -> list[tuple[float, float, float]]:
    """(execution [s], weights [B], compute utilisation) of a call on each site; empty without a model."""
    given = {k: getattr(spec, k) for k in ("model", "framework", "input_tokens", "output_tokens")}
    missing = [key for key, value in given.items() if value is None]
    if len(missing) == len(given):
        return []
    if missing:
        raise ConfigError(f"{', '.join(missing)} is missing: a call of a model needs {', '.join(given)}")
    return [_call_on(spec, cluster, cluster.groups[0].node) for cluster in clusters]


def _call_on(spec: FunctionsSpec, cluster: Cluster, node: Node) -> tuple[float, float, float]:
    """One request alone in an engine."""
    from simulator.serving.estimate import check_deployment, replica_cost
    from simulator.serving.memory import cache_size
    from simulator.strategies.protocols import BatchShape
    from simulator.workload.framework_files import load_framework
    from simulator.workload.jobs import Deployment
    from simulator.workload.model_files import load_model
    from simulator.workload.plan import Plan
    from simulator.workload.requests.arrivals import ClosedLoop
    from simulator.workload.requests.generators import generate_requests
    from simulator.workload.requests.lengths import Fixed

    assert spec.model and spec.framework and spec.input_tokens and spec.output_tokens
    framework = load_framework(spec.framework)
    prompt, tokens = spec.input_tokens, spec.output_tokens
    requests = generate_requests(ClosedLoop(1), Fixed(prompt), Fixed(tokens), count=1, seed=0)
    plan = Plan(tensor_parallel=spec.accelerators, precision=spec.precision)
    engine = Deployment(
        spec.functions, load_model(spec.model), framework, plan, requests, batching=framework.batching,
        max_num_batched_tokens=max(prompt, framework.max_num_batched_tokens), max_num_seqs=framework.max_num_seqs,
        max_model_len=0, block_size=framework.block_size, memory_utilization=framework.memory_utilization,
    )  # fmt: skip
    cache = cache_size(engine, node)
    if reasons := [*check_deployment(engine, cluster), *filter(None, [cache.reason])]:
        raise ConfigError(f"a container does not fit on '{cluster.site.name}' ({node.name}): {'; '.join(reasons)}")
    cost: Any = replica_cost(engine, cluster, node)
    first = BatchShape(((prompt, 0),), 0, 0)
    context = prompt + tokens // 2
    step = BatchShape((), 1, context, context)
    seconds = cost.iteration(first) + (tokens - 1) * cost.iteration(step)
    flops = (cost.flops(first) + (tokens - 1) * cost.flops(step)) / cost.stages
    weights = spec.accelerators * cache.ledger.stages[0].by_class.get("param", 0.0)
    return seconds, weights, flops / seconds / node.accelerator.rate(spec.precision)
