"""Fused elementwise kernels: one launch and one trip through memory instead of several."""

from __future__ import annotations

import pytest

from simulator.serving.token_costs import Part, served_block
from simulator.strategies.protocols import BatchShape
from simulator.workload.framework_files import load_framework
from simulator.workload.model_files import load_model
from simulator.workload.ops import Block, OpKind
from simulator.workload.plan import Plan
from tests.serving_deployments import replica

VLLM, FUSED = load_framework("vllm-0.10"), Plan().with_(fusion="lightseq")
TOKENS = 64


def both(model: str, part: Part | None = None) -> tuple[Block, Block]:
    spec = load_model(model)
    plain, fused = (served_block(part or spec.layers[0][0], spec, p, VLLM, TOKENS) for p in (Plan(), FUSED))
    return plain, fused


def moved(block: Block) -> float:
    return sum(op.bytes() for op in block.forward)


@pytest.mark.parametrize(
    ("model", "kernels", "trips"),
    [
        ("gpt3-13b", 1, 1),  # residual add and norm: the sum is not read again
        ("llama-3.1-8b", 1, 1),
        ("gemma-2-9b", 3, 5),  # norm, add, norm: 3 reads and 2 writes for 5 and 3; norm and add: 2 and 1 for 3 and 2
        ("gptj-6b", 0, 0),  # a parallel layer has nothing to fuse
    ],
)
def test_launches_and_trips_saved(model: str, kernels: int, trips: int) -> None:
    plain, fused = both(model)
    width = load_model(model).hidden_size
    assert len(plain.forward) - len(fused.forward) == kernels
    assert moved(plain) - moved(fused) == trips * TOKENS * width * 2
    assert sum(op.flops() for op in plain.forward) == pytest.approx(sum(op.flops() for op in fused.forward))


@pytest.mark.parametrize("model", ["gpt3-13b", "mixtral-8x7b", "gemma-2-9b"])
def test_what_leaves_is_the_same(model: str) -> None:
    """The block still writes its last tensor, and every later Op finds what it reads."""
    plain, fused = both(model)
    assert {t.name for t in fused.forward[-1].writes} >= {t.name for t in plain.forward[-1].writes}
    known = {fused.boundary.name, *(t.name for t in fused.parameters)}
    for op in fused.forward:
        assert {t.name for t in op.reads} <= known
        known |= {t.name for t in op.writes}
    assert [op.name for op in fused.forward if op.kind is not OpKind.ELEMENTWISE] == [
        op.name for op in plain.forward if op.kind is not OpKind.ELEMENTWISE
    ]


def test_an_iteration_is_shorter_by_what_is_saved() -> None:
    """Eager kernels cost their launch: 40 layers lose one each, and the bytes of one trip at the elementwise rate."""
    batch = BatchShape((), 8, 8000, 1000)
    plain = replica("gpt3-13b", "fastertransformer").iteration(batch)
    fused = replica("gpt3-13b", "fastertransformer", plan=FUSED).iteration(batch)
    launch = load_model("gpt3-13b").num_hidden_layers * 1e-6
    assert launch < plain - fused < 20 * launch
