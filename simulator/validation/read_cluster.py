"""Published failures and checkpoints: the sections of a measurements file that a whole cluster answers.

Rates of failure are never predicted from the record itself: a site's figures are answered with the rates that another
site published.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from simulator.validation.cases import Case, Labels, Measurement, Subject
from simulator.validation.models import IncompleteError
from simulator.workload.failures.uncertainty import SITE_SPREAD

__all__ = ["CLUSTER_SECTIONS"]

DAY, HOUR = 86400.0, 3600.0

OTHER_SITE = {"infinitehbd_trace": "llama3-2024", "ft_hsdp": "llama3-2024", "imbue_70b": "stepfun-2024"}
"""Record → whose rates answer it; StepFun's otherwise, as the record with the plainest count of node failures."""

COUNTED = {
    "meta_rsc": (
        "RSC-1 states 6.5 failures per 1,000 node-days where the rates used here have 4.2, and RSC-2 of the same owner "
        "2.34; the time measured at 1,024 GPUs counts all ends of jobs, lemon nodes included, and no rate of "
        "infrastructure fits it and the two projections"
    ),
    "bloom176b": "one failure a week of GPUs alone; hardware alone at StepFun is 2.16 per 1,000 node-days, half of all",
    "opt175b": (
        "two machines a day of 124, four times any other site; in the first months of a new cluster, and machines that "
        "were only suspected were cycled too"
    ),
    "ft_hsdp": "2.3 per 1,000 servers and day, as RSC-2 of the same owner; no size or age of the cluster is stated",
}
"""Record → what it counts, where that is not what the rates of the other site count."""


def _labels(record: Mapping[str, Any], section: str) -> Labels:
    source = record["source"]
    gpu = (record.get("cluster") or {}).get("gpu", "undisclosed")
    return Labels(
        str(source), str(gpu), str(record.get("model", section)), "", "", "", "cluster", section,
        str(record.get("quality", "B")),
    )  # fmt: skip


def _failure_case(record: Mapping[str, Any], file: str) -> Case:
    """Counts and times between failures, whichever the record states."""
    cluster = record.get("cluster") or {}
    accelerators, per_node = int(cluster.get("n_gpus") or 0), int(cluster.get("gpus_per_node") or 8)
    days, found = float(record.get("window_days") or 0), list[Measurement]()
    if record.get("unexpected") and accelerators and days:
        found.append(Measurement("failures", float(record["unexpected"]), f"count {accelerators} {days * DAY:.0f}"))
    if str(record.get("effective_training_time", "")).startswith(">"):
        found.append(Measurement("bound", 1.0, "effective_time"))
    for size, hours in (record.get("mttf_hours") or {}).items():
        found.append(Measurement("failures", float(hours) * HOUR, f"mttf {re.findall('[0-9]+', size)[0]}"))
    if record.get("faults") and cluster.get("nodes") and days:
        quantity = f"count {int(cluster['nodes']) * per_node} {days * DAY:.0f}"
        found.append(Measurement("failures", float(record["faults"]), quantity))
    for key, seconds in (("hardware_failures_per_day", DAY), ("hardware_failures_per_week", 7 * DAY)):
        if record.get(key) and accelerators:
            found.append(Measurement("failures", float(record[key]), f"count {accelerators} {seconds:.0f}"))
    if record.get("interruptions_per_1000_servers_per_day"):
        per_day = float(record["interruptions_per_1000_servers_per_day"])
        found.append(Measurement("failures", per_day, f"count {1000 * per_node} {DAY:.0f}"))
    share = re.search(r"about (\d+) % of machines broke per week", str(record.get("notes", "")))
    if share and accelerators:
        broken = float(share[1]) / 100 * accelerators / per_node
        found.append(Measurement("failures", broken, f"count {accelerators} {7 * DAY:.0f}"))
    if not found:
        raise IncompleteError("states neither a count of failures with size and time, nor a time between two")
    record_id = str(record["id"])
    site = OTHER_SITE.get(record_id, "stepfun-2024")
    settings = (("rates", site), ("quantities", tuple(m.quantity for m in found)), ("run", record_id))
    assumed = (
        f"rates of unannounced failures of {site}, another site (sites differ by a factor of {SITE_SPREAD:g} each)",
        *([COUNTED[record_id]] if record_id in COUNTED else ()),
    )
    return _case(record, file, "failures", found, settings, assumed)


def _checkpoint_case(record: Mapping[str, Any], file: str) -> Case:
    """Bytes of one checkpoint of a shipped model."""
    from simulator.workload.model_files import model_names

    if not record.get("size_tb") or not record.get("model"):
        raise IncompleteError("states no size of a checkpoint of a known model")
    name = str(record["model"]).lower()
    if name not in model_names():
        raise IncompleteError(f"no shipped model '{name}'")
    found = [Measurement("checkpoint", float(record["size_tb"]) * 1e12, "bytes")]
    return _case(record, file, "checkpoint", found, (("model", name),), ("bf16 weights and fp32 Adam states",))


def _case(
    record: Mapping[str, Any], file: str, section: str, found: list[Measurement],
    settings: tuple[tuple[str, object], ...], assumed: tuple[str, ...],
) -> Case:  # fmt: skip
    return Case(
        str(record["id"]), file, str(record.get("split", "")), _labels(record, section),
        Subject(section, None, settings=settings), tuple(found), assumed,
    )  # fmt: skip


CLUSTER_SECTIONS: tuple[tuple[str, Callable[[Mapping[str, Any], str], Case]], ...] = (
    ("failures", _failure_case), ("checkpoints", _checkpoint_case),
)  # fmt: skip
