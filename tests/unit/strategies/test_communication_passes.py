"""Communication strategies: knobs at their ends give known baselines, volumes follow closed forms."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from simulator.cost.network import CommGroup
from simulator.results.estimate import Estimate
from simulator.strategies.communication.aggregation import byteps_volume, server_volume
from simulator.strategies.rank_layout import RankLayout
from simulator.training.gradient_queue import (
    GradientItem,
    cross_step_delay,
    fused_update_end,
    gradient_items,
    run_queue,
)
from simulator.training.pipelined import PipelinedJob
from simulator.workload.ops import Collective
from simulator.workload.plan import Plan
from tests.unit.strategies.training_cases import FRAMEWORK, RANKS, cluster, estimate, job, layers

DP = Plan(data_parallel=RANKS)


def same(one: Estimate, other: Estimate) -> None:
    assert one.feasible and other.feasible, (one.reason, other.reason)
    assert one.seconds == pytest.approx(other.seconds, rel=1e-12)
    assert dict(one.traffic.by_link) == pytest.approx(dict(other.traffic.by_link), rel=1e-12)
    assert one.memory.worst.peak == pytest.approx(other.memory.worst.peak, rel=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {"communication": "1-bit-adam", "warmup_share": 1.0},
        {"communication": "top-k", "density": 1},
        {"communication": "cocktail-sgd", "random_share": 1, "top_share": 1, "quantized_bits": 32},
        {"communication": "optimus-cc", "compression_ratio": 1},
        {"communication": "optimus-cc", "stage_share": 0},
        {"communication": "local-steps", "local_steps": 1},
        {"communication": "0/1-adam", "warmup_share": 1.0, "local_steps": 1},
    ],
)
def test_knob_at_its_end_is_the_baseline(options: dict[str, object]) -> None:
    same(estimate(DP.with_(**options)), estimate(DP))


def volume(plan: Plan) -> float:
    """Bytes a rank sends for one layer's gradients, over all links."""
    layout = RankLayout(plan, cluster().groups[0].node)
    total = 0.0
    for op in layers(plan)[0].reduce:
        if op.collective is not None:
            size = sum(t.bytes(plan.mesh) for t in op.reads) * op.wire.volume / op.wire.every
            total += sum(layout.wire_bytes(op.collective, size, layout.group(op.axis)).values())
    return total


@pytest.mark.parametrize(
    ("options", "ratio"),
    [
        ({"communication": "1-bit-adam"}, 16),
        ({"communication": "1-bit-adam", "warmup_share": 0.15}, 1 / (0.15 + 0.85 / 16)),
        ({"communication": "1-bit-lamb"}, 16),
        ({"communication": "0/1-adam", "local_steps": 4}, 64),
        ({"communication": "top-k", "density": 0.01}, 16 / (0.01 * 48)),
        ({"communication": "cocktail-sgd", "random_share": 0.1, "top_share": 0.01}, 16 / (0.1 * 0.01 * 36)),
        ({"communication": "optimus-cc", "compression_ratio": 8}, 8),
        ({"communication": "optimus-cc", "compression_ratio": 8, "stage_share": 0.5}, 1 / (0.5 / 8 + 0.5)),
        ({"communication": "local-steps", "local_steps": 100}, 100),
    ],
)
def test_compression_ratios(options: dict[str, object], ratio: float) -> None:
    assert volume(DP) / volume(DP.with_(**options)) == pytest.approx(ratio, rel=1e-6)


def test_error_feedback_takes_memory_and_encoding_takes_time() -> None:
    plain, packed = (DP, DP.with_(communication="1-bit-adam"))
    parameters = sum(t.elements() for t in layers(plain)[0].parameters)
    held = [sum(t.bytes(p.mesh) for t in layers(p)[0].states) for p in (plain, packed)]
    assert held[1] - held[0] == 4 * parameters
    assert any(op.name.endswith("encode") for op in layers(packed)[0].reduce)
    assert any("1-bit-adam" in warning for warning in estimate(packed).warnings)
    assert not any("1-bit" in w for w in estimate(plain).warnings)


# -- aggregation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 4, 8, 64])
def test_byteps_between_all_reduce_and_parameter_servers(n: int) -> None:
    assert byteps_volume(n, 0) == pytest.approx(2 * (n - 1) / n)  # ring all-reduce
    assert byteps_volume(n, n) == pytest.approx(1.0)  # a server for every worker
    volumes = [byteps_volume(n, k) for k in range(n + 1)]
    assert volumes == sorted(volumes, reverse=True)


@pytest.mark.parametrize(("n", "k"), [(4, 2), (8, 3), (16, 16)])
def test_byteps_split_loads_both_kinds_of_machine_equally(n: int, k: int) -> None:
    """An independent derivation: with GPU shares y and CPU shares x, n·x = 1 + (n−2)·y and k·x + n·y = 1."""
    volume = byteps_volume(n, k)
    x = volume / n
    y = (1 - k * x) / n
    assert 1 + (n - 2) * y == pytest.approx(volume)


