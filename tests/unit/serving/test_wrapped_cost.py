"""Costs around a replica: limiting cases become the plain replica, segments are iterations, unions are closed forms."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.hardware.profiles import load_node
from simulator.serving.estimate import replica_cost
from simulator.serving.memory import cache_size
from simulator.strategies.protocols import BatchShape
from simulator.workload.counting import layer_parameters, mlp_parameters
from simulator.workload.model_files import load_model
from tests.serving_deployments import cluster, deployment

HERE = cluster("dgx-h100")
SHAPES = [BatchShape((), 1, 500, 500), BatchShape((), 32, 16_000, 600), BatchShape(((200, 0),), 8, 4000, 600)]


def cost(**changes: Any) -> Any:
    return replica_cost(deployment("llama-3.1-8b", **changes), HERE)


@pytest.mark.parametrize(
    "changes",
    [
        {"early_exit": (0.0,) * 32},
        {"early_exit": (0.0,) * 31 + (1.0,)},
        {"options": {"offload": {"method": "flexgen", "weights": 1.0, "cache": 1.0}}},
        {"options": {"offload": {"method": "powerinfer", "active": 1.0, "hot": 1.0, "coverage": 1.0}}},
    ],
)
@pytest.mark.parametrize("batch", SHAPES)
def test_a_knob_at_its_end_changes_nothing(changes: dict[str, Any], batch: BatchShape) -> None:
    assert cost(**changes).iteration(batch) == pytest.approx(cost().iteration(batch), rel=1e-12)


def test_leaving_after_half_the_layers_halves_a_lone_tokens_device_time() -> None:
    half, whole = cost(early_exit=(0.0,) * 15 + (1.0,)), cost()
    batch = SHAPES[0]
    device = sum(whole.device_times(batch))
    assert whole.iteration(batch) - half.iteration(batch) == pytest.approx(device / 2)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["flexgen", "powerinfer", "llm-in-a-flash", "sti", "early-exit"]), st.integers(1, 64),
    st.integers(10, 4000), st.floats(0.0, 1.0), st.floats(0.05, 1.0),
)  # fmt: skip
def test_a_segment_is_the_iterations_it_stands_for(method: str, decodes: int, context: int, a: float, b: float) -> None:
    options: dict[str, dict[str, Any]] = {
        "flexgen": {"weights": a, "cache": b},
        "powerinfer": {"active": 0.3 * b, "hot": 0.5, "coverage": 0.5 + a / 2},
        "llm-in-a-flash": {"active": b, "new": a},
        "sti": {"bits": 1 + 15 * b, "resident": a},
    }
    changes = {"options": {"offload": {"method": method, **options[method]}}} if method in options else {}
    priced = cost(**changes, early_exit=() if changes else (0.0,) * 9 + (a,))
    base, slope, valid = priced.decode_segment(BatchShape((), decodes, decodes * context, context))
    for step in {0, 1, min(valid, 50) - 1, min(valid, 3000) - 1}:
        if step < valid:
            later = BatchShape((), decodes, decodes * (context + step), context + step)
            assert base + slope * step == pytest.approx(priced.iteration(later), rel=1e-9)


def test_flash_reads_the_neurons_that_any_token_newly_needs() -> None:
    """LLM in a flash, arXiv 2312.11514: what the window does not hold is loaded before it is computed."""
    node, model = load_node("dgx-h100"), load_model("llama-3.1-8b")
    keys = {"method": "llm-in-a-flash", "active": 0.1, "chunk": 8192, "threads": 1000}
    batch = BatchShape((), 4, 400, 100)
    seconds = [cost(options={"offload": {**keys, "new": new}}).iteration(batch) for new in (0.0, 0.5)]
    neurons = 2 * 32 * mlp_parameters(model.layers[0][0].mlp, model.hidden_size)
    assert node.nvme is not None
    loaded = neurons * (1 - (1 - 0.05) ** 4) / node.nvme.read
    assert seconds[1] - seconds[0] == pytest.approx(loaded, rel=1e-2)


def test_cold_neurons_cost_host_memory_time_and_leave_the_device() -> None:
    """PowerInfer, arXiv 2312.12456: all neurons active and cold, the host reads every MLP once per token."""
    node, model = load_node("dgx-h100"), load_model("llama-3.1-8b")
    layer = model.layers[0][0]
    share = mlp_parameters(layer.mlp, model.hidden_size) / layer_parameters(layer, model.hidden_size)
    options = {"offload": {"method": "powerinfer", "active": 1.0, "hot": 0.0, "coverage": 0.0}}
    asked = deployment("llama-3.1-8b", options=options)
    mlps = 2 * 32 * mlp_parameters(layer.mlp, model.hidden_size)
    priced = replica_cost(asked, HERE)
    assert sum(priced.device_times(SHAPES[0])) == pytest.approx(mlps / node.host_memory_bandwidth, rel=0.01)
    stages = cache_size(asked, node).ledger.stages
    weights = sum(2.0 * n * layer_parameters(one, model.hidden_size) for one, n in model.layers)
    assert stages[1].by_class["param"] == pytest.approx(weights * share, rel=0.01)


def test_a_cache_on_the_host_is_read_over_its_link_and_makes_room() -> None:
    """FlexGen, arXiv 2303.06865: with all of the cache away, an iteration takes its bytes over the link."""
    asked = deployment("llama-3.1-8b", options={"offload": {"method": "flexgen", "weights": 1.0, "cache": 0.25}})
    priced, node = replica_cost(asked, HERE), load_node("dgx-h100")
    big = BatchShape((), 200, 400_000, 2000)
    wire = 400_000 * 2 * 2 * 8 * 128 * 32 * 0.75 / node.accelerator.host_link.achievable
    assert sum(priced.device_times(big)) == pytest.approx(wire)
    assert cache_size(asked, node).tokens > 2 * cache_size(deployment("llama-3.1-8b"), node).tokens
