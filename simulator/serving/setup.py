"""From a resolved deployment to the policies and sizes of its engines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, cast

from simulator.errors import ConfigError
from simulator.hardware.types import Node
from simulator.registry import lookup
from simulator.serving.limits import EngineLimits
from simulator.serving.planned_ahead import planned_ahead
from simulator.strategies.settings import settings_of
from simulator.workload.jobs import Deployment

if TYPE_CHECKING:
    from simulator.serving.memory import CacheSize

__all__ = ["POLICY_OPTIONS", "engine_limits", "policies", "policy_problems"]

_FAMILIES = ("batching", "router", "kv_cache", "admission")

POLICY_OPTIONS = (*_FAMILIES, "swap_space")
"""Keys of ``deployment.options`` that are read here."""

SWAP_SPACE = 4 * 2**30
"""Host memory for swapped KV blocks per accelerator [B]: vLLM's default ``swap_space`` of 4 GiB (engine arguments)."""


def policies(deployment: Deployment, seed: int) -> dict[str, Any]:
    """The policy objects of a deployment, with the parameters that ``options`` gives under the family's name.

    Raises
    ------
    ConfigError
        If a policy does not take such a parameter.
    """
    options = {key: _thaw(value) for key, value in deployment.options if key in _FAMILIES}
    made: dict[str, Any] = {}
    for family in _FAMILIES:
        name, given = getattr(deployment, family), dict(options.get(family, {}))
        if not name:
            if given:
                raise ConfigError(f"options.{family}: name the policy too, as deployment.{family}")
            continue
        if family == "router":
            given = {"seed": seed, **given}
        try:
            made[family] = lookup(family, name)(**given)
        except TypeError as error:
            raise ConfigError(f"options.{family}: '{name}' does not take these parameters ({error})") from None
    engine = deployment.framework
    if engine.plans_ahead and deployment.plan.pipeline_parallel == 1 and "batching" in made:
        made["batching"] = planned_ahead(made["batching"], _tokens(deployment), engine.workers_launch)
    return made


def _tokens(deployment: Deployment) -> float:
    """Tokens per sequence of an iteration of the engine."""
    given = dict(deployment.options).get("speculation")
    if not given:
        return 1.0
    chosen = settings_of("deployment.speculation", given)
    return float(lookup("speculation", chosen.method)(chosen).expected_tokens)


def policy_problems(deployment: Deployment) -> list[str]:
    """What is wrong with the policies' parameters; empty when nothing is."""
    space = dict(deployment.options).get("swap_space", SWAP_SPACE)
    if isinstance(space, bool) or not isinstance(space, int | float) or space <= 0:
        return [f"swap_space is a number of bytes per accelerator above zero, not {space!r}"]
    try:
        policies(deployment, 0)
    except ConfigError as error:
        return [issue.message for issue in error.issues] or [str(error)]
    return []


def engine_limits(deployment: Deployment, cache: CacheSize, node: Node) -> EngineLimits:
    """Sizes of each replica's engine.

    ``options.swap_space`` [B per accelerator] is the host memory for swapping; it is bounded by the share of the
    node's memory that belongs to the accelerators of a replica.
    """
    d = deployment
    accelerators = d.plan.accelerators
    share = min(1.0, accelerators / node.accelerators) * node.host_memory
    wanted = float(cast(float, dict(d.options).get("swap_space", SWAP_SPACE))) * accelerators
    link = node.accelerator.host_link.bandwidth / node.accelerators_per_host_link
    return EngineLimits(
        cache.blocks, d.block_size, d.max_num_batched_tokens, d.max_num_seqs, d.max_model_len,
        d.plan.pipeline_parallel, preemption=cast(Literal["recompute", "swap"], d.preemption),
        host_memory=min(share, wanted) if d.preemption == "swap" else 0.0, host_bandwidth=link * accelerators,
        kv_bytes_per_token=cache.bytes_per_token * accelerators,
    )  # fmt: skip


def _thaw(value: Any) -> Any:
    """Options come as sorted pairs; back to mappings and lists."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple):
        if value and all(isinstance(v, tuple) and len(v) == 2 and isinstance(v[0], str) for v in value):
            return {key: _thaw(v) for key, v in value}
        return [_thaw(v) for v in value]
    return value
