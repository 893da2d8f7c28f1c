"""What happened in disaggregated pools."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.serving.pools_transfer import TransferBooks
from simulator.serving.run import ServingRun
from simulator.serving.summary import ServingSummary

__all__ = ["PoolsRun"]


@dataclass(frozen=True)
class PoolsRun:
    """What happened.

    Attributes
    ----------
    run
        Requests and replicas, those of the prefill pool first. ``run.limits`` of rows are the decode pool's, with the
        mean number of KV blocks over all replicas.
    transfers
        Keys and values that travelled.
    """

    run: ServingRun | ServingSummary
    transfers: TransferBooks

    @property
    def transfer_bytes(self) -> NDArray[np.float64]:
        """Keys and values of every request on the wire [B]; NaN where both phases ran on one replica."""
        return self.transfers.bytes

    @property
    def transfer_wait(self) -> NDArray[np.float64]:
        """End of the prompt to all keys and values being in place, the wait for room included [s]."""
        return self.transfers.waits
