"""Time between the kernels of a model: counted per kernel, and only where the host computes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from simulator.calibration.cases import gpt_model, llama_model
from simulator.calibration.sequence import SequenceFit, fit_sequence, with_between
from simulator.calibration.verify import TrainingCase, predict_training
from simulator.calibration.verify_serving import ServingCase, predict_serving
from simulator.cost.device import DeviceCost
from simulator.hardware.profiles import load_accelerator, load_node
from simulator.workload.ops import OpKind, Work

CPU = "cpu-xeon-amx-1t"
GEMM = Work(OpKind.GEMM, "bf16", 2.0 * 64**3, 6.0 * 64**2, 64, 64, 64)


def test_every_kernel_of_a_model_waits_once() -> None:
    node = load_node(CPU)
    for layers in (2, 5):
        case = ServingCase(llama_model(128, layers), 4, 32)
        times = [predict_serving(case, with_between(node, gap), "cpu") for gap in (0.0, 1e-5, 2e-5)]
        assert times[2] - times[1] == pytest.approx(times[1] - times[0])
        # Embedding, final norm, head; per layer two norms, four projections, rotary, attention, activation, two adds.
        assert times[1] - times[0] == pytest.approx(1e-5 * (3 + 11 * layers))


def test_recorded_kernels_have_a_constant_of_their_own() -> None:
    node = load_node(CPU)
    device = with_between(node, 0.0).accelerator
    slow = {k: replace(c, value=1e-4) for k, c in device.efficiency.items() if k == "sequence.between_recorded"}
    only_recorded = replace(node, accelerator=replace(device, efficiency={**device.efficiency, **slow}))
    bare = replace(node, accelerator=device)
    step, decode = TrainingCase(gpt_model(128, 2), 1, 16), ServingCase(gpt_model(128, 2), 1, 16)
    assert predict_training(step, only_recorded, "cpu").seconds > predict_training(step, bare, "cpu").seconds
    assert predict_serving(decode, only_recorded, "cpu") == predict_serving(decode, bare, "cpu")


def test_accelerators_that_a_host_launches_ahead_do_not_wait() -> None:
    device = DeviceCost(load_accelerator("h100-sxm"))
    assert device.price(GEMM) == device.alone(GEMM)


def test_probes_say_how_far_kernels_alone_are_off() -> None:
    pytest.importorskip("torch")
    fit = fit_sequence(load_node(CPU), "cpu", budget=0.5)
    assert isinstance(fit, SequenceFit) and len(fit.probes) == 6
    for probe in fit.probes:
        assert probe.predicted + probe.between * probe.kernels == pytest.approx(probe.measured)
    assert fit.between >= 0 and fit.between_recorded >= 0


def test_a_profile_carries_the_constant(tmp_path: Path) -> None:
    text = (Path("hardware_profiles/accelerators") / f"{CPU}.yaml").read_text(encoding="utf-8")
    own = "  sequence: {between: 20 us, between_recorded: 70 us, sigma: 0.2, trust: fitted, source: test}\n"
    text = text.partition("  sequence:")[0].partition("sources:")[0] + own + text[text.index("sources:") :]
    (tmp_path / f"{CPU}.yaml").write_text(text.replace("kernel_table:", "# kernel_table:"), encoding="utf-8")
    device = load_accelerator(str(tmp_path / f"{CPU}.yaml"))
    cost = DeviceCost(device)
    gap = device.efficiency["sequence.between"]
    assert cost.price(GEMM).seconds - cost.alone(GEMM).seconds == pytest.approx(gap.value)
    assert gap.id in cost.price(GEMM).constants
