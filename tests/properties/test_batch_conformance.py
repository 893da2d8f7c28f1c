"""Every registered batching policy passes the check that a user's own has to pass; a broken one does not."""

from __future__ import annotations

import pytest

from simulator.registry import strategies
from simulator.serving.conformance import ConformanceError, check_batch_policy
from simulator.strategies.batching.first_come import FirstCome, Seats
from simulator.strategies.protocols import BatchPlan, ReplicaView


@pytest.mark.parametrize("name", [record.name for record in strategies(family="batching")])
def test_conformance(name: str) -> None:
    check_batch_policy(name)


class Forgetful(FirstCome):
    """Admits one request, and never looks at the queue again while it runs; claims an endless horizon."""

    name = "forgetful"

    def schedule(self, replica: ReplicaView, now: float) -> BatchPlan:
        if replica.waiting and replica.outstanding % 2 and Seats(replica).take(replica.waiting[0]):
            return BatchPlan([(replica.waiting[0], replica.waiting[0].remaining_prefill)])
        return BatchPlan()


class Shy(Forgetful):
    """Would take a second request after ten tokens of the first, but does not say so."""

    name = "shy"

    def schedule(self, replica: ReplicaView, now: float) -> BatchPlan:
        if replica.waiting and all(replica.produced(r) > 10 for r in replica.decoding):
            seats = Seats(replica, replica.secure_decodes())
            if seats.take(replica.waiting[0]):
                return BatchPlan([(replica.waiting[0], replica.waiting[0].remaining_prefill)])
        return BatchPlan()


@pytest.mark.parametrize(("policy", "rule"), [(Forgetful(), "never finished"), (Shy(), "horizon")])
def test_broken_policies_are_caught(policy: FirstCome, rule: str) -> None:
    with pytest.raises(ConformanceError, match=rule):
        check_batch_policy(policy)
