"""Gradients on their way and messages between stages: closed forms that know nothing of the queue that is tested."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.hardware import load_link, load_node
from simulator.hardware.types import Cluster, Fabric, NodeGroup
from simulator.results.estimate import Estimate
from simulator.strategies.communication.scheduling import ByteScheduler, GradientBuckets
from simulator.training.gradient_queue import GradientItem, cross_step_delay, gradient_items, run_queue
from simulator.training.pipelined import PipelinedJob
from simulator.training.step import estimate_step
from simulator.workload.ops import OpKind
from simulator.workload.plan import Plan
from tests.unit.strategies.training_cases import job

DP = Plan(data_parallel=16)


def network(slower: float = 1.0) -> Cluster:
    """Two nodes of eight A100 on a 200 Gb/s network, or one that many times slower."""
    link = load_link("hdr200")
    link = replace(link, bandwidth=link.bandwidth / slower)
    node = replace(load_node("dgx-a100-640"), nic=link)
    return Cluster("test", (NodeGroup(node, 2),), Fabric("single-switch", link))


def run(plan: Plan, slower: float = 1.0) -> Estimate:
    return estimate_step(job(plan), network(slower), with_interval=False)


@pytest.mark.parametrize("slower", [1, 4, 16])
def test_buckets_end_by_lindleys_formula(slower: float) -> None:
    """The last bucket arrives at max over k of (ready_k + seconds of k and all that follow): Lindley, 1952.

    What shows of it is what the backward has not hidden: max(0, tail of the communication − remaining backward).
    """
    size = 200e6
    plan = DP.with_(communication="buckets", bucket_size=size)
    work = PipelinedJob(job(plan), network(slower))
    pricer, chunk = work.pricer(0), work.chunks[0]
    items = sorted(gradient_items(chunk, pricer, 0.0, 0.0), key=lambda i: i.ready)  # the backward ends at 0
    buckets: list[tuple[float, float]] = []
    held, ready, op = 0.0, 0.0, None
    for item in items:
        for send, sent in item.sends:
            if send.kind is OpKind.COLLECTIVE:
                held, op = held + sent, send
        ready = item.ready
        if held >= size or item is items[-1]:
            assert op is not None
            whole, rest = divmod(held, size)
            seconds = whole * pricer.message_seconds(op, size) + (pricer.message_seconds(op, rest) if rest else 0.0)
            buckets.append((ready, seconds))
            held = 0.0
    end = max(r + sum(s for _, s in buckets[k:]) for k, (r, _) in enumerate(buckets))
    exposed = run(plan, slower).time.parts.get("data_parallel", 0.0)
    assert exposed == pytest.approx(max(0.0, end), rel=1e-9, abs=1e-12)
    assert GradientBuckets().traits(plan).bucket == size


def test_buckets_change_no_byte() -> None:
    """2(n−1)/n of every gradient, bundled or not."""
    plain, small, large = (
        run(p).traffic.by_link for p in (DP, *(DP.with_(communication="buckets", bucket_size=b) for b in (1e6, 1e9)))
    )
    assert dict(small) == pytest.approx(dict(plain))
    assert dict(large) == pytest.approx(dict(plain))


times = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 4), st.integers(0, 8)), min_size=1, max_size=5)


@given(times)
def test_bytescheduler_is_as_early_as_any_order(triples: list[tuple[int, int, int]]) -> None:
    """Preemptive priority by need delays the next forward no more than any order of sending, by enumeration."""
    items = [GradientItem(float(r), float(s), float(n)) for r, s, n in triples]
    traits = ByteScheduler().traits(DP)
    ours = cross_step_delay(run_queue(items, traits.first_needed_first), items, 6.0)

    def delay(order: tuple[int, ...]) -> float:
        now, late = 0.0, 0.0
        for i in order:
            now = max(now, items[i].ready) + items[i].seconds
            late = max(late, now - 6.0 - items[i].needed)
        return late

    assert ours <= min(map(delay, itertools.permutations(range(len(items))))) + 1e-9


@pytest.mark.parametrize("name", ["buckets", "bytescheduler", "out-of-order-backprop"])
def test_one_rank_sends_nothing_and_waits_for_nothing(name: str) -> None:
    alone = Plan()
    order, plain = run(alone.with_(communication=name)), run(alone)
    assert order.seconds == plain.seconds
    assert dict(order.traffic.by_link) == dict(plain.traffic.by_link)


@pytest.mark.parametrize("credit", [1e6, 64e6, 1e15])
def test_pieces_of_bytescheduler_change_no_byte(credit: float) -> None:
    ours, plain = run(DP.with_(communication="bytescheduler", credit_size=credit)), run(DP)
    assert dict(ours.traffic.by_link) == pytest.approx(dict(plain.traffic.by_link))


@pytest.mark.parametrize("layers", [0, 4, 12])
def test_out_of_order_backprop_computes_and_sends_the_same(layers: int) -> None:
    plan = DP.with_(communication="out-of-order-backprop", deferred_layers=layers)
    ours, plain = run(plan), run(DP)
    assert dict(ours.traffic.by_link) == pytest.approx(dict(plain.traffic.by_link))
    assert ours.time.parts["backward"] == pytest.approx(plain.time.parts["backward"])
    # Where every layer is deferred, the last of their reductions has nothing left to hide behind.
    assert ours.seconds <= plain.seconds * 1.002


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_cross_mesh_resharding_sends_one_copy_between_meshes(ranks: int) -> None:
    """s·b·h·2 B forward and backward for each micro-batch: one copy split over t ranks, or t copies."""
    microbatches, size = 32, 2 * 1024 * 2048
    base = Plan(tensor_parallel=ranks, pipeline_parallel=16 // ranks)
    sent = {
        way: run(base.with_(communication="cross-mesh-resharding", resharding=way)).traffic.by_link["scale_out"]
        for way in ("broadcast", "send_recv")
    }
    if ranks == 8:  # the two stages are the two nodes: a rank sends forward or backward
        assert sent["send_recv"] == microbatches * size
        assert sent["broadcast"] == microbatches * size / ranks
    assert sent["broadcast"] == sent["send_recv"] / ranks


def test_coconet_hides_the_update_behind_the_link() -> None:
    """CoCoNet (arXiv 2105.05720): link and update kernel as a flow shop; of an update u in c pieces u/c is left behind.

    With c = 1 an update waits for the gradients of its own layer, with many pieces for nothing: where the link is the
    slower of the two the step ends with the last piece.
    """
    plain = run(DP, 16)
    update, whole, fine = (
        plain.time.parts["optimizer"],
        run(DP.with_(communication="coconet", fused_pieces=1), 16),
        run(DP.with_(communication="coconet", fused_pieces=4096), 16),
    )
    assert fine.seconds < whole.seconds < plain.seconds
    assert plain.seconds - fine.seconds == pytest.approx(update, rel=1e-3)
    assert dict(fine.traffic.by_link) == pytest.approx(dict(plain.traffic.by_link))
