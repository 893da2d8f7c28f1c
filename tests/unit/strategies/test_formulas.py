"""One rule of one strategy at a time, by hand: what whole runs do not tell apart from its opposite."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from simulator.registry import lookup
from simulator.serving.token_costs import served_block
from simulator.strategies.batching.fair import VirtualTokenCounter
from simulator.strategies.batching.fastserve import FastServe
from simulator.strategies.batching.preemptive import Priority
from simulator.strategies.batching.s3 import S3
from simulator.strategies.kv_cache.reserve import ReservePowerOfTwo
from simulator.strategies.migration.llumnix import Llumnix
from simulator.strategies.peak import peak_workspace
from simulator.strategies.pipeline.merak import ShiftedCriticalPath
from simulator.strategies.pipeline.mixed_pipe import MixedPipe
from simulator.strategies.pipeline.terapipe import balanced_slices
from simulator.strategies.protocols import ActionKind, BatchPlan
from simulator.strategies.router.informed import KVAware
from simulator.workload.dims import Dim
from simulator.workload.framework_files import load_framework
from simulator.workload.model_files import load_model
from simulator.workload.ops import Op, OpKind, Phase, Tensor, TensorClass, Tier
from simulator.workload.plan import Plan
from tests.unit.strategies.training_cases import layers


def view(**given: Any) -> Any:
    """What a policy sees of a replica, a request or a service."""
    return SimpleNamespace(**given)


class Request:
    """A request with the state that its policy keeps."""

    def __init__(self, data: Any) -> None:
        self.data = data


def test_a_chain_of_tensors_needs_two_of_them_at_once() -> None:
    """x0 → x1 → … → x8 of 1 KiB each: the one that is read and the one that is written, and none that is kept."""
    made = [Tensor(f"x{i}", TensorClass.ACTIVATION, (Dim.of("n", 512),), "bf16") for i in range(9)]
    ops = [
        Op(f"op{i}", OpKind.ELEMENTWISE, Phase.FORWARD, "bf16", (a,), (b,))
        for i, (a, b) in enumerate(itertools.pairwise(made))
    ]
    mesh = Plan().mesh
    assert peak_workspace(ops, mesh, frozenset()) == 2 * 1024
    assert peak_workspace(ops, mesh, frozenset(f"x{i}" for i in range(0, 9, 2))) == 1024
    gathered = Tensor("w", TensorClass.WORKSPACE, (Dim.of("n", 1024),), "bf16")
    use = Op("gather", OpKind.ELEMENTWISE, Phase.FORWARD, "bf16", (), (gathered,))
    assert peak_workspace([*ops, use], mesh, frozenset()) == 2 * 1024  # 2 KiB alone, after the chain has gone


@pytest.mark.parametrize(("linear", "quadratic"), [(3.0, 0.0), (0.0, 2.0), (1.0, 1e-3)])
def test_slices_of_a_sequence_take_equal_time(linear: float, quadratic: float) -> None:
    """TeraPipe (arXiv 2102.07988): a slice takes linear·n + quadratic·(b² − a²)/2 between its tokens a and b."""
    lengths = balanced_slices(65536, 8, linear, quadratic)
    ends = [sum(lengths[:k]) for k in range(9)]
    times = [linear * (b - a) + quadratic * (b * b - a * a) / 2 for a, b in itertools.pairwise(ends)]
    assert ends[-1] == 65536
    assert max(times) == pytest.approx(min(times), rel=1e-3)


@pytest.mark.parametrize(("microbatches", "ahead"), [(2, 2), (3, 3), (8, 3)])
def test_merak_runs_the_last_stage_but_one_a_forward_ahead(microbatches: int, ahead: int) -> None:
    orders = ShiftedCriticalPath().order(4, microbatches, 1)
    forwards = []
    for order in orders:
        kinds = [action.kind for action in order]
        first = next(i for i, kind in enumerate(kinds) if kind not in (ActionKind.FORWARD, ActionKind.RECOMPUTE))
        forwards.append(kinds[:first].count(ActionKind.FORWARD))
    usual = [min(4 - stage, microbatches) for stage in range(4)]  # of 1F1B
    assert forwards == [*usual[:2], ahead, usual[3]]


@pytest.mark.parametrize(("output", "reserved"), [(1, 1), (2, 2), (100, 128), (128, 128), (129, 256)])
def test_outputs_are_reserved_to_the_next_power_of_two(output: int, reserved: int) -> None:
    """vLLM's "Pow2" baseline (Kwon et al. 2023, figure 2): at most twice what is written."""
    request: Any = view(input_tokens=500, output_tokens=output)
    assert ReservePowerOfTwo().reserved_tokens(request, 0) == 500 + reserved
    assert ReservePowerOfTwo().reserved_tokens(request, 520) == min(520, 500 + reserved)


