"""Iteration times of what runs beside a model's own layers, or runs them in another way, around a replica's cost."""

from __future__ import annotations

from simulator.hardware.types import Node
from simulator.serving.iteration import ReplicaCost
from simulator.serving.message_links import Away
from simulator.serving.speculative import SpeculativeCost
from simulator.strategies.cascade.models import EarlyExit
from simulator.strategies.protocols import BatchShape, Segment
from simulator.strategies.serving_protocols import FOREVER
from simulator.workload.framework import Framework
from simulator.workload.ops import OpKind, Work

__all__ = ["DenoisingCost", "EarlyExitCost", "EncoderDecoderCost", "TowerCost", "WrappedCost"]


class WrappedCost:
    """The cost of a replica, with :meth:`shape` or :meth:`added` changed by what is around it.

    Parameters
    ----------
    base
        The model alone.
    """

    part = "beside"
    """Name of what is added, in a breakdown."""

    def __init__(self, base: ServingBase) -> None:
        self.base = base

    @property
    def stages(self) -> int:
        """Pipeline stages."""
        return self.base.stages

    @property
    def node(self) -> Node:
        """Where it runs."""
        return self.base.node

    @property
    def framework(self) -> Framework:
        """The engine."""
        return self.base.framework

    @property
    def priced(self) -> list[ReplicaCost]:
        """Every model that is priced."""
        return self.base.priced

    @property
    def used(self) -> set[str]:
        """Ids of the constants the times rest on."""
        return set().union(*(cost.used for cost in self.priced))

    def shape(self, batch: BatchShape) -> BatchShape:
        """What the model computes for a batch of requests."""
        return batch

    def added(self, batch: BatchShape) -> float:
        """Seconds on the first stage beside the model's own; for decodes alone it depends on their number only."""
        return 0.0

    def stage_times(self, batch: BatchShape) -> list[float]:
        """Seconds each stage is occupied by ``batch``."""
        times = list(self.base.stage_times(self.shape(batch)))
        times[0] += self.added(batch)
        return times

    def iteration(self, batch: BatchShape) -> float:
        """Duration of one iteration through all stages [s]."""
        return sum(self.stage_times(batch))

    @property
    def yielded(self) -> float:
        """Tokens per sequence of an iteration of the engine."""
        return self.base.yielded if isinstance(self.base, SpeculativeCost | WrappedCost) else 1.0

    def ahead(self, batch: BatchShape) -> float:
        """What an iteration of the engine lasts longer for the tokens beyond the first [s]."""
        base = self.base
        return base.ahead(self.shape(batch)) if isinstance(base, SpeculativeCost | WrappedCost) else 0.0

    def decode_segment(self, batch: BatchShape) -> Segment:
        """The base's, longer by the same every time."""
        base = self.base.decode_segment(batch)
        return base._replace(base=base.base + self.added(batch))

    def floor(self, batch: BatchShape) -> float:
        """Roofline bound: that of the model."""
        return self.base.floor(self.shape(batch))

    def flops(self, batch: BatchShape) -> float:
        """FLOPs of the model on one rank of each stage together."""
        return self.base.flops(self.shape(batch))

    def traffic(self, batch: BatchShape) -> dict[str, float]:
        """Bytes by link class of the model, over one rank of each stage together."""
        return self.base.traffic(self.shape(batch))

    def away(self, batch: BatchShape) -> tuple[Away, ...]:
        """What the model sends between domains."""
        return self.base.away(self.shape(batch))

    def breakdown(self, batch: BatchShape) -> dict[str, float]:
        """Where the seconds of an iteration go: they add up to :meth:`iteration`."""
        more = self.added(batch)
        return self.base.breakdown(self.shape(batch)) | ({self.part: more} if more else {})


ServingBase = ReplicaCost | SpeculativeCost | WrappedCost
"""Anything that gives a replica its times."""


class DenoisingCost(WrappedCost):
    """A diffusion transformer: every step of every image is a pass over all its tokens.

    The engine counts steps as it counts output tokens: one per sequence and iteration.

    Parameters
    ----------
    tokens
        Of an image.
    passes
        Per step: 2 with classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598), else 1.
    """

    def __init__(self, base: ServingBase, tokens: int, passes: int = 1) -> None:
        super().__init__(base)
        self.tokens, self.passes = tokens, passes

    def shape(self, batch: BatchShape) -> BatchShape:
        """All images of the batch whole."""
        images = batch.decodes + len(batch.prefill)
        return BatchShape(((self.tokens, 0),) * (images * self.passes), 0, 0)

    def decode_segment(self, batch: BatchShape) -> Segment:
        """Every step is like the last."""
        return Segment(self.iteration(batch), 0.0, FOREVER)


