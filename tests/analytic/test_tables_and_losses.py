"""What a micro-batch pays for the ends of a model beside their GEMMs: the gradient of a whole table, passes of a loss
over its logits, and gathers of what was reduced to shards."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simulator.training.stages import compiled_layers
from simulator.workload.framework_files import load_framework
from simulator.workload.jobs import Batch, TrainingJob
from simulator.workload.model_files import load_model
from simulator.workload.ops import Block
from simulator.workload.plan import Plan
from simulator.workload.work import work_of
from tests.analytic.partitions import layer_of, messages, plan_of

TOKENS = 4096


def ends(model: str, plan: Plan, framework: str, fused: bool = False) -> tuple[Block, Block]:
    """Embedding and head."""
    preset = replace(load_framework(framework), fused_cross_entropy=fused)
    job = TrainingJob("job", load_model(model), preset, Batch(plan.data_parallel, 1, TOKENS), plan)
    layers = compiled_layers(job)
    return layers[0], layers[-1]


@pytest.mark.parametrize("ranks", [1, 8])
@pytest.mark.parametrize(
    ("framework", "precision", "accumulated"), [("megatron-core-0.8", "bf16", 4), ("megatron-lm-2022", "fp16", 2)]
)
def test_a_table_is_zeroed_and_added_whole(framework: str, precision: str, accumulated: int, ranks: int) -> None:
    plan = plan_of(tensor_parallel=ranks, precision=precision)
    embedding, _ = ends("llama-3-70b", plan, framework)
    (added,) = (op for op in embedding.backward if op.name.endswith(".accumulate"))
    elements = 128256 * 8192 / ranks
    # Set to zero, read, and the accumulator read and written.
    assert work_of(added, plan.mesh).bytes == elements * (2 + 2 + 2 * accumulated)
    assert added.writes[-1].name == "embedding.weight.grad"


def test_autograd_hands_a_table_over_without_an_addition() -> None:
    embedding, _ = ends("llama-3-70b", Plan(), "fsdp")
    assert not [op for op in embedding.backward if op.name.endswith(".accumulate")]


def test_gradients_of_every_parameter_are_added_where_gemms_do_not_add_them() -> None:
    # SC21: read, and the accumulator in 16 bits read and written: 6 bytes per parameter and micro-batch. Later: none.
    plan = plan_of(precision="fp16", tensor_parallel=8)
    before, after = (layer_of("gpt3-6.7b", plan, 1, 2048, load_framework(f"megatron-lm-{y}")) for y in (2021, 2022))
    added = [op for op in before.backward if op.name.endswith(".accumulate")]
    held = sum(t.elements(plan.mesh) for t in before.parameters)
    assert len(added) == len(before.parameters)
    assert sum(work_of(op, plan.mesh).bytes for op in added) == 6 * held
    assert not [op for op in after.backward if op.name.endswith(".accumulate")]


@pytest.mark.parametrize("model", ["llama-3-70b", "gpt3-6.7b"])  # with and without an addition of positions
def test_what_the_embedding_reduced_to_shards_is_gathered_once_in_the_backward(model: str) -> None:
    plan = plan_of(tensor_parallel=4, sequence_parallel=True)
    embedding, _ = ends(model, plan, "megatron-core-0.8")
    whole = 2.0 * TOKENS * load_model(model).hidden_size
    assert messages(embedding.forward, plan, "reduce_scatter", "tp") == [whole]
    assert messages(embedding.backward, plan, "all_gather", "tp") == [whole]
    unsplit, _ = ends(model, plan_of(tensor_parallel=4), "megatron-core-0.8")
    assert messages(unsplit.backward, plan, "all_gather", "tp") == []


@pytest.mark.parametrize(("framework", "passes"), [("megatron-core-0.8", 5), ("llm-foundry-0.3", 3)])
def test_a_fused_loss_passes_over_its_logits(framework: str, passes: int) -> None:
    # A split vocabulary needs two kernels forward: one reads, one reads and writes; a whole one is read once. Both read
    # and write in the backward.
    _, head = ends("llama-3-70b", Plan(), framework, fused=True)
    moved = [work_of(op, Plan().mesh).bytes for op in (*head.forward, *head.backward) if op.name.startswith("head.")
             and op.kind.value == "elementwise"]  # fmt: skip
    assert sum(moved) == pytest.approx(passes * 2 * TOKENS * 128256, rel=1e-3)


@pytest.mark.parametrize(
    ("model", "ranks", "queries"), [("llama-3-70b", 1, 8192), ("llama-3-70b", 8, 0), ("gpt3-6.7b", 1, 0)]
)
def test_queries_of_several_groups_are_copied_and_gradients_joined(model: str, ranks: int, queries: int) -> None:
    # A single group and groups of one query are views; the fused gradient is written once in any case.
    plan = plan_of(tensor_parallel=ranks)
    spec, layer = load_model(model), layer_of(model, plan, 1, TOKENS, load_framework("megatron-core-0.8"))
    copied = sum(
        work_of(op, plan.mesh).bytes for op in layer.forward if op.name in ("attention.group", "attention.split")
    )
    joined = sum(
        work_of(op, plan.mesh).bytes
        for op in layer.backward
        if op.name.startswith(("attention.group", "attention.split"))
    )
    attention = spec.layers[0][0].attention
    assert attention is not None
    width = (attention.num_attention_heads + 2 * attention.num_key_value_heads) * attention.head_dim / ranks
    assert copied == 2 * 2 * TOKENS * queries
    assert joined == 2 * 2 * TOKENS * width
