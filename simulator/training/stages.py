"""A training job cut into pipeline stages: which compiled blocks every model chunk holds.

A model is lowered once per distinct layer and compiled once per plan; the stages only count how often each
compiled block occurs, which is what makes a step of a trillion parameters cheap to price.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from simulator.strategies.compile import compile_block
from simulator.strategies.pipeline.choice import schedule_of
from simulator.strategies.pipeline.partition import partition_layers
from simulator.workload.autodiff import differentiate
from simulator.workload.framework import Framework
from simulator.workload.jobs import TrainingJob
from simulator.workload.lowering import LoweringContext, lower_embedding, lower_head, lower_layer
from simulator.workload.lowering_prediction import lower_prediction
from simulator.workload.model import ModelSpec
from simulator.workload.ops import Block, Mesh, Op, OpKind, Tensor, TensorClass
from simulator.workload.plan import Plan

__all__ = [
    "Chunk", "compiled_layers", "counted_ends", "cut_into_chunks", "layer_count", "layers_per_stage",
    "prediction_modules", "too_many_stages",
]  # fmt: skip


@dataclass(frozen=True)
class Chunk:
    """One virtual stage: compiled blocks in model order, equal neighbours counted together."""

    position: int
    blocks: tuple[tuple[Block, int], ...]

    @cached_property
    def content(self) -> tuple[tuple[int, int], ...]:
        """What it holds, by identity of the compiled blocks: chunks of equal content cost and need the same."""
        return tuple((id(block), count) for block, count in self.blocks)

    @property
    def layer_count(self) -> int:
        """Number of transformer layers it holds."""
        return sum(count for block, count in self.blocks if block.takes_place)


@dataclass(frozen=True)
class _Tower:
    """A stack of layers that runs on its own token count: the backbone, an encoder, a vision tower."""

    model: ModelSpec
    sequence: int
    encoder_sequence: int = 0
    embedded: bool = True
    headed: bool = True


def _towers(model: ModelSpec, sequence: int) -> list[_Tower]:
    """Stacks in execution order. An encoder-decoder pair splits the sequence evenly between its two halves."""
    stacks = [_Tower(t, t.patch.tokens if t.patch else sequence, headed=False) for t in model.towers]
    if model.encoder is not None:
        stacks.append(_Tower(model.encoder, sequence, headed=False))
        stacks.append(_Tower(model, sequence, encoder_sequence=sequence))
    elif model.patch is not None:
        stacks.append(_Tower(model, model.patch.tokens + model.patch.class_tokens))
    else:
        stacks.append(_Tower(model, sequence))
    return stacks


def compiled_layers(job: TrainingJob) -> tuple[Block, ...]:
    """Every block of the model in execution order: embeddings, layers, head; equal layers are the same object."""
    return _compiled(job.model, job.framework, job.plan, job.batch.micro_batch_size, job.batch.sequence_length)


@lru_cache(maxsize=256)
def _compiled(model: ModelSpec, framework: Framework, plan: Plan, micro_batch: int, sequence: int) -> tuple[Block, ...]:
    blocks: list[Block] = []
    # 16-bit tensors are lowered as bf16; the precision recipe retypes them and adds what accumulates them.
    produced = "bf16" if framework.keeps_half_gradients else framework.gradient_dtype
    for tower in _towers(model, sequence):
        # Whole sequences: context parallelism is a pass that cuts them, so attention knows all its keys.
        ctx = LoweringContext(tower.model, micro_batch, tower.sequence, True, framework, tower.encoder_sequence)

        def compiled(block: Block) -> Block:
            whole = differentiate(block, produced, fused_sums=framework.recomputes_elementwise)
            return compile_block(whole, plan, framework)

        if tower.embedded:
            embedding = compiled(lower_embedding(ctx))
            if embedding.forward:
                blocks.append(embedding)
        for layer, count in tower.model.layers:
            block = compiled(lower_layer(layer, ctx))
            blocks += [block] * count
        if tower.headed:
            head = compiled(lower_head(ctx))
            if head.forward:
                blocks.append(head)
            if count := prediction_modules(tower.model, plan):
                behind = replace(compiled(lower_layer(tower.model.layers[-1][0], ctx)), dealt=False)
                blocks += (_sharing(compiled(lower_prediction(ctx)), plan), behind, _headless(head)) * count
    return tuple(blocks)


def prediction_modules(model: ModelSpec, plan: Plan) -> int:
    """Modules for multi-token prediction that are trained."""
    return int(str(plan.option("mtp_num_layers", model.num_nextn_predict_layers)))


def _sharing(module: Block, plan: Plan) -> Block:
    """The module with the embedding's table as its own state where the embedding is on other ranks.

    Frameworks then keep a second copy, as a tied head does. One rank has both without a pipeline, and where a schedule
    keeps two model chunks on a rank (DualPipe: arXiv 2412.19437 section 3.2.3).
    """
    ranks = plan.pipeline_parallel
    together = ranks == 1 or schedule_of(plan).traits().weight_copies > 1
    return _without_states(module, "embedding.") if together else module


def _headless(head: Block) -> Block:
    """The head's Ops once more: its matrix is the main model's, the norm in front of it the module's own."""
    return _without_states(head, "head.", "embedding.")


