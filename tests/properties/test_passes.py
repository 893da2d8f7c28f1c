"""Laws that hold for every partition: conserved work, commuting passes, independence of the pipeline."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simulator.strategies.compile import check_plan, passes_of
from simulator.strategies.peak import peak_workspace
from simulator.strategies.protocols import PassStage
from simulator.workload.autodiff import differentiate
from simulator.workload.framework import Framework
from simulator.workload.lowering import LoweringContext, lower_embedding, lower_head, lower_layer
from simulator.workload.model import ModelSpec
from simulator.workload.model_files import load_model, model_names
from simulator.workload.ops import Block, Op, OpKind
from simulator.workload.plan import Plan
from simulator.workload.work import work_of

FRAMEWORK = Framework("plain", "training")
COMPUTE = (OpKind.GEMM, OpKind.GROUPED_GEMM, OpKind.ATTENTION)
BATCH, SEQUENCE = 4, 4096
SLOW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def lowered(model: ModelSpec) -> list[Block]:
    ctx = LoweringContext(model, BATCH, SEQUENCE, True, FRAMEWORK, SEQUENCE if model.encoder is not None else 0)
    blocks = [lower_embedding(ctx), *(lower_layer(layer, ctx) for layer, _ in model.layers), lower_head(ctx)]
    return [differentiate(b, "fp32") for b in blocks if b.forward]


def applied(block: Block, plan: Plan, order: tuple[int, ...] = ()) -> Block:
    passes = [p for p in passes_of(plan) if p.stage is PassStage.PARTITION]
    for step in [passes[i] for i in order] if order else passes:
        block = step.apply(block, plan, FRAMEWORK)
    return block


def replicated(op: Op) -> bool:
    """GEMMs whose outputs no partition cuts: every tensor-parallel rank computes them for all its tokens."""
    return any(part in op.name for part in ("router", "shared_gate", ".kv_a", ".q_a", "modulation"))


def flops(block: Block, plan: Plan) -> float:
    return sum(op.flops(plan.mesh) for op in block.ops if op.kind in COMPUTE and not replicated(op))


def summary(block: Block, plan: Plan) -> list[object]:
    ops = sorted((op.name, op.axis, repr(work_of(op, plan.mesh))) for op in block.ops)
    return [ops, sorted((t.name, t.bytes(plan.mesh)) for t in block.saved), block.boundary.bytes(plan.mesh)]


degrees = st.sampled_from([1, 2, 4, 8])
dense = st.sampled_from(
    ["gpt-7.5b", "llama-3.1-8b", "gemma-2-9b", "t5-11b", "falcon-40b", "gpt-oss-20b", "deepseek-v2-lite"]
)
contexts = st.sampled_from(["ring", "ulysses", "megatron-allgather"])


@SLOW
@given(dense, degrees, degrees, contexts, st.booleans())
def test_tensor_and_context_conserve_work(name: str, tensor: int, context: int, kind: str, split: bool) -> None:
    model = load_model(name)
    plan = Plan(tensor, context, sequence_parallel=split, options=(("context", kind),))
    if check_plan(model, plan):
        return
    for block in lowered(model):
        # KV heads that are fewer than the ranks are replicated: their projection is repeated, which is no partition.
        if any(_kv_heads(op) % tensor for op in block.forward):
            continue
        want = flops(block, Plan())
        assert flops(applied(block, plan), plan) * tensor * context == pytest.approx(want, rel=1e-9)


def _kv_heads(op: Op) -> int:
    return op.attention.kv_heads.parts[0][0] if op.attention is not None else 0


@SLOW
@given(
    st.sampled_from(["mixtral-8x7b", "qwen3-30b-a3b", "deepseek-v2-lite"]),
    degrees,
    st.sampled_from([1, 2]),
    degrees,
    st.sampled_from(["all-to-all", "fastmoe", "tutel", "node-limited"]),
)
def test_balanced_experts_conserve_work(name: str, tensor: int, context: int, expert: int, kind: str) -> None:
    model = load_model(name)
    options = (("expert", kind), ("expert_group", min(4, expert)))
    plan = Plan(tensor, context, data_parallel=8, expert_parallel=expert, sequence_parallel=tensor > 1, options=options)
    if check_plan(model, plan) or any(
        layer.attention.num_key_value_heads % tensor for layer, _ in model.layers if layer.attention
    ):
        return
    for block in lowered(model):
        assert flops(applied(block, plan), plan) * tensor * context == pytest.approx(flops(block, Plan()), rel=1e-9)


@SLOW
@given(
    st.sampled_from(["llama-3.1-8b", "mixtral-8x7b", "gpt-oss-20b", "t5-11b"]),
    st.sampled_from([2, 4]),
    st.sampled_from([2, 4]),
    contexts,
    st.booleans(),
)
def test_partition_passes_commute(name: str, tensor: int, context: int, kind: str, split: bool) -> None:
    """In every order but the declared one: exchanges of experts come after tensor parallelism."""
    model = load_model(name)
    experts = 2 if any(layer.mlp and layer.mlp.is_moe for layer, _ in model.layers) else 1
    plan = Plan(
        tensor, context, expert_parallel=experts, data_parallel=2, sequence_parallel=split, options=(("context", kind),)
    )
    if check_plan(model, plan):
        return
    names = [p.name for p in passes_of(plan) if p.stage is PassStage.PARTITION]
    for block in lowered(model):
        want = summary(applied(block, plan), plan)
        for order in itertools.permutations(range(len(names))):
            if experts > 1 and order.index(names.index("all-to-all")) < order.index(names.index("megatron-1d")):
                continue
            assert summary(applied(block, plan, order), plan) == want


@given(st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4]), st.sampled_from(["1f1b", "gpipe"]))
@settings(deadline=None, max_examples=20)
def test_a_layer_does_not_know_its_pipeline(tensor: int, pipeline: int, schedule: str) -> None:
    block = lowered(load_model("llama-3.2-1b"))[1]
    alone = Plan(tensor, sequence_parallel=True)
    staged = alone.with_(pipeline_parallel=pipeline, schedule=schedule)
    assert summary(applied(block, staged), staged) == summary(applied(block, alone), alone)


@given(contexts, st.booleans())
@settings(deadline=None, max_examples=20)
def test_more_ranks_never_need_more_memory(kind: str, split: bool) -> None:
    block = lowered(load_model("llama-3.1-8b"))[1]
    saved = []
    for ranks in (1, 2, 4, 8):
        plan = Plan(ranks, ranks // 2 or 1, sequence_parallel=split, options=(("context", kind),))
        made = applied(block, plan)
        kept = frozenset(t.name for t in made.saved)
        workspace = max(peak_workspace(ops, plan.mesh, kept) for ops in (made.forward, made.backward))
        saved.append(sum(t.bytes(plan.mesh) for t in made.saved) + workspace)
    assert saved == sorted(saved, reverse=True)


@pytest.mark.parametrize("name", model_names())
def test_every_model_compiles_and_every_read_has_a_source(name: str) -> None:
    """Tensors are parameters, saved, inputs of the block, or written before they are read."""
    model = load_model(name)
    for stack in (model, *model.towers, *((model.encoder,) if model.encoder else ())):
        plan = Plan(2, 2, data_parallel=2, sequence_parallel=True)
        if check_plan(stack, plan):
            plan = Plan()
        for block in lowered(stack):
            made = applied(block, plan)
            written: set[str] = {t.name for t in made.parameters}
            for op in made.forward:
                free = {t.name for t in op.reads} - written
                assert all(n.split("|")[0] in INPUTS or n.startswith("embedding.") for n in free), (op.name, free)
                written |= {t.name for t in op.writes}
            assert all(math.isfinite(work_of(op, plan.mesh).bytes) for op in made.ops)


INPUTS = {"x", "token_ids", "patches", "condition", "encoder.out"}
