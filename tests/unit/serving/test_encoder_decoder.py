"""Encoder-decoder models: the prompt meets the encoder once, every generated token the decoder only."""

from __future__ import annotations

import pytest

from simulator.serving.estimate import replica_cost
from simulator.serving.memory import cache_size
from simulator.serving.wrapped_cost import EncoderDecoderCost
from simulator.strategies.protocols import BatchShape
from simulator.workload.counting import parameters
from simulator.workload.model_files import load_model
from simulator.workload.ops import TensorClass
from tests.serving_deployments import cluster, deployment, replica

T5 = load_model("flan-t5-xl")
ONE = BatchShape((), 1, 100, 100)


def cost() -> EncoderDecoderCost:
    found = replica_cost(deployment("flan-t5-xl", max_model_len=512), cluster())
    assert isinstance(found, EncoderDecoderCost)
    return found


def test_all_weights_are_on_the_device() -> None:
    (stage,) = cache_size(deployment("flan-t5-xl", max_model_len=512), cluster().groups[0].node).ledger.stages
    held = stage.by_class[TensorClass.PARAM.value]
    assert T5.encoder is not None
    assert parameters(T5) > parameters(T5.encoder)
    assert held == pytest.approx(2 * parameters(T5), rel=0.03)  # embedding, head and norms by their own rules


def test_a_token_meets_the_decoder_only() -> None:
    """Bytes of a decode step: the decoder's matrices less keys and values of cross-attention, and the head."""
    layer, hidden = T5.layers[0][0], T5.hidden_size
    assert layer.attention is not None and layer.cross_attention is not None and layer.mlp is not None
    inner = layer.attention.num_attention_heads * layer.attention.head_dim
    matrices = 4 * hidden * inner + 2 * hidden * inner + 3 * hidden * layer.mlp.intermediate_size
    expected = 2 * (24 * matrices + T5.vocab_size * hidden)
    read = cost().floor(ONE) * cluster().groups[0].node.accelerator.memory_bandwidth
    assert read == pytest.approx(expected, rel=0.02)
    assert cost().iteration(ONE) == replica("flan-t5-xl").iteration(ONE)


def test_a_prompt_meets_the_encoder_once() -> None:
    """Prompts lengthen the encoder's part; the decoder sees one token of each, however long they are."""
    made = cost()
    decoder = [made.base.iteration(made.shape(BatchShape(((n, 0),), 0, 0))) for n in (64, 512)]
    assert decoder[0] == decoder[1]
    short, long = (made.added(BatchShape(((n, 0),), 0, 0)) for n in (512, 4096))
    assert 5 < long / short < 9
    # FLOPs of the encoder and of keys and values for the decoder, at the device's peak: a bound.
    peak = cluster().groups[0].node.accelerator.rate("bf16")
    assert T5.encoder is not None
    inner = 32 * 64
    flops = 2 * 4096 * (24 * (4 * T5.hidden_size * inner + 3 * T5.hidden_size * 5120) + 24 * 2 * T5.hidden_size * inner)
    assert flops / peak < long < 4 * flops / peak
    assert made.added(ONE) == 0.0
    assert made.iteration(BatchShape(((64, 0),), 1, 100, 100)) > made.iteration(ONE)