def _without_states(block: Block, *prefixes: str) -> Block:
    """``block`` whose tensors with these names are another block's: neither kept nor exchanged a second time."""

    def own(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(t for t in tensors if not t.name.startswith(prefixes))

    def exchanged(ops: tuple[Op, ...]) -> tuple[Op, ...]:
        kept = (replace(op, reads=own(op.reads), writes=own(op.writes)) for op in ops)
        return tuple(op for op in kept if op.reads)

    return replace(
        block,
        states=own(block.states),
        reduce=exchanged(block.reduce),
        reduce_each=exchanged(block.reduce_each),
        publish=exchanged(block.publish),
    )


def layer_count(model: ModelSpec) -> int:
    """Transformer layers of all its stacks, in the sense in which stages count them."""
    return sum(count for tower in _towers(model, 1) for _, count in tower.model.layers)


def counted_ends(plan: Plan, modules: int = 0) -> tuple[int, int]:
    """Places of layers that what stands before and behind them takes when layers are dealt out.

    Options ``account_for_embedding_in_pipeline_split`` and ``account_for_loss_in_pipeline_split``, as in Megatron-LM,
    count the embedding and the head as a layer; ``account_for_mtp_in_pipeline_split`` each of the ``modules`` for
    multi-token prediction.
    """
    first, head, module = (
        int(plan.option(f"account_for_{what}_in_pipeline_split", False) is True)
        for what in ("embedding", "loss", "mtp")
    )
    return first, head + module * modules


def too_many_stages(model: ModelSpec, plan: Plan) -> str:
    """Why the layers do not fill the plan's stages, or an empty string."""
    first, last = counted_ends(plan, prediction_modules(model, plan))
    layers, chunks = model.num_hidden_layers + first + last, plan.pipeline_parallel * plan.virtual_stages
    if layers >= chunks * max(1, first, last):
        return ""
    reason = f"{plan.pipeline_parallel} stages × {plan.virtual_stages} chunks are more than the {layers} layers"
    return reason + (f" where one stage gives {last} places to what is behind them" if last > 1 else "")


def _named_layers(plan: Plan, stages: int, positions: Sequence[Sequence[int]]) -> list[int]:
    """Layers of every virtual stage as a plan with stages of its own names them; ``positions`` by rank and chunk."""
    own = [0] * stages
    for stage, where in zip(plan.stages, positions, strict=True):
        for position, count in zip(where, stage.layers, strict=False):  # a partner's stages come after its own
            own[position] = count
    return own


def layers_per_stage(
    plan: Plan, framework: Framework, blocks: Sequence[Block], stages: int, positions: Sequence[Sequence[int]] = ()
) -> list[int]:
    """Layers of every virtual stage, dealt out as the framework does.

    The first and the last have less where embedding, head and prediction modules count as layers. A plan with stages
    of its own names them; it needs ``positions``, the virtual stages of each rank by chunk.
    """
    if plan.stages:
        return _named_layers(plan, stages, positions)
    first, last = counted_ends(plan, sum(block.name == "prediction" for block in blocks))
    places = [index for index, block in enumerate(blocks) if block.takes_place]
    if framework.pipeline_split == "share" and not (first or last) and stages > 1:
        sizes = {id(block): _matrix_elements(block, plan.mesh) for block in blocks}
        costs, tail = [sizes[id(blocks[i])] for i in places], sum(sizes[id(b)] for b in blocks[places[-1] + 1 :])
        return partition_layers(costs, stages, method="share", tail=tail)
    dealt = partition_layers(len(places) + first + last, stages)
    dealt[0] -= first
    dealt[-1] -= last
    return dealt


def _matrix_elements(block: Block, mesh: Mesh) -> float:
    """Elements of the matrices that a block multiplies with: a measure of its computation."""
    gemms = (op for op in block.forward if op.kind in (OpKind.GEMM, OpKind.GROUPED_GEMM))
    return float(sum(t.elements(mesh) for op in gemms for t in op.reads if t.cls is TensorClass.PARAM))


def cut_into_chunks(blocks: Sequence[Block], layers_per_chunk: Sequence[int]) -> tuple[Chunk, ...]:
    """Virtual stages with the given numbers of layers; other blocks stay with the layer they precede or follow.

    A stage without layers holds what comes before the first layer, or after the last one.
    """
    chunks: list[Chunk] = []
    position, held = 0, list[Block]()
    wanted = list(layers_per_chunk)
    room = wanted[0]
    for index, block in enumerate(blocks):
        ends = block.takes_place or (position + 2 == len(wanted) and wanted[-1] == 0)
        if ends and room == 0 and held:
            chunks.append(Chunk(position, _run_lengths(held)))
            position, held = position + 1, []
            room = wanted[position]
        held.append(block)
        room -= block.takes_place
        if index == len(blocks) - 1:
            chunks.append(Chunk(position, _run_lengths(held)))
    return tuple(chunks)


def _run_lengths(blocks: Sequence[Block]) -> tuple[tuple[Block, int], ...]:
    runs: list[tuple[Block, int]] = []
    for block in blocks:
        if runs and runs[-1][0] is block:
            runs[-1] = (block, runs[-1][1] + 1)
        else:
            runs.append((block, 1))
    return tuple(runs)
