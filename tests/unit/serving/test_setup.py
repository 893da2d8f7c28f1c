"""From a deployment's options to policy objects and engine sizes."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from simulator.errors import ConfigError
from simulator.serving.setup import policies


@dataclass(frozen=True)
class Asked:
    """The fields of a deployment that policies are made from."""

    batching: str = "chunked-prefill"
    router: str = "round-robin"
    kv_cache: str = ""
    admission: str = "always"
    framework: Any = field(default_factory=lambda: SimpleNamespace(plans_ahead=False))
    options: tuple[Any, ...] = field(default=())


def test_options_reach_the_policy_they_are_for() -> None:
    tier = (("bandwidth", 5e10), ("capacity", 2e11), ("name", "host"))
    options = (("admission", (("ttft", 0.5),)), ("kv_cache", (("tiers", (tier,)),)), ("router", (("ttft", 0.3),)))
    made = policies(
        Asked(router="cost-aware", kv_cache="prefix-tiered", admission="ttft-deadline", options=options), seed=1
    )  # type: ignore[arg-type]
    assert made["router"].ttft == 0.3 and made["admission"].ttft == 0.5
    assert made["kv_cache"].tiers[0].name == "host" and made["kv_cache"].tiers[0].capacity == 2e11


def test_what_a_policy_does_not_take_is_named() -> None:
    with pytest.raises(ConfigError, match=r"options\.router: 'round-robin' does not take"):
        policies(Asked(options=(("router", (("weight", 2),)),)), seed=1)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="name the policy too"):
        policies(Asked(options=(("kv_cache", (("tiers", ()),)),)), seed=1)  # type: ignore[arg-type]
