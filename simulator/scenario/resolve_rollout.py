"""From the written rollout of a training job to its engine and requests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from simulator.scenario.spec_rollout import RolloutSpec
from simulator.workload.framework import Framework
from simulator.workload.jobs import Batch, Deployment
from simulator.workload.model import ModelSpec
from simulator.workload.plan import Plan
from simulator.workload.requests.arrivals import ClosedLoop
from simulator.workload.requests.generators import generate_requests
from simulator.workload.requests.specs import parse_length
from simulator.workload.rollout import Rollout

__all__ = ["generating_accelerators", "rollout_of"]

Report = Callable[[tuple[str, ...], str], None]


def generating_accelerators(spec: RolloutSpec | None, per_node: int) -> int:
    """Accelerators that generate and do not train."""
    if spec is None or spec.placement == "colocated" or spec.nodes is None:
        return 0
    return spec.nodes * per_node


def rollout_of(
    spec: RolloutSpec | None, model: ModelSpec, framework: Framework, batch: Batch, training: int, per_node: int,
    seed: int, report: Report,
) -> Rollout | None:  # fmt: skip
    """The rollout; what does not go together is reported with its path inside ``rollout``.

    Parameters
    ----------
    framework
        The serving engine.
    training, per_node
        Accelerators of the training plan, and of a node.
    """
    if spec is None:
        return None
    apart = spec.placement == "disaggregated"
    if framework.area != "serving":
        report(("framework",), f"'{framework.name}' is a {framework.area} framework, generation needs one for serving")
    if apart and spec.nodes is None:
        report((), "placement disaggregated needs 'nodes': those that only generate")
    if not apart and spec.nodes is not None:
        report(
            ("nodes",), "colocated generation uses the nodes of the plan: leave nodes out, or place it disaggregated"
        )
    if not apart and spec.lag:
        report(("lag",), "colocated generation cannot run ahead: use lag 0, or placement disaggregated")
    lengths = {
        key: parse_length(
            getattr(spec, key), key, lambda path, message: report(tuple(path.split(".")), message), Path()
        )
        for key in ("prompt_tokens", "response_tokens")
    }
    prompt, response = lengths["prompt_tokens"], lengths["response_tokens"]
    plan = Plan(spec.plan.tensor_parallel, 1, spec.plan.pipeline_parallel, 1, precision=spec.plan.precision)
    room = generating_accelerators(spec, per_node) if apart else training
    if room % plan.accelerators:
        report(("plan",), f"replicas of {plan.accelerators} accelerators do not divide the {room} that generate")
    if prompt is None or response is None:
        return None
    count = batch.global_batch_size
    requests = generate_requests(ClosedLoop(count), prompt, response, None, count, seed)
    longest = int((requests.input_tokens + requests.output_tokens).max())
    if longest > batch.sequence_length:
        report(
            ("response_tokens",),
            f"prompt and response reach {longest} tokens, but batch.sequence_length is {batch.sequence_length}: raise "
            "it or give the laws a 'max'",
        )
    deployment = Deployment(
        "rollout", model, framework, plan, requests, replicas=max(1, room // plan.accelerators),
        batching=framework.batching, max_num_batched_tokens=framework.max_num_batched_tokens,
        max_num_seqs=framework.max_num_seqs, max_model_len=max(model.max_position_embeddings, longest),
        block_size=framework.block_size, memory_utilization=framework.memory_utilization,
    )  # fmt: skip
    return Rollout(spec.method, deployment, spec.placement, spec.lag, spec.offload)
