"""The token-wise part of a serving iteration: everything but attention over the cache, and what it sends.

It depends on the number of tokens alone; it is priced at a grid of token counts and interpolated between them, or
rounded up to the captured size where the engine replays CUDA graphs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cached_property

from simulator.hardware.types import Fabric, Node
from simulator.serving.dealing import dealt
from simulator.serving.message_links import ALONE, Away, MessageLinks, together
from simulator.serving.pricing import pricing_of
from simulator.serving.token_costs import Part, TokenCosts, layers_of_stage
from simulator.strategies.protocols import BatchShape
from simulator.strategies.rank_layout import RankLayout
from simulator.strategies.serving_protocols import FOREVER
from simulator.strategies.tensor.attention_split import attention_split
from simulator.workload.framework import Framework
from simulator.workload.model import LayerSpec, ModelSpec
from simulator.workload.ops import Collective, OpKind, Work
from simulator.workload.plan import Plan

__all__ = ["TokenWise"]

_PROMPT = 512
"""Tokens of an iteration with prompts whose launches are counted."""


class TokenWise:
    """Token-wise times of one replica, and its shape.

    Parameters
    ----------
    model, plan, framework
        What is served and how.
    node, fabric
        Where.
    max_tokens
        Token budget of an iteration.
    scale
        Factors on constants by id.
    queries
        Tokens per decoding sequence and iteration.

    Attributes
    ----------
    links
        What messages between domains meet there.
    """

    def __init__(
        self, model: ModelSpec, plan: Plan, framework: Framework, node: Node, fabric: Fabric, max_tokens: int,
        scale: Mapping[str, float] | None, queries: int,
    ) -> None:  # fmt: skip
        self.model, self.plan, self.framework, self.node, self.fabric = model, plan, framework, node, fabric
        self.scale, self.queries = dict(scale or {}), queries
        self._pricing = pricing_of(model, plan, framework, node, fabric, self.scale)
        self.device, self.network = self._pricing.device, self._pricing.network
        self.layout = RankLayout(plan, node)
        self.split = attention_split(plan)
        self.stages = plan.pipeline_parallel
        self.ranks = plan.data_parallel
        self.costs = TokenCosts(model, plan, framework, self._pricing, self.layout, max_tokens)
        self.links = ALONE
        self._linear_memo: dict[tuple[int, int, int, bool], float] = {}
        self.used = self.costs.used

    def on_links(self, links: MessageLinks) -> None:
        """From now on messages between domains meet this."""
        self.links = self.costs.links = links
        self._linear_memo.clear()

    # -- shape -----------------------------------------------------------------------------------------------------

    @cached_property
    def layers_of_stage(self) -> list[Counter[LayerSpec]]:
        """Distinct layers of every pipeline stage with their counts."""
        return [Counter(layers) for layers in layers_of_stage(self.model, self.stages)]

    def local(self, batch: BatchShape) -> BatchShape:
        """What the fullest data-parallel rank computes of ``batch``."""
        return dealt(batch, self.ranks)

    def attended(self, mine: BatchShape) -> BatchShape:
        """What a rank attends of its data-parallel rank's batch."""
        return dealt(mine, self.split.sequences)

    def tokens(self, batch: BatchShape) -> int:
        """Tokens of a rank's batch that pass through the linear layers."""
        tokens = batch.decodes * self.queries
        for chunk, _ in batch.prefill:
            tokens += chunk
        return tokens

    def rows(self, batch: BatchShape) -> int:
        """Rows that reach the head: every query token of a decode, the last token of every chunk (as vLLM V1 does for
        chunks that do not end a prompt, too)."""
        return batch.decodes * self.queries + len(batch.prefill)

    # -- token-wise part ---------------------------------------------------------------------------------------------

    def _captured(self, tokens: int, mixed: bool) -> bool:
        """Whether an iteration is replayed from a CUDA graph and so padded to a captured size."""
        framework = self.framework
        if not framework.cuda_graphs or tokens > framework.cuda_graph_max_tokens:
            return False
        return framework.cuda_graph_batches == "all" or not mixed

    @cached_property
    def _captured_sizes(self) -> tuple[int, int]:
        """Most tokens of an iteration with prompts, and most sequences of one without, that CUDA graphs replay."""
        if not self.framework.cuda_graphs or 0 < self.framework.cuda_graph_stages < self.stages:
            return 0, 0
        tokens = self._captured(0, True) and self.framework.cuda_graph_max_tokens
        ranks = self.plan.tensor_parallel * self.plan.data_parallel
        return int(tokens), self.framework.graph_sequences(ranks) or FOREVER

    def _launches(self, stage: int, tokens: int, decodes: int, mixed: bool) -> float:
        """Host seconds in which a stage is launched: kernel by kernel, or piece by piece; 0 where one graph is all."""
        alone, prompts, pieces = self._launching[stage]
        if mixed:
            return prompts if tokens > self._captured_sizes[0] else pieces
        return alone if decodes > self._captured_sizes[1] else 0.0

    def linear_seconds(self, stage: int, tokens: int, rows: int, mixed: bool = False) -> float:
        """Token-wise device seconds of a stage; ``rows`` reach the head; ``mixed``: the batch has prompts."""
        last = stage == self.stages - 1
        key = (stage, tokens, rows if last else 0, mixed)
        known = self._linear_memo.get(key)
        if known is None:
            total = self._body_seconds(stage, tokens, mixed)
            total += self._head_seconds(rows) if last else self._send_seconds(tokens)
            known = self._linear_memo[key] = total + self.layer_gaps(stage)
        return known

    def _body_seconds(self, stage: int, tokens: int, mixed: bool) -> float:
        costs, captured = self.costs, self._captured(tokens, mixed)
        total = sum(
            count * costs.seconds(layer, tokens, captured=captured)
            for layer, count in self.layers_of_stage[stage].items()
        )
        return total + costs.seconds("embedding", tokens, captured=captured) if stage == 0 else total

    def _head_seconds(self, rows: int) -> float:
        return self.costs.seconds("head", rows, captured=False)

    def _send_seconds(self, tokens: int) -> float:
        sent = self._sent(tokens)
        return sent.seconds + (self.links.added((sent,)) if self._stages_away else 0.0)

    def _sent(self, tokens: int) -> Away:
        """What a rank sends to the next stage."""
        width = 4.0 if self.framework.operators_apart else 2.0
        message, name = tokens * self.model.hidden_size * width, Collective.SEND_RECV.value
        work = Work(OpKind.P2P, "bf16", collective=name, message=message, axis="pp", ranks=2)
        return Away("pp", name, message, self.network.price(work, self.layout.neighbour("pp")).seconds)

    @cached_property
    def _stages_away(self) -> bool:
        """Whether neighbouring stages lie in different scale-up domains."""
        return self.stages > 1 and not self.layout.inside_domain(self.layout.neighbour("pp"))

    def away(self, batch: BatchShape) -> tuple[Away, ...]:
        """What an iteration sends between domains, of the stage that sends most; seconds as if alone on its links."""
        mine, mixed = self.local(batch), bool(batch.prefill)
        tokens, most = self.tokens(mine), dict[tuple[str, str], Away]()
        captured = self._captured(tokens, mixed)
        for stage, layers in enumerate(self.layers_of_stage):
            parts: list[tuple[Part, int, int, bool]] = [(layer, n, tokens, captured) for layer, n in layers.items()]
            if stage == 0:
                parts.append(("embedding", 1, tokens, captured))
            if stage == self.stages - 1:
                parts.append(("head", 1, self.rows(mine), False))
            found = [
                one._replace(size=count * one.size, seconds=count * self.links.alone(one))
                for part, count, size, padded in parts
                for one in self.costs.away(part, size, captured=padded)
            ]
            if self._stages_away and stage < self.stages - 1:
                sent = self._sent(tokens)
                found.append(sent._replace(seconds=self.links.alone(sent)))
            for one in together(found):
                known = most.get((one.axis, one.collective))
                if known is None or one.size > known.size:
                    most[one.axis, one.collective] = one
        return tuple(most.values())

    def kernels(self, tokens: int) -> list[int]:
        """Kernels that the engine launches in every stage for so many tokens."""
        count = {layer: self.costs.kernels(layer, tokens) for layers in self.layers_of_stage for layer in layers}
        return [sum(number * count[layer] for layer, number in layers.items()) for layers in self.layers_of_stage]

    def _stage_launches(self, stage: int, tokens: int) -> int:
        return self.costs.stage_launches(self.layers_of_stage, stage, tokens)

    def layer_gaps(self, stage: int) -> float:
        """Host seconds that every layer of a stage costs beyond its kernels."""
        return self._constant("host_per_layer") * sum(self.layers_of_stage[stage].values())

    def _constant(self, key: str) -> float:
        constant = self.framework.constants.get(key)
        if constant is None:
            return 0.0
        self.used.add(constant.id)
        return constant.value * self.scale.get(constant.id, 1.0)

    @cached_property
    def _launching(self) -> list[tuple[float, float, float]]:
        """Host seconds to launch every kernel of each stage one by one: of decodes alone, and with prompts; and to
        replay one with prompts in pieces, between which attention is launched as ever."""
        speed, found = self.node.host_speed, list[tuple[float, float, float]]()
        each, prompts = self._constant("host_per_launch") / speed, self._constant("host_per_prompt_layer") / speed
        latent = self._constant("host_per_latent_layer") / speed
        experts = self._constant("host_per_expert_layer") / speed
        unpacked = self._constant("host_per_unpacked_expert_layer") / speed
        for stage, layers in enumerate(self.layers_of_stage):
            mixers = [(layer.attention, n) for layer, n in layers.items() if layer.attention]
            waits = latent * sum(n for attention, n in mixers if attention.kind == "latent")
            between = waits + prompts * sum(n for _, n in mixers)
            mixtures = [(layer, n) for layer, n in layers.items() if layer.mlp and layer.mlp.num_experts]
            waits += experts * sum(n for _, n in mixtures)
            waits += unpacked and unpacked * sum(n for layer, n in mixtures if self.costs.unpacks(layer))
            decodes, mixed = (each and each * self._stage_launches(stage, tokens) for tokens in (1, _PROMPT))
            pieces = each and each * sum(n * self.costs.pieces(layer, _PROMPT) for layer, n in layers.items())
            found.append((decodes + waits, mixed + waits + prompts * sum(n for _, n in mixers), pieces + between))
        return found

    @cached_property
    def _exposed(self) -> float:
        """Share of the shorter of launches and kernels that does not pass under the longer."""
        return self._constant("launch_exposed")
