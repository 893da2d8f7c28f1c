"""Iterations whose batch runs as two halves that take turns on computation and on messages between experts.

Per layer a half computes for C seconds (attention included) and its rows are under way for M seconds. Both halves need
the one device and the one network, so a layer of both takes at least 2C and at least 2M, and each half its own C + M,
which is never more than the longer of the two: the layer takes 2·max(C, M) once both are under way. What fills and
drains the first and the last layer, one C and one M of 61 layers, is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from simulator.serving.iteration import ReplicaCost
from simulator.serving.launches import beside
from simulator.strategies.batch_overlap.halves import BatchOverlap
from simulator.strategies.protocols import BatchShape, Segment
from simulator.strategies.serving_protocols import FOREVER
from simulator.workload.model import LayerSpec

__all__ = ["DualBatchCost"]


class DualBatchCost(ReplicaCost):
    """:class:`ReplicaCost` of a deployment with ``batch_overlap``; parameters as there.

    Parameters
    ----------
    overlap
        How the batch is divided.
    """

    def __init__(self, overlap: BatchOverlap, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.overlap = overlap

    def _layers(self, stage: int, mine: BatchShape) -> Iterator[tuple[int, float, float, float]]:
        """Every kind of layer of a stage: (layers, seconds that half of the batch computes, their growth per iteration,
        seconds that its messages take)."""
        tokens, mixed = self.tokens(mine), bool(mine.prefill)
        half, captured = -(-tokens // 2), self._captured(tokens, mixed)
        share = self.overlap.compute_share(mixed)
        for layer, count in self.layers_of_stage[stage].items():
            whole = self.costs.seconds(layer, half, captured=captured)
            sent = self.costs.messages(layer, half, captured=captured)
            attended, growth = self._attended(layer, mine)
            yield count, (whole - sent + attended / 2) / share, growth / 2 / share, sent

    def _attended(self, layer: LayerSpec, mine: BatchShape) -> tuple[float, float]:
        """Attention seconds of one layer over the whole batch, and their growth per iteration."""
        if layer.attention is None:
            return 0.0, 0.0
        batch, term = self.attended(mine), self._term(layer.attention)
        seconds = term.prefill(batch.prefill) if batch.prefill else 0.0
        if not batch.decodes:
            return seconds, 0.0
        now, growth, _ = term.decode(batch.decodes, batch.decode_context)
        return seconds + now, growth

    def _ends(self, stage: int, mine: BatchShape) -> float:
        """Embedding, head and what a stage hands on: the whole batch at once."""
        tokens, mixed = self.tokens(mine), bool(mine.prefill)
        seconds = self.layer_gaps(stage)
        if stage == 0:
            seconds += self.costs.seconds("embedding", tokens, captured=self._captured(tokens, mixed))
        return seconds + (
            self._head_seconds(self.rows(mine)) if stage == self.stages - 1 else self._send_seconds(tokens)
        )

    def device_times(self, batch: BatchShape) -> list[float]:
        """Device seconds of each stage."""
        mine = self.local(batch)
        tokens, times = self.tokens(mine), []
        for stage in range(self.stages):
            device = sum(2 * n * max(computes, sent) for n, computes, _, sent in self._layers(stage, mine))
            launches = self._launches(stage, tokens, mine.decodes, bool(mine.prefill))
            device = beside(device + self._ends(stage, mine), launches, self._exposed)
            times.append(max(device + self.stream.exposed(stage, tokens), self.stream.hidden(stage, tokens)))
        return times

    def decode_segment(self, batch: BatchShape) -> Segment:
        """Durations of the next iterations of an unchanged decode batch: those layers grow whose messages are hidden,
        until others join them or a window is full."""
        mine = self.local(batch)
        slope, valid = 0.0, FOREVER
        for stage in range(self.stages):
            valid = min(valid, self.decode_attention(stage, mine)[2])
            for count, computes, growth, sent in self._layers(stage, mine):
                if computes >= sent:
                    slope += 2 * count * growth
                elif growth > 0:
                    valid = min(valid, int((sent - computes) / growth) + 1)
        times = self.stage_times(batch)
        bare = sum(
            sum(2 * n * max(c, m) for n, c, _, m in self._layers(stage, mine)) + self._ends(stage, mine)
            for stage in range(self.stages)
        )
        host = 0.0 if self.framework.async_scheduling else self.host_seconds(batch.decodes)
        if abs(sum(times) - host - bare) > 1e-12 * bare:  # the host or a stream of weights waits: one step at a time
            valid = 1
        return Segment(sum(times), slope, max(1, valid))

    def breakdown(self, batch: BatchShape) -> dict[str, float]:
        """Where the seconds of an iteration go; messages are what no computation hides."""
        mine, exposed, attention = self.local(batch), 0.0, 0.0
        for stage in range(self.stages):
            for (count, computes, _, sent), layer in zip(
                self._layers(stage, mine), self.layers_of_stage[stage], strict=True
            ):
                exposed += 2 * count * max(0.0, sent - computes)
                attention += count * self._attended(layer, mine)[0] / self.overlap.compute_share(bool(mine.prefill))
        gaps = sum(self.layer_gaps(stage) for stage in range(self.stages))
        host = self.iteration(batch) - sum(self.device_times(batch)) + gaps
        linear = self.iteration(batch) - host - attention - exposed
        return {"attention": attention, "linear": linear, "expert_parallel": exposed, "host": host}

    def separate(self) -> None:
        """Halves are no sum of terms."""
        return
