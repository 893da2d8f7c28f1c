"""Policies by name or as objects."""

from __future__ import annotations

from typing import Any

from simulator.errors import ConfigError
from simulator.registry import lookup
from simulator.strategies.protocols import BatchPolicy, KVCachePolicy

__all__ = ["chosen_kv_policy", "make"]


def make(family: str, choice: Any, *arguments: object) -> Any:
    """The object itself, or a new one of the class registered under that name."""
    return lookup(family, choice)(*arguments) if isinstance(choice, str) else choice


def chosen_kv_policy(choice: str | KVCachePolicy | None, batching: BatchPolicy) -> KVCachePolicy:
    """The cache policy, by default the batching policy's own.

    Raises
    ------
    ConfigError
        If the two do not go together.
    """
    policy: KVCachePolicy = make("kv_cache", batching.kv_policy if choice is None else choice)
    if batching.release_together and policy.grows:
        raise ConfigError(
            f"batching '{batching.name}' holds a batch until its longest output ends, so its KV cache has to be "
            f"reserved: kv_cache '{policy.name}' grows; choose 'reserve-exact', 'reserve-pow2' or 'reserve-max'"
        )
    return policy
