"""Answers that were found before: a job that checkpoints every half hour meets the same few situations for weeks."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass

from simulator.network.flows import Flow
from simulator.network.periodic import Periodic

__all__ = ["Recall", "Situation"]

_MOST_FLOWS = 64
_MOST_SITUATIONS = 256

Key = tuple[tuple[Hashable, ...], ...]
Got = tuple[float, Mapping[int, float], Mapping[int, tuple[str, ...]]]


@dataclass(frozen=True)
class Situation:
    """What everybody on the network gets.

    Attributes
    ----------
    flows
        Rate, limits and neighbours of every flow, in the order of the key.
    slow
        Slow-down of the phases of every periodic load.
    held
        The flows the key was made of; they keep its identities alive.
    """

    flows: tuple[Got, ...]
    slow: Mapping[Periodic, tuple[float, ...]]
    held: tuple[Flow, ...]


class Recall:
    """Situations by who is under way. A way is known by its identity: who repeats a transfer hands in the same one.

    Attributes
    ----------
    useful
        Whether situations are worth remembering: something periodic has been on the network.
    """

    def __init__(self) -> None:
        self.useful = False
        self._known: dict[Key, Situation] = {}

    def clear(self) -> None:
        """Forget everything: a link has changed."""
        self._known.clear()

    def find(self, flows: Collection[Flow]) -> tuple[Key, list[Flow], Situation | None] | None:
        """Key, flows in its order, and what they got before; ``None`` when there are too many to look."""
        if len(flows) > _MOST_FLOWS:
            return None
        pairs = sorted(((_identity(flow), flow.number, flow) for flow in flows), key=lambda pair: pair[:2])
        key = tuple(identity for identity, _, _ in pairs)
        return key, [flow for _, _, flow in pairs], self._known.get(key)

    def keep(self, key: Key, flows: list[Flow], slow: Mapping[Periodic, tuple[float, ...]]) -> None:
        """Remember what ``flows`` have now."""
        if len(self._known) >= _MOST_SITUATIONS:
            self._known.clear()
        got = tuple((flow.rate, flow.limits, flow.beside) for flow in flows)
        self._known[key] = Situation(got, dict(slow), tuple(flows))


def _identity(flow: Flow) -> tuple[Hashable, ...]:
    return tuple(_parts(flow))


def _parts(flow: Flow) -> Iterator[Hashable]:
    yield id(flow.way)
    yield flow.tag
    yield flow.cap
    yield flow.weight
    yield id(flow.load) if flow.load is not None else 0
    yield flow.load.key if flow.load is not None else 0.0
