"""What load a published serving entry describes, and what was assumed where it does not say.

An entry names a kind of load, mean lengths, perhaps a trace and a concurrency. What it says is checked against its own
figures: by Little's law the requests in the system are their rate times their time in it, so that a concurrency below
that was not in force.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from simulator.validation.models import IncompleteError
from simulator.workload.requests.files import load_workload

__all__ = ["LOADED", "idle_clients", "load_of", "number"]

LOADED = ("closed_loop", "all_at_once", "offline_max_load", "online")
OFFLINE_REQUESTS = 1000
"""Requests of an offline run that does not say how many: vLLM's throughput benchmark default."""

SLACK = 1.1
"""By how much Little's law may exceed the stated concurrency."""

ALIKE = 0.1
"""Mean lengths this close to those of a shipped workload are its lengths, where an entry names no trace."""

CHAT = "sharegpt"


def number(workload: Mapping[str, Any], key: str) -> float:
    """A stated figure or mean, 0 if there is none."""
    value = workload.get(key) or workload.get(f"{key}_mean")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0.0
    return float(value) if 0 < value < math.inf else 0.0


def load_of(kind: str, entry: Mapping[str, Any]) -> tuple[str, dict[str, Any], list[str]]:
    """Kind of load that was in force, settings of the run, and what was assumed.

    Raises
    ------
    IncompleteError
        If lengths, rate or concurrency are not stated.
    """
    workload = entry["workload"]
    lengths = {k: number(workload, k) for k in ("isl", "osl")}
    if missing := [k for k, v in lengths.items() if not v]:
        raise IncompleteError(f"{', '.join(missing)} not stated")
    rate = number(workload, "rate_rps")
    if kind == "online" and not rate:
        raise IncompleteError("rate of requests not stated")
    if kind == "closed_loop" and not number(workload, "conc"):
        raise IncompleteError("concurrency not stated")
    sent, concurrency = (int(number(workload, k)) for k in ("num_requests", "conc"))
    # A closed loop of more clients than requests would never be full.
    count = sent or max(OFFLINE_REQUESTS, concurrency)
    assumed = [] if sent else [f"{count} requests"]
    law, spread, words = _law(workload, lengths)
    assumed.append(words)
    inside = _in_system(entry, count, lengths["osl"])
    if kind == "closed_loop" and inside > SLACK * concurrency:
        assumed.append(f"all at once: by Little's law {inside:.0f} requests were there, not {concurrency}")
        kind, concurrency = "all_at_once", 0
    settings = {
        **lengths,
        "count": count,
        "spread": spread,
        "like": law,
        "concurrency": concurrency,
        "rate": rate,
        "offline": kind == "offline_max_load",
    }
    return kind, settings, assumed


LONGEST = 6
"""No request of a closed loop takes longer than so many mean ones, when the run ends with the last of them."""


def idle_clients(entry: Mapping[str, Any]) -> str:
    """Why a closed loop was not in force: its own times leave the clients without a request for most of the run.

    ``count`` requests of mean time R over ``clients`` places last no longer than count · R / clients and the longest
    request behind. Where the run took longer, the clients were busy otherwise: one that falls behind on reading answers
    (guidellm with 512 of them, in GPUStack's pages of 2026) stamps tokens late and sends late, and the figures are its
    own. ``""`` where the entry is consistent or does not say enough.
    """
    workload = entry["workload"]
    clients, count = number(workload, "conc"), number(workload, "num_requests")
    if workload.get("kind") != "closed_loop" or not clients or not count:
        return ""
    inside = _in_system(entry, int(count), number(workload, "osl"))
    if not inside or inside >= clients * count / (count + LONGEST * clients):
        return ""
    return f"by Little's law its times fill {inside:.0f} of {clients:.0f} clients: they were busy otherwise"


def _law(workload: Mapping[str, Any], lengths: Mapping[str, float]) -> tuple[str, float, str]:
    """Workload whose law of lengths holds, else sigma of a log-normal one; in words."""
    trace = str(workload.get("trace") or "").lower()
    if trace == CHAT:
        return CHAT, 0.0, "lengths spread as the shipped sharegpt workload"
    if trace:
        return "", 1.0, "lengths log-normal with sigma 1"
    published = load_workload(CHAT).published
    if all(abs(lengths[k] / published[f"{v}_tokens_mean"] - 1) < ALIKE for k, v in SIDES.items()):
        return CHAT, 0.0, "lengths spread as the shipped sharegpt workload, whose means these are"
    return "", 0.0, "lengths of the mean"


SIDES = {"isl": "input", "osl": "output"}


def _in_system(entry: Mapping[str, Any], count: int, answer: float) -> float:
    """Mean number of requests in the system by Little's law, from the entry's own figures; 0 where one is missing."""
    metrics = entry["metrics"]
    first, token, whole = (metrics.get(k) for k in ("ttft_ms_mean", "tpot_ms_mean", "duration_s"))
    if not (first and token and whole):
        return 0.0
    return float(count * (first + token * (answer - 1)) * 1e-3 / whole)
