"""Host time per launch of an engine that launches every kernel (vLLM 0.2), from two sources.

The published times are those of Splitwise (Llama-2-70B and BLOOM-176B on A100 and H100, two to eight ranks) and of
DistServe's profile of vLLM (OPT-13B and 66B on A100, one to eight ranks); kernels and the number of launches come from
the simulator, the speed of either host from its profile. An iteration takes

    host per step and sequence + max(kernels, launches) + exposed · min(kernels, launches)

``host_per_launch`` and ``launch_exposed`` minimise the mean absolute log error of decode times, both sources with the
same weight; ``host_per_prompt_layer`` then that of prompts of at most 256 tokens. Each is fitted
again without either source.

    python benchmarks/fits/eager_launches.py --shared ../shared
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

from simulator.serving.estimate import replica_cost
from simulator.serving.iteration import ReplicaCost
from simulator.serving.launches import beside
from simulator.strategies.protocols import BatchShape
from simulator.validation.cases import Case, Measurement
from simulator.validation.read import read_file

FITTED = ("host_per_launch", "host_per_prompt_layer", "launch_exposed")
SOURCES = ("splitwise", "distserve")
SHORT = 256
"""Tokens of a prompt whose kernels take less time than its launches."""


class Row(NamedTuple):
    """One published time: of decodes or prompts, its kernels, launches and attention layers, the host's share."""

    source: str
    prompts: bool
    tokens: int
    kernels: float
    launches: float
    layers: float
    host: float
    measured: float


def shape_of(case: Case, measured: Measurement) -> BatchShape:
    """The batch of a published time; of decodes in the middle of their output."""
    subject, prompts = case.subject, measured.kind == "serving_ttft"
    if case.labels.source == "distserve":
        batch, length = map(int, measured.quantity.split("_")[1].split("x"))
        context = float(length)
    else:
        batch, length, output = (int(float(str(subject.setting(k)))) for k in ("batch", "isl", "osl"))
        context = length + output / 2
    return BatchShape(((length, 0),) * batch, 0, 0) if prompts else BatchShape((), batch, int(batch * context))


def rows(path: Path) -> Iterator[Row]:
    """Every time of the engine in the file."""
    for case in read_file(path).cases:
        deployment, cluster = case.subject.deployment, case.subject.cluster
        if case.labels.source not in SOURCES or deployment is None or deployment.framework.name != "vllm-0.2":
            continue
        assert cluster is not None
        engine = deployment.framework
        bare = replace(engine, constants={k: c for k, c in engine.constants.items() if k not in FITTED})
        cost = replica_cost(replace(deployment, framework=bare), cluster)
        assert isinstance(cost, ReplicaCost)
        speed, layers = cluster.groups[0].node.host_speed, len(deployment.model.layer_list())
        launches = cost.costs.stage_launches(cost.layers_of_stage, 0) / speed
        for measured in case.measured:
            if measured.kind not in ("serving_tpot", "serving_ttft"):
                continue
            shape = shape_of(case, measured)
            kernels, host = sum(cost.device_times(shape)), cost.host_seconds(shape.decodes + len(shape.prefill))
            of = case.labels.source, bool(shape.prefill), shape.tokens
            yield Row(*of, kernels, launches, layers / speed, host, measured.value)


def errors(chosen: Sequence[Row], launch: float, exposed: float, layer: float = 0.0) -> np.ndarray:
    """Log of predicted over published time."""
    return np.array([
        np.log((r.host + beside(r.kernels, r.launches * launch + r.prompts * r.layers * layer, exposed)) / r.measured)
        for r in chosen
    ])  # fmt: skip


def loss(chosen: Sequence[Row], *constants: float) -> float:
    """Mean over the sources of the mean absolute log error."""
    each = [[r for r in chosen if r.source == s] for s in SOURCES]
    return float(np.mean([np.abs(errors(part, *constants)).mean() for part in each if part]))


def fit(chosen: Sequence[Row]) -> tuple[float, float, float]:
    """Time per launch, exposed share, time per layer of prompts, on a host of speed 1."""
    decodes = [r for r in chosen if not r.prompts]
    starts = [(launch, 0.25) for launch in (15.0, 22.0, 30.0)]
    found = min((minimize(lambda p: loss(decodes, p[0] * 1e-6, p[1]), s, method="Nelder-Mead") for s in starts),
                key=lambda r: float(r.fun))  # fmt: skip
    launch, exposed = found.x[0] * 1e-6, found.x[1]
    short = [r for r in chosen if r.prompts and r.tokens <= SHORT]
    layer = min((i * 5e-6 for i in range(100)), key=lambda x: loss(short, launch, exposed, x))
    return launch, exposed, layer


def report(name: str, chosen: Sequence[Row], constants: tuple[float, float, float]) -> None:
    for source in SOURCES:
        for prompts in (False, True):
            part = [r for r in chosen if r.source == source and r.prompts == prompts]
            if not part:
                continue
            size = np.abs(np.expm1(errors(part, *constants)))
            kind = "prompts" if prompts else "decodes"
            middle, high = np.quantile(size, (0.5, 0.9))
            print(f"  {name}: {source} {kind}: median {middle:.1%}, p90 {high:.1%} ({len(part)})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    everything = list(rows(parser.parse_args().shared / "reference/published_serving.yaml"))
    for left_out in ("", *SOURCES):
        chosen = [r for r in everything if r.source != left_out]
        launch, exposed, layer = constants = fit(chosen)
        name = f"without {left_out}" if left_out else "all"
        print(f"{name}: host_per_launch {launch * 1e6:.1f} us, launch_exposed {exposed:.2f}, "
              f"host_per_prompt_layer {layer * 1e6:.0f} us")  # fmt: skip
        report(name, [r for r in everything if not left_out or r.source == left_out], constants)


if __name__ == "__main__":
    main()
