"""Kernels are timed on tensors that a model would find far or near."""

from __future__ import annotations

import itertools

import pytest

torch = pytest.importorskip("torch")

from simulator.calibration.caches import FAR, KERNELS, _arena, alternating, copies, keeping, pieces, swept  # noqa: E402


def test_copies_exceed_the_caches_and_end() -> None:
    assert (
        copies(FAR["cpu"] / 4, "cpu") == 4 and copies(1e12, "cpu") == 1 and copies(1.0, "cpu") == copies(100.0, "cpu")
    )


def test_pieces_do_not_overlap_within_the_distance() -> None:
    _arena.cache_clear()
    size = 1 << 20
    seen = [pieces(torch.float32, "cpu", size).data_ptr() for _ in range(round(FAR["cpu"] / (4 * size)))]
    assert len(set(seen)) == len(seen) and all(b - a >= 4 * size for a, b in itertools.pairwise(seen) if b > a)


def test_training_keeps_outputs_and_inference_does_not() -> None:
    x = torch.ones(1000)
    kept = keeping(lambda: x * 2, FAR["cpu"] / 4, "cpu", (x,))
    for _ in range(6):
        kept()
    outputs = kept.run.__closure__ and [
        c.cell_contents for c in kept.run.__closure__ if hasattr(c.cell_contents, "popleft")
    ]
    assert outputs and len(outputs[0]) == 4  # as many as fit into the distance, the oldest given back
    assert torch.equal(x, torch.ones(1000))  # being touched changes nothing
    plain = swept(lambda: x * 2, "cpu", (x,), 4000.0, 0.0)
    plain()
    assert plain.prepare is not None and FAR["cpu"] > KERNELS * 4000
    assert keeping(lambda: x, 1.0, "cuda").prepare is None and swept(lambda: x, "cuda", (), 1.0, 1.0).prepare is None


def test_far_tensors_take_turns() -> None:
    made: list[int] = []
    used: list[int] = []

    def make() -> tuple[object, tuple[object, ...]]:
        number = len(made)
        made.append(number)
        return (lambda: used.append(number)), (torch.zeros(4),)

    kernel = alternating(make, FAR["cpu"] / 3, "cpu")  # type: ignore[arg-type]
    for _ in range(6):
        kernel()
    assert used == [0, 1, 2, 0, 1, 2]
