"""Small jobs that the tests of memory strategies share."""

from __future__ import annotations

from dataclasses import replace

from simulator.hardware import Cluster, Fabric, Node, NodeGroup, load_node
from simulator.results.estimate import Estimate
from simulator.training.step import estimate_step
from simulator.workload.framework_files import load_framework
from simulator.workload.hf_config import from_hf_config
from simulator.workload.jobs import Batch, TrainingJob
from simulator.workload.model import ModelSpec
from simulator.workload.ops import Tier
from simulator.workload.plan import Plan

LAYERS = 8


def gpt(
    layers: int = LAYERS, hidden: int = 2048, heads: int = 16, vocabulary: int = 50304, positions: int = 2048
) -> ModelSpec:
    """A GPT of any size."""
    config = {
        "model_type": "gpt2", "n_layer": layers, "n_embd": hidden, "n_head": heads, "n_positions": positions,
        "vocab_size": vocabulary,
    }  # fmt: skip
    return from_hf_config(config, f"gpt-{layers}x{hidden}")


def single(node: Node, count: int = 1) -> Cluster:
    """``count`` equal nodes."""
    return Cluster("test", (NodeGroup(node, count),), Fabric("single-switch", node.nic))


def job(
    model: ModelSpec | None = None,
    batch: tuple[int, int] = (4, 4),
    framework: str = "megatron-core-0.8",
    **plan: object,
) -> TrainingJob:
    """A job of ``batch`` = (global, micro) sequences of the model's length."""
    model = model or gpt()
    return TrainingJob(
        "test", model, load_framework(framework), Batch(batch[0], batch[1], model.max_position_embeddings),
        Plan().with_(**plan),
    )  # fmt: skip


def estimate(work: TrainingJob, node: Node | str = "dgx-a100-640", count: int = 1) -> Estimate:
    """The executed step, without interval."""
    return estimate_step(work, single(load_node(node) if isinstance(node, str) else node, count), with_interval=False)


def on_tier(result: Estimate, tier: Tier, cls: str = "") -> float:
    """Bytes of the fullest stage on a tier, of one class or of all."""
    found = [s.by_class.get(cls, 0.0) if cls else s.peak for s in result.memory.stages if s.tier is tier]
    return max(found, default=0.0)


def with_host_link(node: Node, bandwidth: float) -> Node:
    """The node with a host link (and host memory) of another speed and no latency."""
    link = replace(node.accelerator.host_link, bandwidth=bandwidth, latency=0.0)
    accelerator = replace(node.accelerator, host_link=link)
    return replace(
        node, accelerator=accelerator, accelerators_per_host_link=1, host_memory_bandwidth=max(1e18, bandwidth)
    )
