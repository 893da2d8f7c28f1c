"""What the tensor strategies refuse, and what they say would work."""

from __future__ import annotations

import pytest

from simulator.strategies.compile import check_plan
from simulator.workload.model_files import load_model
from simulator.workload.plan import Plan


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"tensor": "summa-2d", "tensor_parallel": 8}, "square"),
        ({"tensor": "summa-2d", "tensor_parallel": 4}, "tensor_rows 2"),
        ({"tensor": "tesseract-2.5d", "tensor_parallel": 8, "tensor_rows": 2}, "tensor_depth"),
        ({"tensor": "tesseract-2.5d", "tensor_parallel": 16, "tensor_rows": 2, "tensor_depth": 4}, "d ≤ q"),
        ({"tensor": "3d", "tensor_parallel": 16}, "cubic"),
        ({"tensor": "3d", "tensor_parallel": 8}, "tensor_rows 2 and tensor_depth 4"),
        (
            {"tensor": "summa-2d", "tensor_parallel": 4, "tensor_rows": 2, "sequence_parallel": True},
            "sequence_parallel false",
        ),
        ({"tensor": "domino", "tensor_parallel": 2, "tensor_slices": 0}, "whole number"),
        ({"tensor": "async-tensor-parallel", "tensor_parallel": 3}, "1, 2, 4, 8"),
    ],
)
def test_reasons(fields: dict[str, object], words: str) -> None:
    (reason,) = check_plan(load_model("llama-3.1-8b"), Plan().with_(**fields))
    assert words in reason


def test_grids_are_for_softmax_layers_whose_experts_stay() -> None:
    plan = Plan().with_(tensor="summa-2d", tensor_parallel=4, tensor_rows=2)
    for name in ("mamba2-2.7b", "deepseek-v2-lite"):
        assert any("softmax attention" in reason for reason in check_plan(load_model(name), plan))
    mixture = load_model("mixtral-8x7b")
    assert not check_plan(mixture, plan)
    (reason,) = check_plan(mixture, plan.with_(expert_parallel=2, data_parallel=2))
    assert "use expert_parallel 1" in reason


def test_halves_are_for_dense_layers() -> None:
    model = load_model("mixtral-8x7b")
    (reason,) = check_plan(model, Plan().with_(tensor="domino", tensor_parallel=2))
    assert "async-tensor-parallel" in reason
    assert not check_plan(model, Plan().with_(tensor="async-tensor-parallel", tensor_parallel=2))


def test_axes_of_a_grid_are_neighbours_then_strided() -> None:
    from simulator.hardware.profiles import load_node
    from simulator.strategies.rank_layout import RankLayout

    plan = Plan().with_(tensor="tesseract-2.5d", tensor_parallel=8, tensor_rows=2, tensor_depth=4, data_parallel=4)
    layout = RankLayout(plan, load_node("dgx-h100"))
    assert {a: (plan.mesh[a], layout.strides[a]) for a in ("tp[1:2]", "tp[2:4]", "tp[4:8]")} == {
        "tp[1:2]": (2, 1), "tp[2:4]": (2, 2), "tp[4:8]": (2, 4),
    }  # fmt: skip