def test_infinitely_many_servers_leave_the_workers_own_link() -> None:
    assert server_volume(64, 1e9) == 1.0
    assert server_volume(64, 1) == 64
    one, many, network = (
        estimate(DP.with_(communication=c, **o))
        for c, o in (
            ("parameter-server", {"servers": 1}),
            ("parameter-server", {"servers": 1e9}),
            ("in-network", {}),
        )
    )
    same(many, network)
    assert one.seconds > many.seconds


def test_switches_halve_what_a_worker_sends() -> None:
    """Ψ instead of 2(n−1)/n·Ψ."""
    plan = DP.with_(communication="in-network")
    assert volume(DP) / volume(plan) == pytest.approx(2 * (RANKS - 1) / RANKS, rel=0.07)
    alone = sum(t.bytes(plan.mesh) for op in layers(plan)[0].reduce for t in op.reads)
    assert volume(plan) == alone


def test_cold_parameters_go_to_servers() -> None:
    cold = estimate(DP.with_(communication="in-network", hot_share=0, servers=2))
    same(cold, estimate(DP.with_(communication="parameter-server", servers=2)))


def test_islands_send_between_nodes_only_now_and_then() -> None:
    every = [estimate(DP.with_(communication="local-steps", local_group=8, local_steps=h)) for h in (1, 10, 1000)]
    out = [e.traffic.by_link["scale_out"] for e in every]
    assert out[0] / out[1] == pytest.approx(10, rel=1e-9)
    assert out[0] / out[2] == pytest.approx(1000, rel=1e-9)
    assert every[0].traffic.by_link["scale_up"] == pytest.approx(every[2].traffic.by_link["scale_up"])
    assert every[0].seconds >= every[1].seconds >= every[2].seconds
    assert not any("local-steps" in w for w in every[0].warnings)
    assert any("local-steps" in w for w in every[1].warnings)


def test_diloco_keeps_a_copy_and_a_momentum() -> None:
    plan = DP.with_(communication="diloco", local_steps=500)
    parameters = sum(t.elements() for t in layers(DP)[0].parameters)
    held = [sum(t.bytes(p.mesh) for t in layers(p)[0].states) for p in (DP, plan)]
    assert held[1] - held[0] == 8 * parameters


def test_dilocos_outer_update_passes_over_mean_copy_and_momentum_where_replicas_meet() -> None:
    """Read and written: the mean in 16 bits, two fp32 states; once in H steps. A tied head has a mean of its own."""
    parameters = len(layers(DP)) * sum(t.elements() for t in layers(DP)[0].parameters) + 2 * 51200 * 2048
    for steps in (4, 16):
        ours, local = (estimate(DP.with_(communication=name, local_steps=steps)) for name in ("diloco", "local-steps"))
        more = ours.traffic.by_link["hbm"] - local.traffic.by_link["hbm"]
        assert more == pytest.approx(2 * (2 + 4 + 4) * parameters / steps, rel=0.005)
        assert ours.seconds > local.seconds


def test_embrace_sends_rows_instead_of_the_table() -> None:
    few = estimate(DP.with_(communication="embrace"), name="llama-3.2-1b")
    assert "ties it to the head" in few.reason
    dense = estimate(DP, name="phi-3-mini")
    sparse = estimate(DP.with_(communication="embrace"), name="phi-3-mini")
    table = 32064 * 3072
    saved = sum(dense.traffic.by_link[k] - sparse.traffic.by_link[k] for k in ("scale_up", "scale_out"))
    rows = 2 * 2 * 1024 * 3072 * 2 * (RANKS - 1) / RANKS  # two micro-batches, forward and backward, 16 bit
    once = sum(RankLayout(DP, cluster().groups[0].node).wire_bytes(*_all_reduce(2.0 * table)).values())
    assert saved == pytest.approx(once - rows, rel=1e-6)


def _all_reduce(size: float) -> tuple[Collective, float, CommGroup]:
    return Collective.ALL_REDUCE, size, RankLayout(DP, cluster().groups[0].node).group("dpcp")


# -- the queue -------------------------------------------------------------------------------------------------------


def items(*triples: tuple[float, float, float]) -> list[GradientItem]:
    """(ready, seconds, needed)."""
    return [GradientItem(*t) for t in triples]


def test_first_come_first_served_is_a_chain() -> None:
    found = run_queue(items((0, 3, 9), (1, 2, 5), (10, 1, 0)))
    assert found.arrivals == (3, 5, 11)
    assert found.end == 11


