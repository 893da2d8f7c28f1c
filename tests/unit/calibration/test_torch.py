"""Real PyTorch on this machine: structure and memory, which are exact; never how fast it was."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simulator.cli import main


def test_without_torch_calibrate_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import importlib

    real = importlib.import_module

    def missing(name: str, package: str | None = None) -> Any:
        if name == "torch":
            raise ImportError(name)
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", missing)
    assert main(["calibrate", "--device", "cpu"]) == 2
    assert "pip install 'fmsim[calibrate]'" in capsys.readouterr().err
    assert main(["list", "accelerators"]) == 0


torch = pytest.importorskip("torch")

from simulator.calibration.cases import GROUPS, all_cases, gpt_model, llama_model, moe_model  # noqa: E402
from simulator.calibration.live_memory import peak_bytes  # noqa: E402
from simulator.calibration.runner import run_cases  # noqa: E402
from simulator.calibration.timing import measure  # noqa: E402
from simulator.calibration.torch_models import KVCache, build_model  # noqa: E402
from simulator.calibration.verify import TrainingCase, one_node, resident_tensors, training_step  # noqa: E402
from simulator.calibration.verify_serving import loop_shapes  # noqa: E402
from simulator.cost.kernel_table import read_rows  # noqa: E402
from simulator.hardware.types import (  # noqa: E402
    Accelerator,
    Link,
    Node,
    PowerProfile,
    ScaleUp,
)
from simulator.training.step import estimate_step  # noqa: E402
from simulator.workload.counting import parameters  # noqa: E402
from simulator.workload.framework_files import load_framework  # noqa: E402
from simulator.workload.jobs import Batch, TrainingJob  # noqa: E402
from simulator.workload.plan import Plan  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads wait for each other where other processes run: nothing here looks at how fast anything is."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


LINK = Link("x", 1e10, 1e-6)
CPU = Accelerator(
    "cpu", "x", "cpu", 2024, {"fp32": 3e11, "bf16": 1e12}, 2e10, 2e10, 1e11, ScaleUp(LINK, 2), LINK, PowerProfile(1, 2)
)
NODE = Node("n", CPU, 1, CPU.scale_up, LINK, 0, 1e10, 1e10)
MODELS = [gpt_model(128, 2, 1024, 256), llama_model(128, 3, 1024), moe_model(128, 2, 4, 2, 1024)]


@pytest.mark.parametrize("spec", MODELS, ids=lambda m: m.family)
def test_the_built_model_has_the_parameters_of_its_spec(spec: Any) -> None:
    model = build_model(spec, "fp32", "cpu")
    assert sum(p.numel() for p in model.parameters()) == parameters(spec)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("spec", MODELS, ids=lambda m: m.family)
def test_predicted_peak_memory_is_what_tensors_take(spec: Any, recompute: bool) -> None:
    case = TrainingCase(spec, 2, 128, recompute)
    model = build_model(spec, "fp32", "cpu", recompute)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    ids = torch.randint(0, spec.vocab_size, (case.batch, case.sequence))

    def step() -> None:
        training_step(model, optimizer, ids)

    step()
    got = peak_bytes(step, "cpu", resident_tensors(model, optimizer))
    plan = Plan(precision="fp32", recompute="full" if recompute else "none")
    job = TrainingJob("j", spec, load_framework("pytorch-eager-cpu"), Batch(2, 2, 128), plan)
    assert estimate_step(job, one_node(NODE)).memory.worst.peak == pytest.approx(got, rel=0.10)


def test_live_memory_counts_what_is_alive_at_once() -> None:
    def call() -> None:
        a = torch.zeros(1000)
        b = a + 1
        del a
        c = b * 2  # a is gone: b and c
        del b, c

    assert peak_bytes(call, "cpu", [torch.zeros(500)]) == 4 * (500 + 2000)


def test_decoding_with_a_cache_gives_the_logits_of_the_whole_sequence() -> None:
    for spec in MODELS:
        model = build_model(spec, "fp32", "cpu").eval()
        ids = torch.randint(0, spec.vocab_size, (2, 12))
        with torch.inference_mode():
            whole = model(ids)[:, -1]
            cache = KVCache(spec, 2, 16, "fp32", "cpu")
            model(ids[:, :8], cache, 0)
            for at in range(8, 12):
                last = model(ids[:, at : at + 1], cache, at)
        assert torch.allclose(last[:, 0], whole, atol=1e-4)


def test_the_loop_generates_every_token_once() -> None:
    shapes = loop_shapes((8, 4, 6), outputs=5, slots=2)
    assert [s.prefill[0][0] for s in shapes if s.prefill] == [8, 4, 6]
    assert sum(bool(s.decodes) for s in shapes) >= 2 * (5 - 1)


def test_runner_measures_resumes_and_says_what_it_skipped(tmp_path: Path) -> None:
    small = [c for c in all_cases("cpu", 0.25) if c.work.flops < 1e7 and c.work.bytes < 1e6]
    cases = small[:12]
    partial = tmp_path / "p.csv"
    first = run_cases(cases[:5], "cpu", 15.0, partial)
    assert len(first.rows) == 5 and not first.failed and all(r.seconds > 0 for r in first.rows)
    known = read_rows(partial)
    assert len(known) >= 5  # every pass of every case
    again = run_cases(cases, "cpu", 30.0, partial, resume=True)
    assert len(again.rows) == 12
    assert len(read_rows(partial)) >= len(known) + 7
    kept = {(row.work, row.seconds) for row in read_rows(partial)}
    assert {(row.work, row.seconds) for row in known} <= kept
    nothing = run_cases(cases, "cpu", 0.0)
    assert sum(nothing.skipped.values()) == 12 and any("skipped" in line for line in nothing.report())


def test_an_interrupted_run_keeps_its_rows(tmp_path: Path) -> None:
    cases = [c for c in all_cases("cpu", 0.25) if c.work.operator == "clip"][:3]

    def stop(device: str) -> Any:
        raise KeyboardInterrupt

    from dataclasses import replace

    outcome = run_cases([cases[0], replace(cases[1], build=stop), cases[2]], "cpu", 5.0, tmp_path / "p.csv")
    assert outcome.interrupted and len(outcome.rows) == 1
    assert (tmp_path / "p.csv").read_text(encoding="utf-8").count("\n") == 2


def test_cases_cover_every_group_from_the_start() -> None:
    cases = all_cases("cpu")
    assert {c.group for c in cases} == set(GROUPS)
    assert {c.group for c in cases[: len(cases) // 5]} == set(GROUPS)
    assert len({c.label for c in cases}) == len(cases)


def test_measure_counts_with_the_given_clock() -> None:
    now = [0.0]

    def call() -> None:
        now[0] += 0.01

    timing = measure(call, budget=0.1, repeats=9, least=3, clock=lambda: now[0])
    assert timing.seconds == pytest.approx(0.01) and timing.spread == pytest.approx(0.0, abs=1e-9)
    assert 3 <= timing.repeats <= 9


def test_calibrate_writes_a_profile_that_scenarios_can_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from simulator.calibration import calibrate
    from simulator.calibration.figures import FIGURES
    from simulator.hardware.profiles import load_node

    every = calibrate.all_cases  # the small ones will do: what they take is not looked at here
    small = [c for c in every("cpu", 0.25) if c.work.flops < 1e8 and c.work.bytes < 4e6][:60]
    monkeypatch.setattr(calibrate, "all_cases", lambda device, density: small)
    monkeypatch.setattr(calibrate, "keep_pages", lambda: True)
    command = ["calibrate", "--out", str(tmp_path), "--ranks", "0", "--name", "here"]
    assert main([*command, "--budget", "1 ms"]) == 2
    assert "give more --budget" in capsys.readouterr().err
    assert main([*command, "--budget", "20 s"]) == 0
    node = load_node(tmp_path / "nodes" / "here.yaml")
    device = node.accelerator
    assert device.efficiency and Path(device.kernel_table).is_file()
    assert all("fmsim calibrate" in c.source and c.sigma > 0 for c in device.efficiency.values())
    job = TrainingJob(
        "j", llama_model(256, 2), load_framework("pytorch-eager-cpu"), Batch(2, 2, 128), Plan(precision="fp32")
    )
    estimate = estimate_step(job, one_node(node))
    assert estimate.feasible and estimate.seconds > 0
    assert estimate.interval is not None and estimate.interval.low < estimate.seconds < estimate.interval.high
    assert estimate.shares.get("measured", 0.0) > 0.0  # so few kernels leave most sizes to the curves
    assert math.isclose(sum(estimate.shares.values()), 1.0)
    for draw in FIGURES.values():
        axes = draw(device)
        assert axes.get_xlabel() and axes.lines
