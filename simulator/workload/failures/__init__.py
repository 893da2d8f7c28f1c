"""Failures of a cluster: rates and repair times by kind, recorded traces, and the shipped records."""

from simulator.workload.failures.files import failure_records, load_failures, read_failures
from simulator.workload.failures.model import FailureKind, FailureModel, NodeEvents, Repair
from simulator.workload.failures.readers import read_node_events

__all__ = [
    "FailureKind", "FailureModel", "NodeEvents", "Repair", "failure_records", "load_failures", "read_failures",
    "read_node_events",
]  # fmt: skip
