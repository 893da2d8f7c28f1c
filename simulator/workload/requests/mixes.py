"""Several kinds of requests on one deployment, each from a tenant of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simulator.errors import ConfigError
from simulator.workload.requests.provenance import TraceProvenance
from simulator.workload.requests.table import PrefixBlocks, RequestTable

__all__ = ["Part", "merged"]


@dataclass(frozen=True)
class Part:
    """Requests of one tenant: a workload by name, its share of the common rate, and its urgency.

    A rate is of sessions where the workload has them, so such a share counts sessions, not their requests.
    """

    workload: str
    share: float
    priority: int = 0


def merged(tables: Sequence[RequestTable], parts: Sequence[Part], name: str) -> RequestTable:
    """All requests in order of arrival; the column ``client`` says which part they belong to.

    Sessions of different parts stay apart, and so do their shared prefixes.

    Raises
    ------
    ConfigError
        If a part is a closed loop, or prompts are cut into blocks of different sizes.
    """
    if any(t.closed_loop_concurrency is not None for t in tables):
        raise ConfigError(f"'{name}': a closed loop has no arrival times, it cannot be part of a mix")
    sizes = {t.prefix_block_tokens for t in tables if t.prefix_blocks is not None}
    arrival = np.concatenate([t.arrival for t in tables])
    order = np.argsort(arrival, kind="stable")
    counts = [len(t) for t in tables]
    first = np.cumsum([0, *counts[:-1]])
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    columns: dict[str, Any] = {"client": np.repeat(np.arange(len(tables)), counts)}
    if any(p.priority for p in parts):
        columns["priority"] = np.repeat([p.priority for p in parts], counts)
    if any(t.parent is not None for t in tables):
        parents = [
            np.full(len(t), -1) if t.parent is None else np.where(t.parent < 0, -1, place[t.parent + at])
            for t, at in zip(tables, first, strict=True)
        ]
        columns["parent"] = np.concatenate(parents)
        columns["think_time"] = np.concatenate(
            [np.full(len(t), np.nan) if t.think_time is None else t.think_time for t in tables]
        )
    if any(t.session is not None for t in tables):
        columns["session"] = _sessions(tables)
    sorted_columns: dict[str, Any] = {key: np.asarray(values)[order] for key, values in columns.items()}
    return RequestTable(
        arrival=arrival[order],
        input_tokens=np.concatenate([t.input_tokens for t in tables])[order],
        output_tokens=np.concatenate([t.output_tokens for t in tables])[order],
        name=name,
        provenance=TraceProvenance(
            "; ".join(f"{p.share:.3g} of the rate: {p.workload}" for p in parts), "generated",
            len(order), len(order),
            synthetic_fields=("arrival", "input_tokens", "output_tokens"), time_resolution_s=0.0,
        ),
        prefix_blocks=_prefixes(tables, order) if sizes else None,
        prefix_block_tokens=sizes.pop() if len(sizes) == 1 else 0,
        **sorted_columns,
    )  # fmt: skip


def _sessions(tables: Sequence[RequestTable]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Numbers of sessions, those of a part behind those of the parts before; a request without one is its own."""
    found, base = [], 0
    for table in tables:
        own = np.arange(len(table)) if table.session is None else table.session
        found.append(own.astype(np.int64) + base)
        base += int(own.max()) + 1 if len(own) else 0
    return np.concatenate(found)


def _prefixes(tables: Sequence[RequestTable], order: np.ndarray[Any, np.dtype[np.intp]]) -> PrefixBlocks:
    """Blocks of all parts, each with its length where the parts cut their prompts differently."""
    offsets, ids, tokens, base = [np.zeros(1, dtype=np.int64)], [], [], 0
    for number, table in enumerate(tables):
        blocks = table.prefix_blocks
        if blocks is None:
            blocks = PrefixBlocks(np.zeros(len(table) + 1, dtype=np.int64), np.zeros(0, dtype=np.int64))
        offsets.append(blocks.offsets[1:] + base)
        base += int(blocks.offsets[-1])
        # A part's own ids, told apart by its number: low bits of 2^58 are more than any source has.
        ids.append(blocks.ids + (np.int64(number) << 58))
        fixed = np.full(len(blocks.ids), table.prefix_block_tokens, dtype=np.int32)
        tokens.append(fixed if blocks.tokens is None else blocks.tokens)
    sizes = {t.prefix_block_tokens for t in tables if t.prefix_blocks is not None}
    joined = np.concatenate(tokens)
    equal = len(sizes) == 1 and 0 not in sizes
    return PrefixBlocks(np.concatenate(offsets), np.concatenate(ids), None if equal else joined).take(order)
