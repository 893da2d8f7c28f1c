"""Kernels are timed on tensors that a model would find far or near."""

from __future__ import annotations

import itertools

import pytest

torch = pytest.importorskip("torch")

from simulator.calibration import caches  # noqa: E402
from simulator.calibration.caches import (  # noqa: E402
    FAR,
    KERNELS,
    MOST,
    _arena,
    alternating,
    copies,
    keeping,
    layer_bytes,
    pieces,
    swept,
)


def test_copies_exceed_the_caches_and_end() -> None:
    assert copies(FAR["cpu"] / 4, "cpu") == 4 and copies(1e12, "cpu") == 1 and copies(1.0, "cpu") == MOST["cpu"]
    assert copies(FAR["cpu"] / 8, "cpu", FAR["cpu"] / 2) == 4  # half of the distance is what passes in between
    assert copies(FAR["cuda"] / 4, "cuda", 1e12) == 4  # nothing passes in between on an accelerator


def test_a_layer_passes_between_two_runs_of_a_kernel() -> None:
    assert layer_bytes(1e6, 1e5) == 1e6 + KERNELS * 1e5
    assert layer_bytes(1e12, 0.0) == FAR["cpu"]


def test_pieces_do_not_overlap_within_the_distance() -> None:
    _arena.cache_clear()
    size = 1 << 20
    seen = [pieces(torch.float32, "cpu", size).data_ptr() for _ in range(round(FAR["cpu"] / (4 * size)))]
    assert len(set(seen)) == len(seen) and all(b - a >= 4 * size for a, b in itertools.pairwise(seen) if b > a)


def test_training_keeps_outputs_and_inference_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[float] = []
    monkeypatch.setattr(caches, "sweep", passed.append)
    x = torch.ones(1000)
    kept = keeping(lambda: x * 2, FAR["cpu"] / 4, "cpu", (x,), 0.0)
    for _ in range(6):
        kept()
    outputs = kept.run.__closure__ and [
        c.cell_contents for c in kept.run.__closure__ if hasattr(c.cell_contents, "popleft")
    ]
    assert outputs and len(outputs[0]) == 4  # as many as fit into the distance, the oldest given back
    assert torch.equal(x, torch.ones(1000))  # being touched changes nothing
    plain = swept(lambda: x * 2, "cpu", (x,), 5e6)
    plain()
    assert passed == [0.0] * 6 + [5e6]
    assert (
        keeping(lambda: x, 1.0, "cuda", (), 1.0).prepare is None and swept(lambda: x, "cuda", (), 1.0).prepare is None
    )


def test_only_what_autograd_records_runs_outside_an_inference() -> None:
    seen: list[bool] = []
    call = lambda: seen.append(torch.is_inference_mode_enabled())  # noqa: E731
    swept(call, "cpu", (), 0.0)()
    keeping(call, 1.0, "cpu", (), 0.0)()
    alternating(lambda: (call, ()), 1.0, "cpu", 0.0)()
    alternating(lambda: (call, ()), 1.0, "cpu", 0.0, recorded=False)()
    assert seen == [True, False, False, True]


def test_far_tensors_take_turns() -> None:
    made: list[int] = []
    used: list[int] = []

    def make() -> tuple[object, tuple[object, ...]]:
        number = len(made)
        made.append(number)
        return (lambda: used.append(number)), (torch.zeros(4),)

    kernel = alternating(make, FAR["cpu"] / 3, "cpu", 0.0)  # type: ignore[arg-type]
    for _ in range(6):
        kernel()
    assert used == [0, 1, 2, 0, 1, 2]
