"""Passes over memory that eager frameworks add between kernels: counted in tensors read and written."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simulator.workload.autodiff import differentiate
from simulator.workload.framework import Framework
from simulator.workload.lowering import LoweringContext, lower_layer
from simulator.workload.lowering_layout import ATTENTION_LAYOUT, GLU_HALVES, LATENT_ROTARY
from simulator.workload.model_files import load_model
from simulator.workload.ops import Block, Op, OpKind
from simulator.workload.work import work_of

EAGER = Framework("eager", "training", fused_kernels=False, dropout=False)
MODEL = load_model("llama-2-7b")
WIDTH = MODEL.hidden_size


def layer(framework: Framework, batch: int = 1, training: bool = True, model_name: str = "llama-2-7b") -> Block:
    model = load_model(model_name)
    ctx = LoweringContext(model, batch, 1024, training, framework)
    return differentiate(lower_layer(model.layers[0][0], ctx), "fp32")


def moved(ops: tuple[Op, ...], *without: str) -> float:
    """Bytes of the elementwise Ops per token."""
    kept = (op for op in ops if op.kind is OpKind.ELEMENTWISE and not any(w in op.name for w in without))
    return sum(work_of(op, {}, 1).bytes for op in kept) / 1024


def extra(composite: str, batch: int = 1, model_name: str = "llama-2-7b") -> tuple[float, float]:
    """Bytes per token of one sequence that the composite adds to forward and backward."""
    plain = layer(EAGER, batch, model_name=model_name)
    more = layer(replace(EAGER, composite=(composite,)), batch, model_name=model_name)
    forward = moved(more.forward) - moved(plain.forward)
    return forward / batch, (moved(more.backward) - moved(plain.backward)) / batch


@pytest.mark.parametrize(("name", "key_share"), [("llama-2-7b", 1.0), ("llama-3.1-8b", 0.25)])
def test_projections_keys_and_values_are_copied_on_the_way_to_attention(name: str, key_share: float) -> None:
    """Forward: the projection, and keys and values twice. Backward: keys and values, and the projection twice."""
    width = load_model(name).hidden_size
    projection, pair = (1 + 2 * key_share) * width, 2 * key_share * width
    forward, backward = extra(ATTENTION_LAYOUT, model_name=name)
    assert forward == pytest.approx(2 * 2 * (projection + 2 * pair))  # read and written, 16 bits
    assert backward == pytest.approx(2 * 2 * (pair + 2 * projection))


def test_several_sequences_change_the_order_of_the_output_too() -> None:
    one, two = extra(ATTENTION_LAYOUT), extra(ATTENTION_LAYOUT, batch=2)
    for more, less in zip(two, one, strict=True):
        assert more - less == pytest.approx(2 * 2 * WIDTH)


def test_the_halves_of_a_gated_activation_are_passed_over_five_and_twelve_times() -> None:
    """Fused: two halves in, one out. Apart: 2 + 3; backward 5 + 3 and the joined gradients of the halves 4."""
    inner = 11008
    forward, backward = extra(GLU_HALVES)
    assert forward == pytest.approx(2 * inner * (5 - 3))
    assert backward == pytest.approx(2 * inner * (12 - 5))


def test_views_run_no_kernel_and_serving_copies_nothing() -> None:
    framework = replace(EAGER, composite=(ATTENTION_LAYOUT, GLU_HALVES))
    views = [op for op in layer(framework).forward if op.tags.get("kernels") == "0"]
    assert {op.name.rpartition(".")[2] for op in views} == {"unbind", "split_kv", "split"}
    assert all(work_of(op, {}, 1).bytes == 0 for op in views)
    names = [op.name for op in layer(framework, training=False).forward]
    assert names == [op.name for op in layer(EAGER, training=False).forward]


def test_latent_attention_rotates_slices_kernel_by_kernel() -> None:
    """In slices of 64 of 128 heads, read or written.

    Forward: the slice of the queries is put in order 2, times cosines 2, negated 1, joined 2, times sines 2, added 3,
    joined with nothing 2; queries 3 + 3, keys 2 + 3 (the shared one comes from the cache), values 2 + 2. Backward: the
    sines 2, negated 1, joined 2, cosines 2, summed 3, two slices filled with zeros and copied 4, summed 3, an empty
    slice filled 1 and summed 3; queries 3 + 3, keys and values 4 + 4, the shared key summed over heads 1.
    """
    model = load_model("deepseek-v2")
    fused, apart = (layer(replace(EAGER, composite=c), 1, True, "deepseek-v2") for c in ((), (LATENT_ROTARY,)))
    piece = 2.0 * 128 * 64
    small = 2.0 * (model.layers[0][0].attention.kv_lora_rank + 64)  # the compressed keys and values are read or written
    assert moved(apart.forward) - moved(fused.forward, ".rotary") == pytest.approx((14 + 6 + 5 + 4) * piece + small)
    assert moved(apart.backward) - moved(fused.backward, ".rotary") == pytest.approx((21 + 6 + 8 + 1) * piece + small)


def test_latent_attention_keeps_queries_keys_and_values_apart() -> None:
    """Rotated queries and keys of 192 per head and values of 128, instead of the projection that holds the values."""
    fused, apart = (layer(replace(EAGER, composite=c), 1, True, "deepseek-v2") for c in ((), (LATENT_ROTARY,)))
    less = sum(t.bytes() for t in fused.saved) - sum(t.bytes() for t in apart.saved)
    assert less == pytest.approx(1024 * 2.0 * 128 * 128)
