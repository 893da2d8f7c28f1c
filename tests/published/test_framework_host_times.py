"""The host times in ``workloads/frameworks`` are those the fits give, and measured steps need them."""

from __future__ import annotations

import importlib.util
import itertools
import statistics
from pathlib import Path
from types import ModuleType

import pytest

from simulator.cost.host import CHECK, CHECK_INSIDE, COLLECTIVE, OPERATOR
from simulator.hardware.profiles import load_link
from simulator.strategies.protocols import BatchShape
from simulator.validation.held_out import LEFT_OUT
from simulator.validation.read import read_file
from simulator.workload.framework_files import load_framework
from simulator.workload.plan import Plan
from tests.serving_deployments import replica


def fit_script(name: str) -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "fits" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"fits_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_host_bound_steps_follow_from_counted_operators(shared: Path) -> None:
    """Small layers of nanotron (H100) without checks: steps wait for the time of their counted calls."""
    script = fit_script("training_host")
    found: dict[float, list[float]] = {0.0: [], 1.0: []}
    cases = [
        c
        for c in read_file(shared / "reference/training_peers/nanotron/h100_sweep_dev.csv").cases
        if c.subject.job is not None
        and c.subject.job.plan.pipeline_parallel == 1
        and not c.subject.job.framework.checked_collectives
        and c.subject.job.batch.micro_batch_size == 1
        and c.subject.job.plan.tensor_parallel == 8
        and any(m.kind == "training_step_time" for m in c.measured)
    ]
    for case in cases[:: max(1, len(cases) // 8)]:
        published = next(m.value for m in case.measured if m.kind == "training_step_time")
        for share, errors in found.items():
            seconds, _ = script.seconds(case, share * OPERATOR.value, share * COLLECTIVE.value)
            errors.append(abs(seconds / published - 1))
    with_host, without = statistics.median(found[1.0]), statistics.median(found[0.0])
    assert with_host < 0.1
    assert without > 2 * with_host


def test_steps_of_vtrain_on_one_node_are_sums_of_its_own_tables(shared: Path) -> None:
    """Why they are grade C: affine to a millionth, and data parallelism costs what the repository's table says."""
    script = fit_script("composed_steps")
    folder = shared / "reference/training_peers/vtrain"
    steps = script.rows(folder / "step_times_single_node_dev.csv")
    assert statistics.median(script.affine(steps)) < 1e-5
    distances = script.differences(steps, script.all_reduces(folder / "nccl_allreduce_one_node.csv"))
    assert len(distances) > 50
    assert max(abs(d) for d in distances) < 0.01  # us


def test_checks_and_hops_are_those_of_collectives_timed_in_jobs(shared: Path) -> None:
    script = fit_script("checked_collectives")
    free, checked = (
        script.all_gathers(shared / "reference/training_peers/nanotron/h100_sweep_dev.csv")[s] for s in (False, True)
    )
    assert (free[32] - free[8]) / 24 == pytest.approx(load_link("efa-v2").ring_hop, rel=0.05)
    inside, beyond, _ = script.without_steps({False: free, True: checked})
    assert inside == pytest.approx(LEFT_OUT["nanotron"][CHECK_INSIDE.id], rel=0.05)
    assert beyond == pytest.approx(CHECK.value, rel=0.05)
    for nodes in (8, 16, 32):
        assert (checked[nodes] - 8 * CHECK_INSIDE.value) / (8 * nodes - 8) == pytest.approx(CHECK.value, rel=0.05)


def test_engines_of_2023_and_2024_have_the_host_line_of_their_profiles(shared: Path) -> None:
    script = fit_script("serving_host")
    for stamp, name in (("2023-11", "vllm-0.2"), ("2024-05", "vllm-0.5")):
        constants = load_framework(name).constants
        start, slope = script.host_line(shared / "reference/vidur/profiling", stamp)
        assert constants["host_per_step"].value == pytest.approx(start, rel=0.03)
        assert constants["host_per_sequence"].value == pytest.approx(slope, rel=0.03)


LAUNCHED = {
    ("dgx-a100-640", 4): 44.99, ("dgx-a100-640", 8): 44.85, ("dgx-h100", 4): 29.72, ("dgx-h100", 8): 29.76,
}  # fmt: skip
"""Node and ranks → ms per token of Llama-2-70B in vLLM of 2023, one request of 512 + 128 tokens, as Splitwise measured
them (Mutinifni/splitwise-sim @8f99e7d data/perf_model.csv, medians): twice the ranks save nothing."""


def test_launches_bound_decodes_whatever_the_number_of_ranks() -> None:
    found = {}
    for node, ranks in LAUNCHED:
        cost = replica("llama-2-70b", framework="vllm-0.2", node=node, plan=Plan(tensor_parallel=ranks))
        found[node, ranks] = cost.iteration(BatchShape((), 1, 576, 576))
    for a, b in itertools.combinations(LAUNCHED, 2):
        assert found[a] / found[b] == pytest.approx(LAUNCHED[a] / LAUNCHED[b], rel=0.1)


def test_launches_of_eager_engines_are_those_of_the_fit(shared: Path) -> None:
    script = fit_script("eager_launches")
    launch, exposed, layer = script.fit(list(script.rows(shared / "reference/published_serving.yaml")))
    constants = load_framework("vllm-0.2").constants
    assert constants["host_per_launch"].value == pytest.approx(launch, rel=0.03)
    assert constants["launch_exposed"].value == pytest.approx(exposed, rel=0.03)
    assert constants["host_per_prompt_layer"].value == pytest.approx(layer, rel=0.03)