@pytest.mark.parametrize(("output", "allowed"), [(1, 16), (16, 16), (17, 32), (100, 112)])
def test_s3_rounds_an_exact_prediction_up_to_its_bucket(output: int, allowed: int) -> None:
    request = view(input_tokens=10, output_tokens=output, data=None, index=0)
    replica = view(
        waiting=[request], decoding=[], prefilling=[], paused=[], swapped=[], running=0, kv_blocks=10_000,
        watermark_blocks=0, block_size=16, max_model_len=0, max_num_seqs=0, max_batch_seqs=0, max_num_batched_tokens=0,
        secure_decodes=lambda: 0,
    )  # fmt: skip
    S3(bucket=16).schedule(replica, 0.0)
    assert request.data == allowed


def test_a_replica_gives_when_below_the_threshold_and_takes_when_above() -> None:
    """Freeness is free blocks less those of the head of the queue, per running request (Llumnix, OSDI 2024)."""

    def replica(index: int, held: int, running: int, *queue: int) -> Any:
        waiting = [view(prefill_target=tokens) for tokens in queue]
        return view(
            index=index, kv_blocks=100, kv_blocks_at=lambda now: held, waiting=waiting, running=running, block_size=16
        )

    policy = Llumnix(threshold=10.0)
    full, short, free, idle = replica(0, 90, 5), replica(1, 40, 4, 400), replica(2, 40, 4), replica(3, 0, 0)
    assert [policy.freeness(r, 0.0) for r in (full, short, free, idle)] == [2.0, 8.75, 15.0, 100.0]
    assert policy.pairs([full, short, free, idle], [], 0.0) == [(0, 3), (1, 2)]
    assert policy.pairs([free, idle], [replica(4, 0, 0)], 0.0) == [(4, 3)]


def test_kv_aware_counts_the_blocks_that_the_queue_will_ask_for() -> None:
    def replica(held: int, queued: int, blocks: int = 100) -> Any:
        return view(kv_blocks_at=lambda now: held, queued_tokens=queued, block_size=16, kv_blocks=blocks)

    router, request = KVAware(), view()
    assert router.load(request, replica(30, 160), 0.0) == pytest.approx(0.4)
    assert router.route(request, [replica(30, 160), replica(35, 0), replica(60, 0)], 0.0) == 1
    assert KVAware().route(request, [replica(50, 0), replica(60, 0, 200)], 0.0) == 1  # a share, not a count


def test_a_client_with_a_turn_behind_it_lets_the_other_go_first() -> None:
    """VTC (arXiv 2401.00588): the least served client next; who is chosen is charged for its prompt."""
    policy = VirtualTokenCounter()
    queue = [view(client=c, input_tokens=100, index=i) for i, c in enumerate((0, 0, 0, 1, 1))]
    policy.counters.update({0: 0.0, 1: 150.0})
    order = [(r.client, r.index) for r in policy.order(view(waiting=queue), 5)]
    assert order == [(0, 0), (0, 1), (1, 3), (0, 2), (1, 4)]  # counters 0, 100, 150, 200, 250


@pytest.mark.parametrize("groups", [{}, {"parameter_group": 4}, {"gradient_group": 4}])
def test_states_of_groups_exclude_a_pipeline_only_where_they_are_sharded(groups: dict[str, int]) -> None:
    plan = Plan().with_(
        data_parallel=4, pipeline_parallel=2, sharding="paro",
        **({"parameter_group": 1, "gradient_group": 1} | groups),
    )  # fmt: skip
    paro = lookup("sharding", "paro")()
    assert bool(paro.check(load_model("gpt3-6.7b"), plan)) is bool(groups)


