"""Keys and values on their way from the replica that computed them to the one that decodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from simulator.results.sketch import QuantileSketch
from simulator.serving.footprint import kv_bytes_per_token, state_bytes
from simulator.workload.model import ModelSpec
from simulator.workload.ops import DTYPE_BYTES

if TYPE_CHECKING:
    from simulator.engine.clock import Clock
    from simulator.network.fabric import Fabric

_BUFFER = 8192

__all__ = ["FabricLink", "KVLink", "PointToPoint", "TransferBooks", "kv_wire_bytes"]


def kv_wire_bytes(model: ModelSpec, tokens: int, kv_dtype: str = "bf16") -> float:
    """Keys and values of ``tokens`` tokens, each once however the ranks replicate them [B].

    2 · layers · kv_heads · head_dim · tokens · width for multi-head and grouped attention, layers · (latent + rope) ·
    tokens · width for latent attention (Splitwise, arXiv 2311.18677; DeepSeek-V2, arXiv 2405.04434). A sliding window
    sends its window only; recurrent layers send their state.
    """
    width, total = DTYPE_BYTES[kv_dtype], 0.0
    for layer, count in model.layers:
        spec = layer.attention
        if spec is None:
            continue
        sent = min(tokens, spec.sliding_window) if spec.kind == "sliding" and spec.sliding_window else tokens
        total += count * (sent * kv_bytes_per_token(spec, 1, width) + state_bytes(spec, 1))
    return total


class TransferBooks:
    """What was sent for every request and how long it took, or sums and a sketch of it.

    Parameters
    ----------
    rows
        Requests to keep rows of; 0: their sums and a sketch only.

    Attributes
    ----------
    bytes, waits
        Of every request [B], [s]; NaN for one that did not travel.
    total
        Of all requests [B].
    """

    def __init__(self, rows: int = 0) -> None:
        self.bytes, self.waits = np.full(rows, math.nan), np.full(rows, math.nan)
        self.total = 0.0
        self._sketch, self._buffer = QuantileSketch(), list[float]()

    def sent(self, row: int, size: float) -> None:
        """A request's keys and values begin the last part of their way [B]."""
        self.total += size
        if len(self.bytes):
            self.bytes[row] = size

    def arrived(self, row: int, wait: float) -> None:
        """All of them are in place, ``wait`` [s] after the end of the prompt."""
        if len(self.waits):
            self.waits[row] = wait
            return
        self._buffer.append(wait)
        if len(self._buffer) >= _BUFFER:
            self._flush()

    def _flush(self) -> None:
        if self._buffer:
            self._sketch.add(np.maximum(self._buffer, 0.0))
            self._buffer.clear()

    def wait_columns(self) -> dict[str, float]:
        """Mean and 99th percentile of the waits [s]; nothing where nothing travelled."""
        self._flush()
        waits = self.waits[~np.isnan(self.waits)]
        if len(waits):
            found = float(waits.mean()), float(np.percentile(waits, 99))
        elif self._sketch.count:
            found = self._sketch.mean, self._sketch.quantile(0.99)
        else:
            return {}
        return {"kv_transfer_wait_mean": found[0], "kv_transfer_wait_p99": found[1]}


class KVLink(Protocol):
    """Carries bytes between replicas."""

    def send(self, source: int, target: int, size: float, rate: float, done: Callable[[], object]) -> None:
        """Send ``size`` [B] at ``rate`` [B/s] at most, from now on; ``done`` is called when the last byte is there."""


class PointToPoint:
    """A link of its own for every transfer: latency + bytes / bandwidth.

    Parameters
    ----------
    clock
        The one clock.
    bandwidth, latency
        [B/s] between two replicas, all their ports together; infinity is allowed; [s].
    """

    def __init__(self, clock: Clock, bandwidth: float, latency: float = 0.0) -> None:
        if not (bandwidth > 0.0 and 0.0 <= latency < math.inf):
            raise ValueError(f"a link needs a bandwidth above 0 and a latency, not {bandwidth} B/s and {latency} s")
        self.clock, self.bandwidth, self.latency = clock, bandwidth, latency
        self.sent = 0.0
        """Bytes so far."""

    def send(self, source: int, target: int, size: float, rate: float, done: Callable[[], object]) -> None:
        """See :class:`KVLink`."""
        self.sent += size
        self.clock.after(self.latency + size / min(self.bandwidth, rate), done)


class FabricLink:
    """Flows on the shared fabric, one lane per accelerator of the wider replica.

    Parameters
    ----------
    clock, fabric
        Where the flows run, together with those of everybody else.
    endpoints
        Accelerators of every replica, as end points of the fabric's topology.
    tag
        Whom the fabric books them to.
    """

    def __init__(self, clock: Clock, fabric: Fabric, endpoints: Sequence[Sequence[int]], tag: str = "kv") -> None:
        self.clock, self.fabric, self.endpoints, self.tag = clock, fabric, endpoints, tag
        self.sent = 0.0
        """Bytes so far."""

    def send(self, source: int, target: int, size: float, rate: float, done: Callable[[], object]) -> None:
        """See :class:`KVLink`; lane i joins accelerators i·n/lanes of both sides."""
        self.sent += size
        ours, theirs = self.endpoints[source], self.endpoints[target]
        lanes = max(len(ours), len(theirs))
        flows = [
            self.fabric.transfer(
                (ours[i * len(ours) // lanes], theirs[i * len(theirs) // lanes]), size / lanes, cap=rate / lanes,
                tag=self.tag, endpoints=True,
            )
            for i in range(lanes)
        ]  # fmt: skip

        def arrived(_: Any) -> None:
            done()

        every = self.clock.all_of(flows)
        assert every.callbacks is not None
        every.callbacks.append(arrived)
