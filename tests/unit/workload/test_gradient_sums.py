"""What autograd adds up: tensors of the residual width that several Ops read."""

from __future__ import annotations

import pytest

from simulator.workload.autodiff import differentiate
from simulator.workload.framework import Framework
from simulator.workload.lowering import LoweringContext, lower_layer
from simulator.workload.model_files import load_model
from simulator.workload.ops import Block, Op
from simulator.workload.work import work_of

FRAMEWORK = Framework("eager", "training", dropout=False)
TOKENS = 1024


def layer(name: str, which: int = 0, framework: Framework = FRAMEWORK, fused: bool = False) -> Block:
    model = load_model(name)
    ctx = LoweringContext(model, 1, TOKENS, True, framework)
    return differentiate(lower_layer(model.layers[which][0], ctx), "fp32", fused_sums=fused)


def sums(block: Block) -> list[Op]:
    return [op for op in block.backward if op.name.endswith(".grad.sum")]


@pytest.mark.parametrize(
    ("name", "which", "count"),
    [
        ("llama-2-7b", 0, 2),  # two residual junctions
        ("mixtral-8x7b", 0, 3),  # and a norm's output goes to the router and to the experts
        ("deepseek-v2", 0, 3),  # a dense layer whose queries and keys have a projection each
        ("deepseek-v2", 1, 5),  # router, experts and shared experts, and the two projections
    ],
)
def test_every_further_reader_of_a_tensor_is_one_addition(name: str, which: int, count: int) -> None:
    width = load_model(name).hidden_size
    found = sums(layer(name, which))
    assert len(found) == count
    for op in found:  # two read, one written, 16 bits
        assert work_of(op, {}, 1).bytes == pytest.approx(3 * 2 * TOKENS * width)


def test_a_compiler_adds_inside_the_kernels() -> None:
    plain, fused = layer("deepseek-v2", 1), layer("deepseek-v2", 1, fused=True)
    assert not sums(fused)
    assert [op for op in plain.backward if op not in sums(plain)] == list(fused.backward)


def test_an_addition_has_no_backward_and_its_dropout_only_that_of_the_branch() -> None:
    """The gradient of the stream is that of the sum: mask and gradient in, one gradient out."""
    assert not [op for op in layer("deepseek-v2", 1).backward if op.name.endswith((".add.backward", ".sum.backward"))]
    dropping = layer("llama-2-7b", framework=Framework("eager", "training", dropout=True))
    adds = [op for op in dropping.backward if op.name.endswith(".add.backward")]
    assert [[t.name for t in op.writes] for op in adds] == [["mlp.down.out.grad"], ["attention.output.out.grad"]]
    assert len(sums(dropping)) == 2