def test_urgent_gradients_overtake() -> None:
    """A long late-needed item is interrupted by one that the next forward needs at once."""
    queue = items((0, 10, 8), (2, 3, 0))
    assert run_queue(queue, priority=True).arrivals == (13, 5)
    assert run_queue(queue, priority=True, piece=4).arrivals == (13, 7)  # the piece in flight, 0 to 4, is finished
    assert run_queue(queue, priority=True, piece=100).arrivals == (10, 13)  # nothing can be interrupted


def test_priority_conserves_the_work() -> None:
    queue = items((0, 4, 3), (1, 2, 2), (1.5, 7, 1), (20, 1, 0))
    assert run_queue(queue, priority=True).end == run_queue(queue).end == 21


def test_priority_never_delays_the_next_forward_more_than_arrival_order() -> None:
    """Earliest due date first minimises the largest lateness on one preemptive machine (Jackson's rule)."""
    queue = items((0, 4, 9), (1, 2, 6), (1.5, 7, 3), (3, 2, 0))
    late = [cross_step_delay(run_queue(queue, p), queue, 5.0) for p in (True, False)]
    assert late[0] <= late[1]
    assert late == [2.5, 10.0]  # by hand


@pytest.mark.parametrize("pieces", [1, 2, 8, 1000])
def test_fused_update_hides_behind_communication(pieces: int) -> None:
    """One item of 6 s and an update of 2 s in c pieces: 6 + 2/c, the slower stage and one piece of the faster."""
    assert fused_update_end(items((0, 6, 0)), 2.0, pieces) == pytest.approx(6 + 2 / pieces)
    assert fused_update_end(items((0, 2, 0)), 6.0, pieces) == pytest.approx(6 + 2 / pieces)


def test_deferred_weight_gradients_move_work_but_do_not_add_any() -> None:
    """All input gradients first, then the weight gradients of the first layers in the order the next forward needs."""
    pipeline = PipelinedJob(job(DP), cluster())
    chunk, pricer = pipeline.chunks[0], pipeline.pricer(0)
    plain, moved = (gradient_items(chunk, pricer, 100.0, 0.0, deferred=k) for k in (0, 4))
    assert max(i.ready for i in plain) == pytest.approx(100.0)
    assert max(i.ready for i in moved) == pytest.approx(100.0)
    layer = pricer.weight_gradient(layers(DP)[0]).seconds
    first = [i.ready for i in moved[1:5]]  # after the embedding
    assert [b - a for a, b in itertools.pairwise(first)] == pytest.approx([layer] * 3)
    assert first[-1] == pytest.approx(100.0)
    assert [i.ready for i in plain[1:]] == sorted((i.ready for i in plain[1:]), reverse=True)
    assert moved[-1].ready == pytest.approx(plain[-1].ready)


def test_one_bucket_for_everything_is_a_bulk_reduction() -> None:
    bucket = estimate(DP.with_(communication="buckets", bucket_size=1e15))
    bulk = estimate(DP, replace(FRAMEWORK, overlap_grad_reduce=False))
    assert bucket.seconds == pytest.approx(bulk.seconds, rel=1e-9)


def test_parameters_needed_first_shorten_the_step_when_the_network_is_slow() -> None:
    plain = estimate(DP.with_(communication="parameter-server", servers=1))
    urgent = estimate(DP.with_(communication="parameter-server+bytescheduler", servers=1))
    assert urgent.seconds < plain.seconds


def test_cross_mesh_resharding_sends_slices() -> None:
    base = Plan(tensor_parallel=8, pipeline_parallel=2)
    ways = [
        estimate(base.with_(communication="cross-mesh-resharding", resharding=w)) for w in ("broadcast", "send_recv")
    ]
    assert ways[0].seconds < ways[1].seconds
    same(ways[0], estimate(base))  # the framework's scatter and gather is the same thing


def test_compressed_messages_between_stages() -> None:
    base = Plan(pipeline_parallel=4, data_parallel=4)
    plain, small = (
        estimate(base.with_(communication="optimus-cc", compression_ratio=1, backprop_ratio=r)) for r in (1, 1e4)
    )
    assert small.seconds <= plain.seconds
    assert small.traffic.by_link["scale_up"] < plain.traffic.by_link["scale_up"]
    same(plain, estimate(base))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"communication": "1-bit-adam", "zero_stage": 2}, "zero_stage"),
        ({"communication": "in-network", "zero_stage": 1}, "zero_stage 0"),
        ({"communication": "local-steps", "local_steps": 0}, "local_steps"),
        ({"communication": "diloco", "local_group": 5}, "does not divide"),
        ({"communication": "top-k", "density": "few"}, "density"),
        ({"communication": "cross-mesh-resharding", "resharding": "magic"}, "resharding"),
    ],
)
def test_what_does_not_work_says_why(options: dict[str, object], says: str) -> None:
    refused = estimate(DP.with_(**options))
    assert not refused.feasible
    assert says in refused.reason
