"""Model states outside HBM: bytes per parameter, traffic, and the limits in which a strategy becomes its baseline."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from memory_jobs import LAYERS, estimate, gpt, job, on_tier, single, with_host_link

from simulator.hardware import load_node
from simulator.training.pipelined import PipelinedJob
from simulator.workload.counting import parameters
from simulator.workload.ops import Tier

FP16: dict[str, Any] = {"framework": "deepspeed-2022", "precision": "fp16", "recompute": "full"}


def size() -> float:
    return float(parameters(gpt()))


def test_zero_offload_keeps_two_bytes_on_the_device_and_fourteen_on_the_host() -> None:
    result = estimate(job(offload="zero-offload", **FP16))
    assert on_tier(result, Tier.HBM, "param") == pytest.approx(2 * size(), rel=1e-3)
    assert on_tier(result, Tier.HBM, "optim") == on_tier(result, Tier.HBM, "grad") == 0
    assert on_tier(result, Tier.HOST) == pytest.approx(14 * size(), rel=1e-3)


@pytest.mark.parametrize("microbatches", [1, 3])
def test_zero_offload_moves_gradients_every_microbatch_and_parameters_once(microbatches: int) -> None:
    result = estimate(job(batch=(4 * microbatches, 4), offload="zero-offload", **FP16))
    assert result.traffic.by_link["host"] == pytest.approx((2 * microbatches + 2) * size(), rel=1e-3)
    assert "nvme" not in result.traffic.by_link or result.traffic.by_link["nvme"] == 0


def test_sharded_ranks_own_their_share_of_host_bytes_and_traffic() -> None:
    one = estimate(job(offload="zero-offload", **FP16))
    many = estimate(job(batch=(16, 4), offload="zero-offload", data_parallel=4, zero_stage=2, **FP16))
    assert on_tier(many, Tier.HOST) == pytest.approx(on_tier(one, Tier.HOST) / 4, rel=1e-3)
    assert many.traffic.by_link["host"] == pytest.approx(one.traffic.by_link["host"] / 4, rel=1e-3)


def test_delayed_update_hides_the_optimizer_up_to_the_length_of_the_step() -> None:
    plan: dict[str, Any] = {"offload": "zero-offload", **FP16}
    after, delayed = estimate(job(**plan)), estimate(job(delayed_update=True, **plan))
    step = after.seconds - after.time.parts["optimizer"]
    assert delayed.time.parts["optimizer"] == pytest.approx(
        max(0.0, after.time.parts["optimizer"] - step), abs=0.05 * step
    )
    assert delayed.seconds == pytest.approx(max(step, after.time.parts["optimizer"]), rel=0.05)


def test_host_update_takes_as_long_as_its_bytes_need() -> None:
    """28 B per parameter (gradient 2, states 12 read and written, parameter 2) over the fitted host bandwidth."""
    node = load_node("dgx-a100-640")
    result = estimate(job(offload="zero-offload", **FP16), with_host_link(node, 1e18))
    assert result.time.parts["optimizer"] < 1e-6  # no bandwidth limit, no time
    result = estimate(job(offload="zero-offload", **FP16), node)
    assert result.time.parts["optimizer"] == pytest.approx(28 * size() / (0.43 * node.host_memory_bandwidth), rel=0.15)


def test_cpu_adam_follows_the_published_table() -> None:
    """ZeRO-Offload table 4, CPU-Adam on a DGX-2: 0.22, 1.03 and 2.57 s for 1, 4 and 10 B."""
    tiers = PipelinedJob(job(), single(load_node("dgx-2"))).pricer(0).tiers
    for billions, published, tolerance in ((1, 0.22, 0.2), (4, 1.03, 0.05), (10, 2.57, 0.05)):
        assert tiers.host_update(28e9 * billions).seconds == pytest.approx(published, rel=tolerance)


def test_parameters_come_in_twice_per_microbatch_when_they_live_on_the_host() -> None:
    result = estimate(job(batch=(12, 4), offload="zero-infinity", **FP16))
    assert on_tier(result, Tier.HOST) == pytest.approx(16 * size(), rel=1e-3)
    tied = 50304 * 2048  # the head fetches the token embedding once more
    moved = 3 * ((2 + 2 + 2) * size() + (2 + 2) * tied)  # forward, backward, gradients
    assert result.traffic.by_link["host"] == pytest.approx(moved, rel=1e-3)
    assert on_tier(result, Tier.HBM, "param") == 0


def test_nvme_holds_everything_and_host_memory_only_buffers() -> None:
    result = estimate(job(offload="zero-infinity", offload_tier="nvme", **FP16))
    assert on_tier(result, Tier.NVME) == pytest.approx(16 * size(), rel=1e-3)
    assert on_tier(result, Tier.HOST, "workspace") == on_tier(result, Tier.HOST) < 0.5 * on_tier(result, Tier.NVME)
    moved = result.traffic.by_link["nvme"]
    assert moved == pytest.approx((2 + 2 + 2 + 12 + 12) * size() + (2 + 2) * 50304 * 2048, rel=1e-3)


def test_infinite_host_bandwidth_makes_offload_free() -> None:
    node = with_host_link(load_node("dgx-a100-640"), 1e18)
    base = estimate(job(**FP16), node)
    plans: list[dict[str, Any]] = [{"offload": "zero-infinity"}, {"offload": "stronghold", "resident_layers": 0}]
    for plan in plans:
        free = estimate(job(**plan, **FP16), node)
        assert free.seconds == pytest.approx(base.seconds - base.time.parts["optimizer"], rel=2e-3)


def test_a_window_of_all_layers_moves_no_parameters() -> None:
    window = {w: estimate(job(offload="stronghold", resident_layers=w, **FP16)) for w in (0, 4, LAYERS)}
    traffic = {w: r.traffic.by_link["host"] for w, r in window.items()}
    offload = estimate(job(offload="zero-offload", **FP16))
    assert traffic[LAYERS] == pytest.approx(offload.traffic.by_link["host"], rel=1e-3)
    per_layer = 12 * 2048**2  # parameters of a GPT layer without biases
    # A moving layer: 2 B in for the forward, 2 B in for the backward, instead of 2 B in after the update.
    assert traffic[0] - traffic[LAYERS] == pytest.approx(LAYERS * 2 * per_layer, rel=0.01)
    assert traffic[4] - traffic[LAYERS] == pytest.approx((LAYERS - 4) * 2 * per_layer, rel=0.01)
    assert window[0].seconds >= window[4].seconds >= window[LAYERS].seconds * (1 - 1e-9)
    assert on_tier(window[0], Tier.HBM) < on_tier(window[4], Tier.HBM) < on_tier(window[LAYERS], Tier.HBM)


def test_chunks_that_all_fit_stay_on_the_device() -> None:
    base, chunks = estimate(job(**FP16)), estimate(job(offload="patrickstar", **FP16))
    assert chunks.seconds == pytest.approx(base.seconds, rel=1e-9)
    assert on_tier(chunks, Tier.HOST) == 0
    small = replace(load_node("dgx-a100-640").accelerator, memory_usable=11e9)
    node = replace(load_node("dgx-a100-640"), accelerator=small)
    assert not estimate(job(**FP16), node).feasible
    moved = estimate(job(offload="patrickstar", **FP16), node)
    assert moved.feasible
    assert on_tier(moved, Tier.HOST) > 0


def test_a_stage_that_cycles_is_loaded_once_for_all_microbatches() -> None:
    shape: dict[str, Any] = {
        "pipeline_parallel": 2,
        "virtual_stages": 2,
        "schedule": "breadth-first",
        "offload": "mobius",
    }
    few, many = (estimate(job(batch=(4 * m, 4), **shape, **FP16)) for m in (4, 16))
    assert many.traffic.by_link["host"] == pytest.approx(few.traffic.by_link["host"], rel=1e-3)
    shared = replace(load_node("dgx-a100-640"), accelerators_per_host_link=2)
    alone = replace(shared, accelerators_per_host_link=1)
    assert (
        estimate(job(batch=(2, 1), **shape, **FP16), shared).seconds
        > estimate(job(batch=(2, 1), **shape, **FP16), alone).seconds
    )


def test_updates_on_ssd_are_decoupled_in_angel_ptm() -> None:
    plan: dict[str, Any] = {"resident_layers": 0, "offload_optimizer": "nvme", "batch": (64, 4), **FP16}
    angel, infinity = estimate(job(offload="angel-ptm", **plan)), estimate(job(offload="zero-infinity", **plan))
    assert angel.time.parts["optimizer"] < 0.1 * infinity.time.parts["optimizer"]
    assert on_tier(angel, Tier.NVME, "optim") == pytest.approx(12 * size(), rel=1e-3)


def test_duplex_and_neighbours_slow_the_host_link() -> None:
    """PCIe 5: 55.4 GB/s one way, 83.4 GB/s both ways together. DGX-2: 12 GB/s to one GPU, 3 GB/s to each of 16."""
    tiers = PipelinedJob(job(), single(load_node("dgx-h100"))).pricer(0).tiers
    assert 55.4 / next(iter(tiers.slowdown().values())) == pytest.approx(83.4 / 2)
    node = replace(load_node("dgx-2"), accelerators_per_host_link=4)  # 16 GPUs behind 4 root ports: 48-51 GB/s per node
    from simulator.cost.tiers import TierCost

    alone, together = TierCost(node, 1), TierCost(node, 16)
    assert 1e9 / alone.copy(Tier.HBM, Tier.HOST, 1e9).seconds == pytest.approx(12e9, rel=0.05)
    assert 1e9 / together.copy(Tier.HOST, Tier.HBM, 1e9).seconds == pytest.approx(3.0e9, rel=0.06)
    assert together.drive_rate(reading=True) == pytest.approx(1.6e9, rel=0.07)


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        ({"offload": "zero-infinity", "data_parallel": 4, "zero_stage": 2}, "use zero_stage 3, not 2"),
        ({"offload": "zero-offload", "data_parallel": 4}, "use zero_stage 1, 2 or 3"),
        ({"offload": "zero-infinity", "offload_optimizer": "disk"}, "use hbm, host or nvme"),
        ({"offload": "mobius"}, "use virtual_stages 2 or more"),
        ({"offload": "mpress"}, "use pipeline_parallel 2 or more"),
        ({"recompute": "every-k", "recompute_method": "rows"}, "use uniform or block"),
        ({"recompute": "revolve", "recompute_slots": 0}, "must be at least 1"),
    ],
)
def test_plans_that_do_not_work_say_what_would(plan: dict[str, Any], reason: str) -> None:
    result = estimate(job(batch=(16, 4), **plan))
    assert not result.feasible
    assert reason in result.reason


@pytest.mark.parametrize("plan", [{"offload": "flashneuron"}, {"offload": "zero-infinity", "offload_tier": "nvme"}])
def test_a_tier_that_is_not_there_is_named(plan: dict[str, Any]) -> None:
    node = replace(load_node("dgx-a100-640"), nvme=None)
    result = estimate(job(**plan, **FP16), node)
    assert not result.feasible
    assert "needs NVMe drives but node dgx-a100-640 has none" in result.reason


def test_host_memory_is_limited_too() -> None:
    node = replace(load_node("dgx-a100-640"), host_memory=4e9)
    result = estimate(job(offload="zero-offload", **FP16), node)
    assert not result.feasible
    assert "of host" in result.reason


def test_split_backwards_still_send_their_gradients_away() -> None:
    shape: dict[str, Any] = {"pipeline_parallel": 2, "schedule": "zb-h1", "batch": (32, 4), **FP16}
    run = PipelinedJob(job(offload="zero-offload", **shape), single(load_node("dgx-a100-640")))
    layer = next(b for b, _ in run.chunks[0].blocks if b.name == "layer")
    out = sum(t.bytes() for t in layer.states if t.cls.value == "grad")
    assert run.pricer(0).weight_gradient(layer).traffic["host"] == out
