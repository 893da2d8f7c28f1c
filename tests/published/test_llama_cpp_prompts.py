"""Prompts of 512 to 8,192 tokens through llama.cpp, on one GPU and over the stages of several.

XiongjieDai/GPU-Benchmarks-on-LLM-Inference, README of May 2024 (builds 2833 and 2843): tokens per second of Llama-3 8B
and 70B. What validation reads, and all that was fitted, are prompts of 1,024 tokens; the other lengths test two
mechanisms. On one GPU the rate falls by what scores in memory cost, 24 bytes each. Over several the chunks of 512
tokens overlap as far as the queue of launches lets them: 70B in fp16 launches 45 kernels a layer, 900 on each of four
GPUs, in Q4_K_M 52 and 1,040, where a queue holds 1,024.
"""

from __future__ import annotations

import pytest

from simulator.serving.iteration import ReplicaCost
from simulator.validation.hardware import cluster_of
from simulator.validation.serving_runs import prompt_seconds
from simulator.workload.framework_files import load_framework
from simulator.workload.model_files import load_model
from simulator.workload.plan import Plan

ENGINE = load_framework("llama-cpp")
LENGTHS = (512, 4096, 8192)


def replica(gpu: str, count: int, size: str, precision: str) -> ReplicaCost:
    cluster, _ = cluster_of(gpu, count)
    model, plan = load_model(f"llama-3.1-{size}"), Plan(pipeline_parallel=count, precision=precision)
    return ReplicaCost(model, plan, ENGINE, cluster.groups[0].node, cluster.fabric, max_tokens=512)


def rates(gpu: str, count: int, size: str, precision: str) -> list[float]:
    cost = replica(gpu, count, size, precision)
    return [tokens / prompt_seconds(cost, 512, 1, tokens)[0] for tokens in LENGTHS]


@pytest.mark.parametrize(
    ("gpu", "size", "precision", "published"),
    [
        ("a40", "8b", "fp16", (4203.75, 3069.98, 2295.02)),
        ("a100_pcie_80", "8b", "fp16", (7741.34, 6137.54, 4849.11)),
        ("h100_pcie", "8b", "fp16", (10815.51, 8106.53, 6191.45)),
        ("a100_pcie_80", "70b", "q4-k", (744.12, 653.20, 573.95)),
        ("h100_pcie", "70b", "q4-k", (1012.73, 863.37, 741.52)),
    ],
)
def test_scores_in_memory(gpu: str, size: str, precision: str, published: tuple[float, ...]) -> None:
    found = rates(gpu, 1, size, precision)
    assert [r / found[0] for r in found] == pytest.approx([r / published[0] for r in published], rel=0.08)
    assert found == pytest.approx(list(published), rel=0.11)


@pytest.mark.parametrize(
    ("gpu", "count", "size", "precision", "published"),
    [
        ("a40", 4, "70b", "fp16", (610.51, 893.28, 735.16)),
        ("l40s", 4, "70b", "fp16", (1042.13, 1427.77, 1150.63)),
        ("a100_pcie_80", 4, "70b", "fp16", (1172.14, 1846.36, 1592.37)),
        ("h100_pcie", 4, "70b", "fp16", (1681.45, 2437.53, 2031.77)),
        ("h100_pcie", 4, "70b", "q4-k", (1048.29, 1088.99, 950.92)),
        ("l40s", 4, "70b", "q4-k", (591.05, 605.66, 541.67)),
        ("rtx4090", 4, "70b", "q4-k", (834.74, 839.97, 718.01)),
        ("rtx4090", 8, "70b", "q4-k", (812.95, 1488.36, 1320.36)),
        ("rtx4090", 8, "70b", "fp16", (1183.87, 2311.43, 1995.85)),
        ("rtx4090", 8, "8b", "fp16", (7889.26, 16462.18, 14300.98)),
    ],
)
def test_chunks_overlap_as_the_queue_lets_them(
    gpu: str, count: int, size: str, precision: str, published: tuple[float, ...]
) -> None:
    """Without limits eight chunks through four stages would run at 32/11 = 2.9 times the rate of one."""
    found = rates(gpu, count, size, precision)
    assert [r / found[0] for r in found] == pytest.approx([r / published[0] for r in published], rel=0.12)


def test_launches_of_a_stage() -> None:
    """Seven products with two casts each, those of keys and values cut along k (4 · 8 tiles on 114 multiprocessors);
    nine kernels of attention and thirteen passes: 45 a layer; weights in blocks are written out by one more each."""
    assert replica("h100_pcie", 4, "70b", "fp16").kernels(512) == [20 * (7 * 3 + 2 + 9 + 13)] * 4
    assert replica("h100_pcie", 4, "70b", "q4-k").kernels(512) == [20 * (7 * 4 + 2 + 9 + 13)] * 4
