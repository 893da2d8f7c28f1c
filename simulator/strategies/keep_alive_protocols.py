"""The seam between containers at rest and the policy that says how long they stay."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

__all__ = ["KeepAlive", "check_keep_alive"]


@runtime_checkable
class KeepAlive(Protocol):
    """How long a container stays after its last call."""

    name: str

    def arrived(self, key: int, idle: float | None) -> None:
        """A call met a container that had rested ``idle`` seconds; ``None``: it met none."""

    def window(self, key: int) -> float:
        """Time that a container stays at rest [s]; infinity: for good."""


def check_keep_alive(policy: KeepAlive) -> None:
    """Raise ``AssertionError`` where a policy breaks the seam: a time below 0 or that is no number."""
    assert policy.name, "a policy has a name"
    assert policy.window(0) >= 0, f"{policy.name} answered {policy.window(0)} before any call"
    for idle in (None, 0.0, 60.0, 3600.0, 1e6):
        policy.arrived(0, idle)
        assert policy.window(0) >= 0, f"{policy.name} answered {policy.window(0)} after {idle}"
    before = policy.window(1)
    policy.arrived(0, 5.0)
    assert policy.window(1) == before, f"{policy.name} mixes functions up"
