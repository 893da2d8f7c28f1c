"""Context parallelism: conserved work, closed forms of its traffic, and the imbalance of causal attention."""

from __future__ import annotations

from dataclasses import replace

import pytest
from partitions import FUSED, flops, layer_of, messages, plan_of, same_work

from simulator.engine.streams import run_streams
from simulator.strategies.compile import check_plan
from simulator.training.block_program import dependencies
from simulator.training.stages import compiled_layers
from simulator.workload.framework import Framework
from simulator.workload.framework_files import load_framework
from simulator.workload.jobs import Batch, TrainingJob
from simulator.workload.model_files import load_model
from simulator.workload.ops import Block, OpKind
from simulator.workload.plan import Plan
from simulator.workload.work import work_of

KINDS = ("ring", "ulysses", "megatron-allgather")
S, H, HEAD, KV = 8192, 4096, 128, 8  # llama-3.1-8b: 32 heads, 8 of keys and values


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kernel", ["flash-2", "unfused"])
def test_work_is_conserved(kind: str, kernel: str) -> None:
    framework = Framework("f", "training", attention_kernel=kernel)  # type: ignore[arg-type]
    plan = plan_of(context_parallel=4, tensor_parallel=2, context=kind)
    cut, whole = (layer_of("llama-3.1-8b", p, 1, S, framework) for p in (plan, Plan()))
    assert flops(cut.ops, plan) * 8 == pytest.approx(flops(whole.ops, Plan()), rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_activations_are_cut(kind: str) -> None:
    plan = plan_of(context_parallel=4, context=kind)
    cut, whole = (layer_of("llama-3.1-8b", p, 1, S) for p in (plan, Plan()))
    saved = sum(t.bytes(plan.mesh) for t in cut.saved)
    full = sum(t.bytes(Plan().mesh) for t in whole.saved)
    # Ulysses keeps the output of attention in both layouts: for attention's backward and for that of the projection.
    extra = 2 * S * H / 4 if kind == "ulysses" else 0
    assert saved == pytest.approx(full / 4 + extra, rel=1e-12)


def test_an_output_kept_by_tokens_is_sent_once_more_instead_of_kept_twice() -> None:
    plan = plan_of(context_parallel=4, context="ulysses")
    framework = load_framework("megatron-core-0.8")
    twice = replace(framework, saves_output_by_tokens=False)
    again, kept = (layer_of("llama-3.1-8b", plan, 1, S, f) for f in (framework, twice))
    output = 2 * S * H / 4
    assert sum(t.bytes(plan.mesh) for t in kept.saved) - sum(t.bytes(plan.mesh) for t in again.saved) == output
    assert messages(again.forward, plan, "all_to_all", "cp") == messages(kept.forward, plan, "all_to_all", "cp")
    more = messages(again.backward, plan, "all_to_all", "cp")
    assert more == [output, *messages(kept.backward, plan, "all_to_all", "cp")]


def test_ring_sends_every_chunk_past_every_rank() -> None:
    ranks = 4
    plan = plan_of(context_parallel=ranks)
    block = layer_of("llama-3.1-8b", plan, 1, S)
    chunk = 2 * (S / ranks) * 2 * KV * HEAD  # keys and values in bf16
    assert messages(block.forward, plan, "send_recv", "cp") == [chunk] * (ranks - 1)
    # Keys and values once more, and their gradients all the way home.
    assert messages(block.backward, plan, "send_recv", "cp") == [chunk] * (2 * ranks - 1)


@pytest.mark.parametrize("ranks", [2, 4])
def test_steps_of_a_ring_see_the_keys_of_one_chunk_each(ranks: int) -> None:
    plan = plan_of(context_parallel=ranks)
    steps = [op.attention for op in layer_of("llama-3.1-8b", plan, 1, S).forward if op.attention]
    (whole,) = (op.attention for op in layer_of("llama-3.1-8b", Plan(), 1, S).forward if op.attention)
    assert [shape.kv_len for shape in steps] == pytest.approx([whole.kv_len / ranks] * ranks)


@pytest.mark.parametrize(("compute", "send"), [(3.0, 1.0), (1.0, 3.0), (2.0, 2.0)])
def test_ring_forward_hides_sends_under_attention(compute: float, send: float) -> None:
    # Liu et al., arXiv 2310.01889: a step takes the longer of block attention and send.
    ranks = 8
    plan = plan_of(context_parallel=ranks)
    block = layer_of("llama-3.1-8b", plan, 1, S)
    ops = [op for op in block.forward if op.name.startswith("attention.core.")]
    schedule = run_streams(
        [send if op.kind is OpKind.P2P else compute for op in ops], [op.stream for op in ops], dependencies(ops)
    )
    assert schedule.makespan == pytest.approx((ranks - 1) * max(compute, send) + compute)


def test_ulysses_moves_four_s_h_over_p() -> None:
    # Jacobs et al., arXiv 2309.14509 §3.2: with as many heads of keys as of queries, 4·s·h/P per layer and direction.
    ranks, s, h = 8, 2048, 4096
    plan = plan_of(context_parallel=ranks, context="ulysses")
    block = layer_of("gpt3-6.7b", plan, 1, s)
    # Queries, keys, values and the output are sent one by one, and so are their gradients.
    for ops in (block.forward, block.backward):
        assert messages(ops, plan, "all_to_all", "cp") == [2 * s * h / ranks] * 4


def test_ulysses_sends_fewer_keys_where_groups_share_them() -> None:
    plan = plan_of(context_parallel=4, context="ulysses")
    block, queries, keys = layer_of("llama-3.1-8b", plan, 1, S), 2 * S * H / 4, 2 * S * KV * HEAD / 4
    assert messages(block.forward, plan, "all_to_all", "cp") == [queries, keys, keys, queries]
    assert messages(block.backward, plan, "all_to_all", "cp") == [queries, queries, keys, keys]


@pytest.mark.parametrize(("framework", "copies"), [("pytorch-eager", 1), ("megatron-core-0.8", 2)])
def test_what_ulysses_exchanges_is_copied_by_rank_and_where_chunks_come_in_pairs_into_order(
    framework: str, copies: int
) -> None:
    ranks, s, h = 8, 2048, 4096
    plan = plan_of(context_parallel=ranks, context="ulysses")
    block = layer_of("gpt3-6.7b", plan, 1, s, load_framework(framework))
    again = copies == 2  # the output once more, for the backward
    for ops, more in ((block.forward, 0), (block.backward, again)):
        moved = [op for op in ops if op.name.endswith((".by_rank", ".in_order"))]
        assert len(moved) == (2 + more) * copies
        # Read and written once per copy: the projection and the output, or their gradients.
        assert sum(work_of(op, plan.mesh, 1).bytes for op in moved) == 2 * 2 * (4 + more) * s * h / ranks * copies


def test_all_gather_moves_all_keys_and_values() -> None:
    plan = plan_of(context_parallel=4, context="megatron-allgather")
    block = layer_of("llama-3.1-8b", plan, 1, S)
    whole = 2 * S * 2 * KV * HEAD
    assert messages(block.forward, plan, "all_gather", "cp") == [whole]
    assert messages(block.backward, plan, "all_gather", "cp") == [whole]
    assert messages(block.backward, plan, "reduce_scatter", "cp") == [whole]


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_contiguous_split_burdens_the_last_rank(ranks: int) -> None:
    # The last of c ranks does c − 1 full squares and half of its own: (2c − 1)/c of the mean, up to the diagonal.
    balanced = plan_of(context_parallel=ranks)
    contiguous = balanced.with_(context_split="contiguous")
    work = [
        sum(op.flops(p.mesh) for op in layer_of("llama-3.1-8b", p, 1, S).forward if op.kind is OpKind.ATTENTION)
        for p in (contiguous, balanced)
    ]
    assert work[0] / work[1] == pytest.approx((2 * ranks - 1) / ranks, rel=1e-3)


def test_contiguous_ranks_together_do_the_whole() -> None:
    # Sum over ranks r of the mean context of the queries in chunk r, against the mean over the whole sequence.
    from simulator.workload.lowering_attention import mean_context

    for window in (0, 1000, 3000):
        chunks = [mean_context(1024, 1024 * (r + 1), True, window) for r in range(8)]
        assert sum(chunks) / 8 == pytest.approx(mean_context(8192, 8192, True, window))


@pytest.mark.parametrize("window", [512, 4096])
def test_window_is_found_back_from_the_mean(window: int) -> None:
    from simulator.strategies.context.tokens import busiest_context
    from simulator.workload.lowering_attention import mean_context

    block = layer_of("llama-3.1-8b", Plan(), 1, S, FUSED)
    op = next(o for o in block.forward if o.kind is OpKind.ATTENTION)
    assert op.attention is not None
    banded = replace(op, attention=replace(op.attention, kv_len=mean_context(S, S, True, window)))
    assert busiest_context(banded, 4) == pytest.approx(mean_context(S // 4, S, True, window), rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_one_rank_changes_nothing(kind: str) -> None:
    assert same_work(layer_of("llama-3.2-1b", Plan()), layer_of("llama-3.2-1b", Plan().with_(context=kind)), Plan())


def test_reasons_name_what_works() -> None:
    llama, mamba = load_model("llama-3.1-8b"), load_model("mamba-2.8b")
    (reason,) = check_plan(llama, plan_of(context_parallel=3, context="ulysses"))
    assert "32 heads" in reason and "1, 2, 4, 8, 16, 32" in reason
    (reason,) = check_plan(mamba, plan_of(context_parallel=2, context="ulysses"))
    assert "all channels" in reason and "use context ring" in reason
    (reason,) = check_plan(llama, plan_of(context_parallel=2, context_split="striped"))
    assert "zig-zag" in reason


RECURRENT = ("mamba2-2.7b", "mamba-2.8b", "qwen3-next-80b-a3b", "minimax-text-01", "jamba-v0.1")


def recurrent_layers(name: str, plan: Plan) -> list[Block]:
    model = load_model(name)
    job = TrainingJob("job", model, FUSED, Batch(1, 1, S), plan)
    found = {id(b): b for b in compiled_layers(job)}.values()
    return [b for b in found if any("state" in op.tags for op in b.forward)]


@pytest.mark.parametrize("name", RECURRENT)
@pytest.mark.parametrize("kind", KINDS)
def test_recurrent_mixers_keep_their_work(name: str, kind: str) -> None:
    plan = plan_of(context_parallel=4, context=kind)
    if check_plan(load_model(name), plan):
        assert kind == "ulysses" and name in ("mamba-2.8b", "jamba-v0.1")  # Mamba-1 mixes all channels
        return
    for cut, whole in zip(recurrent_layers(name, plan), recurrent_layers(name, Plan()), strict=True):
        assert 4 * flops(cut.ops, plan) == pytest.approx(flops(whole.ops, Plan()), rel=1e-12)
        scans = [sum(op.flops(p.mesh) for op in b.ops if "state" in op.tags) for b, p in ((cut, plan), (whole, Plan()))]
        assert 4 * scans[0] == pytest.approx(scans[1], rel=1e-12)


@pytest.mark.parametrize(("kind", "split", "count"), [("ring", "contiguous", 3), ("ring", "zig-zag", 6)])
def test_states_travel_whatever_the_length(kind: str, split: str, count: int) -> None:
    # LASP (arXiv 2404.02882): a message is one state, heads × head_dim × state_size (mamba2-2.7b: 80 × 64 × 128, fp32).
    plan = plan_of(context_parallel=4, context=kind, context_split=split)
    block = recurrent_layers("mamba2-2.7b", plan)[0]
    state = 4 * 80 * 64 * 128
    assert [m for m in messages(block.forward, plan, "send_recv", "cp") if m > 1e6] == [state] * count
    assert messages(block.backward, plan, "send_recv", "cp") == [state] * count
    halo = [m for m in messages(block.forward, plan, "send_recv", "cp") if m < 1e6]
    runs = 2 if split == "zig-zag" else 1
    assert halo == [2 * runs * 3 * (80 * 64 + 2 * 128)]  # the last taps − 1 tokens of x, B and C


def test_gathered_states_are_one_collective() -> None:
    # LASP-2 (arXiv 2502.07563): one all-gather of all states each way; two runs of tokens per rank.
    plan = plan_of(context_parallel=4, context="megatron-allgather")
    block = recurrent_layers("mamba2-2.7b", plan)[0]
    for ops in (block.forward, block.backward):
        assert messages(ops, plan, "all_gather", "cp") == [2 * 4 * 4 * 80 * 64 * 128]


def test_a_state_costs_less_than_keys_and_values_on_long_sequences() -> None:
    # The point of linear attention: traffic of ring attention grows with the sequence, that of states does not.
    plan = plan_of(context_parallel=4)
    dense = sum(messages(layer_of("llama-3.1-8b", plan, 1, 131072).forward, plan, "send_recv", "cp"))
    linear = sum(messages(recurrent_layers("mamba2-2.7b", plan)[0].forward, plan, "send_recv", "cp"))
    assert linear < 0.1 * dense