class EarlyExitCost(WrappedCost):
    """Decoding tokens leave the stack early: a batch runs as deep as its deepest token.

    Prompts run through all layers, and the cache is filled to the top as if every token did (CALM copies the state of
    the last layer reached into the layers above).

    Parameters
    ----------
    exits
        The strategy: expected layers for a batch of so many tokens.
    layers
        Of the model.
    """

    def __init__(self, base: ServingBase, exits: EarlyExit, layers: int) -> None:
        super().__init__(base)
        self.exits, self.layers = exits, layers

    def _saved(self, decodes: int) -> float:
        """Share of the layers that a batch of so many tokens leaves out."""
        return 1.0 - self.exits.depth(decodes) / self.layers if decodes else 0.0

    def _device(self, batch: BatchShape) -> float:
        """Device seconds of the decodes of a batch in all layers."""
        return sum(self.priced[0].device_times(batch._replace(prefill=())))

    def stage_times(self, batch: BatchShape) -> list[float]:
        """Every stage is shorter in proportion to its time."""
        times = self.base.stage_times(batch)
        whole = sum(times)
        left = (whole - self._saved(batch.decodes) * self._device(batch)) / whole if batch.decodes else 1.0
        return [time * left for time in times]

    def decode_segment(self, batch: BatchShape) -> Segment:
        """The base's, without the layers left out."""
        base, slope, valid = self.base.decode_segment(batch)
        saved = self._saved(batch.decodes)
        return Segment(base - saved * self._device(batch), slope * (1.0 - saved), valid)

    def away(self, batch: BatchShape) -> tuple[Away, ...]:
        """What the layers that run send between domains."""
        left = 1.0 - self._saved(batch.decodes)
        return tuple(a._replace(size=left * a.size, seconds=left * a.seconds) for a in self.base.away(batch))

    def floor(self, batch: BatchShape) -> float:
        """Roofline bound of the layers that run."""
        return self.base.floor(batch) * (1.0 - self._saved(batch.decodes))

    def breakdown(self, batch: BatchShape) -> dict[str, float]:
        """Where the seconds of an iteration go: they add up to :meth:`iteration`."""
        parts = self.base.breakdown(batch)
        share = self.iteration(batch) / sum(parts.values())
        return {name: share * seconds for name, seconds in parts.items()}


class EncoderDecoderCost(WrappedCost):
    """An encoder-decoder model: its encoder reads the prompt, the decoder begins with one token.

    Keys and values of the prompt are projected once, in every decoder layer. A generated token attends to them and to
    the tokens before it: together as many as the context of a decoder alone, which is why decoding and cache are the
    base's. The part of a prompt in a chunk is encoded as if it were alone: encoders want ``prefill-first`` batching.

    Parameters
    ----------
    encoder
        Cost of the encoder.
    cross
        Layers with cross-attention and the width of their keys and values on one rank.
    """

    part = "encoder"

    def __init__(self, base: ServingBase, encoder: ReplicaCost, cross: tuple[int, int]) -> None:
        super().__init__(base)
        self.encoder, self.cross = encoder, cross

    @property
    def priced(self) -> list[ReplicaCost]:
        """The decoder and the encoder."""
        return [*self.base.priced, self.encoder]

    def shape(self, batch: BatchShape) -> BatchShape:
        """One token for every prompt that begins."""
        starts = sum(context == 0 for _, context in batch.prefill)
        return batch._replace(prefill=((1, 0),) * starts)

    def added(self, batch: BatchShape) -> float:
        """The encoder's pass over the prompts, and their keys and values for every decoder layer."""
        if not batch.prefill:
            return 0.0
        layers, width = self.cross
        tokens, hidden = sum(chunk for chunk, _ in batch.prefill), self.encoder.model.hidden_size
        moved = 2.0 * (tokens * hidden + hidden * width + tokens * width)
        project = Work(OpKind.GEMM, "bf16", 2.0 * tokens * hidden * width, moved, tokens, width, hidden)
        encoded = sum(self.encoder.device_times(batch._replace(decodes=0, decode_context=0)))
        return encoded + layers * self.encoder.device.price(project).seconds


class TowerCost(WrappedCost):
    """A multimodal model: towers turn the items of a prompt (images) into tokens before its first chunk.

    Parameters
    ----------
    towers
        Costs of the towers, and the tokens each reads per item.
    items
        Per request.

    Notes
    -----
    A prompt that is split into chunks has all its items encoded with the first. The projector between tower and
    backbone is left out: under 1 % of the tower's FLOPs for LLaVA-1.5.
    """

    part = "encoder"

    def __init__(self, base: ServingBase, towers: list[tuple[ReplicaCost, int]], items: int) -> None:
        super().__init__(base)
        self.towers, self.items = towers, items

    @property
    def priced(self) -> list[ReplicaCost]:
        """The model and its towers."""
        return [*self.base.priced, *(cost for cost, _ in self.towers)]

    def added(self, batch: BatchShape) -> float:
        """Passes of the towers over the items of new prompts."""
        fresh = self.items * sum(context == 0 for _, context in batch.prefill)
        if not fresh:
            return 0.0
        return sum(sum(cost.device_times(BatchShape(((size, 0),) * fresh, 0, 0))) for cost, size in self.towers)