def test_a_plan_holds_until_the_first_that_runs_has_had_its_quantum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Level k has ratio^k iterations (FastServe, arXiv 2305.05920)."""
    policy = FastServe(ratio=2, levels=6, promote_after=100.0)
    services = [view(level=level, used=used, since=None) for level, used in ((3, 2), (2, 1), (5, 0))]
    running = [Request(service) for service in services]
    waiting = Request(view(level=1, used=0, since=7.0))
    monkeypatch.setattr(policy, "_account", lambda *given: None)
    monkeypatch.setattr(policy, "choose", lambda replica: (BatchPlan(), running))
    replica = view(decoding=running, paused=[], prefilling=[], waiting=[waiting], swapped=[])
    plan = policy.schedule(replica, 10.0)
    assert plan.horizon == min(8 - 2, 4 - 1)  # the last level has no end
    assert plan.until == 7.0 + 100.0


@pytest.mark.parametrize(("stage", "pipeline", "refused"), [(1, 2, False), (2, 1, False), (2, 2, True), (3, 2, True)])
def test_zero_beyond_the_optimizer_states_excludes_a_pipeline(stage: int, pipeline: int, refused: bool) -> None:
    plan = Plan().with_(data_parallel=4, pipeline_parallel=pipeline, zero_stage=stage)
    assert bool(lookup("sharding", "zero")().check(load_model("gpt3-6.7b"), plan)) is refused


@pytest.mark.parametrize(("missing", "speed"), [((), 1.0), ((3,), 56 / 64), ((1, 2, 3), 40 / 64)])
def test_varuna_goes_on_with_the_depth_that_uses_most_of_what_is_left(missing: tuple[int, ...], speed: float) -> None:
    """8 nodes of 8, tensor 8: a node lost leaves seven columns, which a pipeline of seven stages uses all."""
    job: Any = view(
        nodes=8, per_node=8, layers=32, plan=Plan().with_(tensor_parallel=8, pipeline_parallel=4, data_parallel=2)
    )
    assert lookup("recovery", "varuna")().restore(job, missing).speed == pytest.approx(speed)


def chosen(waiting: dict[str, int], running: dict[str, int], free: int) -> tuple[list[str], list[str]]:
    """Who gets a prompt in and who gives blocks up; requests in order of urgency with the blocks they need or hold."""
    made = {name: view(priority=0, arrival=float(i), index=i, remaining_prefill=10, name=name)
            for i, name in enumerate(sorted({**waiting, **running}))}  # fmt: skip
    made = {name: Request(seen) for name, seen in made.items()}
    for one in made.values():
        one.__dict__ |= vars(one.data)
    replica = view(
        waiting=[made[n] for n in waiting], decoding=[made[n] for n in running], prefilling=[], paused=[], swapped=[],
        free_blocks=free, watermark_blocks=0, max_num_batched_tokens=10_000, max_batch_seqs=10,
        blocks_for=lambda r: waiting[r.name], held=lambda r: running[r.name], frees=lambda r: running[r.name],
    )  # fmt: skip
    plan, _ = Priority().choose(replica)
    moves = plan.moves
    return [r.name for r, _ in plan.prefill], [r.name for r in moves.swap_out] if moves else []


@pytest.mark.parametrize(
    ("free", "prompts", "victims"),
    [
        (10, ["b", "c"], []),  # one kept free, one for the token of a, four each: just enough
        (9, ["b", "c"], ["e"]),  # the last to run gives first
        (6, ["b", "c"], ["e", "d"]),
        (5, ["b"], ["e"]),  # with e and d gone c would still be one short: d stays
    ],
)
def test_room_is_what_is_free_less_what_was_promised(free: int, prompts: list[str], victims: list[str]) -> None:
    """a decodes; b and c come with four blocks each; d and e, less urgent, hold three and one."""
    got = chosen({"b": 4, "c": 4}, {"a": 2, "d": 3, "e": 1}, free)
    assert got == (prompts, victims)


@pytest.mark.parametrize(("ranks", "chunks", "microbatches"), [(2, 1, 8), (4, 1, 12), (2, 3, 12)])
def test_a_part_of_the_mixed_pipe_runs_as_far_ahead_as_parts_are_behind_it(
    ranks: int, chunks: int, microbatches: int
) -> None:
    """FTPipe's work schedulers: with k parts behind it, k + 1 micro-batches between forward and backward at most.

    With one part per rank the first gets there, as nothing holds its forwards back but this.
    """
    orders = MixedPipe().steps_order(ranks, microbatches, chunks, 1)
    for rank, order in enumerate(orders):
        for chunk in range(chunks):
            behind = ranks * chunks - 1 - (chunk * ranks + rank)
            live = list(itertools.accumulate(
                1 if action.kind is ActionKind.FORWARD else -1 for action in order if action.chunk == chunk
            ))  # fmt: skip
            assert max(live) <= behind + 1 and live[-1] == 0
            if chunks == 1 and not rank:
                assert max(live) == behind + 1


@pytest.mark.parametrize("ranks", [2, 4])
def test_experts_whole_on_tensor_ranks_have_the_rows_of_their_share(ranks: int) -> None:
    """A part of the experts and, where they are loaded alike, of the rows, rounded up; not one weight more or less.

    Seven tokens go to two of eight experts: 14 rows, of which a rank of two has 7 and one of four 4.
    """
    model, vllm = load_model("mixtral-8x7b"), load_framework("vllm-0.10")
    layer, rows = model.layers[0][0], -(-14 // ranks)
    sliced = Plan(tensor_parallel=ranks)
    whole = sliced.with_(expert_parallel=ranks, expert="tensor-ranks")
    by_plan = {plan: served_block(layer, model, plan, vllm, 7) for plan in (sliced, whole)}
    held = [
        sum(t.bytes(plan.mesh) for t in block.states if "experts" in t.dim_names) for plan, block in by_plan.items()
    ]
    assert held[0] == held[1] == 8 / ranks * 3 * 4096 * 14336 * 2
    work = {op.name: op.flops(whole.mesh) for op in by_plan[whole].forward}
    assert work["mlp.expert_up"] == 2 * work["mlp.expert_down"] == 2 * rows * 4096 * 2 * 14336  # gate and up together
    sent = [sorted(op.reads[0].bytes(p.mesh) for op in b.forward if op.collective) for p, b in by_plan.items()]
    assert sent[0] == sent[1]  # the sum over the tensor ranks joins the experts


@pytest.mark.parametrize("rows", [2, 4, 10])
def test_norms_of_served_grids_sum_two_numbers_per_token(rows: int) -> None:
    """Mean and variance in fp32 of a stream whose width is cut, over each axis that cuts it."""
    model, tokens = load_model("gpt3-13b"), 1000
    layout = Plan(tensor_parallel=20).with_(tensor="weight-stationary-2d", tensor_rows=rows)
    made = served_block(model.layers[0][0], model, layout, load_framework("vllm-0.10"), tokens)
    sums = [op.reads[0].bytes(layout.mesh) for op in made.forward if ".sums." in op.name]
    assert sums and set(sums) == {2 * 4 * tokens}


def test_a_stage_of_mobius_keeps_room_for_itself_and_the_parameters_of_the_next() -> None:
    """Feng et al. (ASPLOS 23): the next stage is loaded meanwhile, when gradients of this one have not yet left."""
    plan = Plan(pipeline_parallel=2, virtual_stages=4, schedule="breadth-first", precision="fp16")
    plain, cycled = (layers(p)[0] for p in (plan, plan.with_(offload="mobius", microbatches=4, stage_layers=3)))
    weights, gradients = (
        sum(t.bytes(plan.mesh) for t in plain.states if t.cls is cls) for cls in (TensorClass.PARAM, TensorClass.GRAD)
    )
    room = sum(t.bytes(plan.mesh) for t in cycled.states if t.cls is TensorClass.WORKSPACE and t.tier is Tier.HBM)
    assert room == 3 * (2 * weights + gradients)
