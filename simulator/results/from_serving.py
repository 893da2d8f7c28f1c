"""Tables of one served deployment: summary row, requests, and the state of replicas over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.results.tables import Columns

__all__ = ["serving_tables"]

_WITH_TEXTS = ("rejections",)


def serving_tables(
    workload: str,
    summary: Mapping[str, Any],
    requests: Mapping[str, NDArray[Any]],
    *,
    accelerators: int,
    replicas: int,
    plan: str = "",
    samples: Sequence[tuple[int, float, int, int, int]] = (),
    kv_blocks: int = 0,
    rejections: Sequence[str] = ("",),
    feasible: bool = True,
    reason: str = "",
) -> dict[str, Columns]:
    """The tables of a deployment.

    Parameters
    ----------
    workload, plan
        Name, and layout of one replica in short form.
    summary
        Metrics by name, see ``schema.csv``; the mapping ``rejections`` becomes a text.
    requests
        Columns per request: arrival, scheduled, first_token, finish [s]; input_tokens, output_tokens, preemptions,
        replica, rejected (index into ``rejections``).
    accelerators, replicas
        Of the whole deployment.
    samples
        (replica, time [s], waiting, running, KV blocks held), and ``kv_blocks`` per replica.
    """
    row: dict[str, Any] = {
        "workload": workload, "kind": "serving", "depth": "run", "feasible": feasible, "reason": reason, "plan": plan,
        "accelerators": accelerators, "replicas": replicas,
    }  # fmt: skip
    row |= {key: value for key, value in summary.items() if key not in _WITH_TEXTS}
    lost: Mapping[str, int] = summary.get("rejections") or {}
    row["rejections"] = "; ".join(f"{count} {why}" for why, count in lost.items())
    tables: dict[str, Columns] = {"summary": {key: [value] for key, value in row.items()}}
    if requests:
        tables["requests"] = _requests(workload, requests, rejections)
    if samples:
        replica, time, waiting, running, blocks = (list(column) for column in zip(*samples, strict=True))
        tables["resources"] = {
            "workload": [workload] * len(time), "resource": ["replica"] * len(time), "replica": replica, "time": time,
            "waiting": waiting, "running": running, "kv_blocks": blocks,
            "kv_occupancy": [b / kv_blocks if kv_blocks else float("nan") for b in blocks],
        }  # fmt: skip
    return tables


def _requests(workload: str, columns: Mapping[str, NDArray[Any]], rejections: Sequence[str]) -> Columns:
    arrival, first, finish = columns["arrival"], columns["first_token"], columns["finish"]
    count = len(arrival)
    more = columns["output_tokens"] > 1
    gaps = np.where(more, columns["output_tokens"] - 1.0, np.nan)
    rejected = np.asarray(columns["rejected"])
    status = np.where(np.isnan(finish), "unfinished", "completed").astype(object)
    for code, why in enumerate(rejections):
        if code:
            status[rejected == code] = why
    return {
        "workload": [workload] * count,
        "request": list(range(count)),
        "replica": columns["replica"],
        "arrival": arrival,
        "scheduled": columns["scheduled"],
        "first_token": first,
        "finish": finish,
        "input_tokens": columns["input_tokens"],
        "output_tokens": columns["output_tokens"],
        "queueing": columns["scheduled"] - arrival,
        "ttft": first - arrival,
        "tpot": (finish - first) / gaps,
        "e2e": finish - arrival,
        "preemptions": columns["preemptions"],
        "status": status,
    }
